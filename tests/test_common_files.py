"""Files take their name when they are whole, or not at all."""

import pytest

from vicreg.common import files


def test_a_file_takes_its_name_when_it_is_whole_and_keeps_its_ending_before(tmp_path):
    path, seen = tmp_path / "a.b.tif", []

    def save(beside):
        seen.append(beside)
        beside.write_bytes(b"new")
        assert not path.exists()
        return 7

    assert files.atomic_write(path, save) == 7
    assert path.read_bytes() == b"new" and [entry.name for entry in tmp_path.iterdir()] == ["a.b.tif"]
    assert seen[0].parent == tmp_path and seen[0].suffix == ".tif" and seen[0].name.startswith(".")


def test_a_writer_that_fails_leaves_the_old_file_and_nothing_beside_it(tmp_path):
    path = tmp_path / "table.csv"
    files.write_text(path, "old ü")

    def save(beside):
        beside.write_text("half")
        raise OSError("no space")

    with pytest.raises(OSError, match="no space"):
        files.atomic_write(path, save)
    assert path.read_text(encoding="utf-8") == "old ü" and len(list(tmp_path.iterdir())) == 1
