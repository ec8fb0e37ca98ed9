"""The table of backbones under several splits."""

import json

from exp import split_table
from tests.conftest import call_script


def write(folder, split, **top1):
    where = folder / split / "embeddings"
    where.mkdir(parents=True)
    rows = [
        {"name": name, "top1": value, "intervals": {"top1": [value - 0.1, value + 0.1]}} for name, value in top1.items()
    ]
    (where / "table.json").write_text(json.dumps(rows))


def test_splits_of_one_backbone_are_in_consecutive_rows(tmp_path):
    write(tmp_path, "block", random=0.25, ours=0.5)
    write(tmp_path, "image", random=0.5, ours=0.875)
    ran = call_script("exp/split_table.py", tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert (tmp_path / "splits.md").read_text().splitlines()[2:] == [
        "| random, image | 0.500 [0.40 0.60] |",
        "| random, block | 0.250 [0.15 0.35] |",
        "| ours, image | 0.875 [0.78 0.97] |",
        "| ours, block | 0.500 [0.40 0.60] |",
    ]
    assert list(split_table.read_results(tmp_path)) == ["random, image", "random, block", "ours, image", "ours, block"]


def test_a_damaged_table_is_listed_and_left_out(tmp_path, capsys):
    write(tmp_path, "block", random=0.25)
    write(tmp_path, "image", random=0.5)
    (tmp_path / "image" / "embeddings" / "table.json").write_text("[{")
    assert list(split_table.read_results(tmp_path)) == ["random, block"]
    assert f"unreadable: {tmp_path / 'image' / 'embeddings' / 'table.json'}: " in capsys.readouterr().err


def test_a_folder_without_results_is_refused(tmp_path):
    ran = call_script("exp/split_table.py", tmp_path)
    assert ran.returncode == 1 and "evaluate_embeddings.py writes them" in ran.stderr
    assert "Traceback" not in ran.stderr
