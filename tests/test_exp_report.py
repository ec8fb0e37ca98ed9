"""The report reads the results of every task."""

import json

from exp import report


def write(folder, name, **found):
    (folder / name).mkdir(parents=True)
    (folder / name / "result.json").write_text(json.dumps(found))


def test_classification_segmentation_and_detection_stand_in_one_table(tmp_path, run_script):
    write(tmp_path, "eurosat", source="VICReg", top1=0.5, top5=0.75)
    write(tmp_path, "flood", source="VICReg", mean_iou=0.25)
    write(tmp_path, "crowdai", backbone={"source": "random"}, val={"box": {"AP": 0.125}})
    table = report.evaluations([tmp_path]).set_index("evaluation")
    assert table.columns.tolist() == ["backbone", "top1", "top5", "mean_iou", "box AP"]
    assert table.loc[str(tmp_path / "eurosat")].tolist()[:3] == ["VICReg", 0.5, 0.75]
    assert table.loc[str(tmp_path / "flood"), "mean_iou"] == 0.25
    assert table.loc[str(tmp_path / "crowdai"), ["backbone", "box AP"]].tolist() == ["random", 0.125]
    ran = run_script("exp/report.py", tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert "0.125" in ran.stdout and (tmp_path / "report.html").is_file()
