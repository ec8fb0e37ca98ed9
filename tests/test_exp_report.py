"""The report reads the results of every task, and lists what it cannot read."""

import json

import pytest

from exp import report


def write(folder, name, **result):
    (folder / name).mkdir(parents=True)
    (folder / name / "result.json").write_text(json.dumps(result))


def write_run(folder, config_file="config.json", **terms):
    """Write the log of a pretraining run of two lines."""
    folder.mkdir(parents=True)
    plan = {"source": "SN7", "batch_size": 64, "steps": 20}
    (folder / config_file).write_text(json.dumps({"plan": plan}))
    lines = [
        {"step": step, "loss": 30.0 - step, "pairs_per_second": 5.0, "data_time": 0.25, **terms} for step in (1, 2)
    ]
    lines.append({"step": 2, "knn20_top1": 0.5})
    (folder / "stats.txt").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_classification_segmentation_and_detection_are_in_one_table(tmp_path, run_script):
    write(tmp_path, "eurosat", source="VICReg", top1=0.5, top5=0.75)
    write(tmp_path, "flood", source="VICReg", mean_iou=0.25)
    write(tmp_path, "crowdai", backbone={"source": "random"}, val={"box": {"AP": 0.125}})
    table = report.evaluations([tmp_path], []).set_index("evaluation")
    assert table.columns.tolist() == ["backbone", "top1", "top5", "mean_iou", "box AP"]
    assert table.loc[str(tmp_path / "eurosat")].tolist()[:3] == ["VICReg", 0.5, 0.75]
    assert table.loc[str(tmp_path / "flood"), "mean_iou"] == 0.25
    assert table.loc[str(tmp_path / "crowdai"), ["backbone", "box AP"]].tolist() == ["random", 0.125]
    ran = run_script("exp/report.py", tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert "0.125" in ran.stdout and (tmp_path / "report.html").is_file()


@pytest.mark.parametrize("config_file", ["config.json", "args.json"])
def test_runs_of_any_loss_and_of_older_versions_are_read(tmp_path, config_file):
    write_run(tmp_path / "a", config_file, some_loss=2.0, loss_lower_bound=1.5)
    errors = []
    (row,) = report.pretraining_runs([tmp_path], errors).to_dict("records")
    assert errors == [] and (row["data"], row["batch"], row["steps"]) == ("SN7", 64, "2/20")
    assert (row["loss"], row["lower bound"], row["some_loss"], row["kNN-20"]) == (28.0, 1.5, 2.0, 0.5)


def test_damaged_files_are_listed_and_do_not_stop_the_report(tmp_path, run_script):
    write_run(tmp_path / "good", redundancy=3.0)
    (write_run(tmp_path / "bad_config") / "config.json").write_text('{"plan": {"sou')
    write(tmp_path, "eurosat", top1=0.5)
    write(tmp_path, "cut")
    (tmp_path / "cut" / "result.json").write_bytes(b'{"top1": 0.\xff')
    write(tmp_path, "list")
    (tmp_path / "list" / "result.json").write_text("[1]")
    ran = run_script("exp/report.py", tmp_path)
    assert ran.returncode == 0 and "Traceback" not in ran.stderr
    for path in ("bad_config/config.json", "cut/result.json", "list/result.json"):
        assert f"unreadable: {tmp_path / path}: " in ran.stderr
        assert str(tmp_path / path) in (tmp_path / "report.html").read_text()
    assert f"{tmp_path / 'good'}" in ran.stdout and f"{tmp_path / 'bad_config'}" in ran.stdout
    assert (tmp_path / "good" / "curves.png").is_file() and "0.5" in ran.stdout


def test_a_folder_without_runs_is_refused(tmp_path, run_script):
    ran = run_script("exp/report.py", tmp_path)
    assert ran.returncode == 1 and ran.stderr.count("\n") == 1 and "no runs in" in ran.stderr
