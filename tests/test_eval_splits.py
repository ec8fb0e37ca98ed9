"""Who is learnt from and who is judged: AOIs as classes, parted by patch or month, or by lists of both formats."""

import numpy as np
import pytest

from vicreg.data.sn7 import SN7Patches
from vicreg.eval.splits import aoi_retrieval_split, retrieval_split, seen_unseen_split, train_val_split

AOI, OTHER = "L15-0331E-1257N_1327_3160_13", "L15-1014E-1375N_4056_2688_13"


def write_first_version(path, rows):
    """Write a list without header: rows of (patch, AOI, month)."""
    lines = [f"{patch}!global_monthly_2018_{month:02d}_mosaic_{aoi}.tif,Town,State,5" for patch, aoi, month in rows]
    path.write_text("\n".join(lines) + "\n")
    return path


def test_the_validation_list_is_judged_and_its_places_are_known(sn7_prepared):
    train, val = (SN7Patches(sn7_prepared / f"{part}.csv") for part in ("train", "val"))
    protocol = train_val_split(train, val)
    assert protocol.train.labels.tolist() == train.labels.tolist() and len(protocol.test.indices) == len(val)
    assert len(np.unique(protocol.test.location_ids)) == 4 * 4  # the same quadrant of four AOIs


def test_lists_of_other_classes_are_refused(sn7_prepared):
    train, val = (SN7Patches(sn7_prepared / f"{part}.csv") for part in ("train", "val"))
    val.classes = val.classes[1:]
    with pytest.raises(ValueError, match="same classes"):
        train_val_split(train, val)


@pytest.mark.parametrize(("split", "shared"), [("patches", 0), ("mosaics", 100)])
def test_every_aoi_is_a_class_and_parted(sn7_prepared, split, shared):
    protocol = aoi_retrieval_split(sn7_prepared, split)
    table = protocol.train.dataset.table
    assert protocol.classes == sorted(set(table.aoi)) and len(protocol.classes) == 4
    assert sorted([*protocol.train.indices, *protocol.test.indices]) == list(range(len(table)))
    for part in (protocol.train, protocol.test):
        assert [protocol.classes[label] for label in part.labels] == table.aoi.iloc[part.indices].tolist()
    assert f"{shared}% of the unseen" in protocol.description
    again, other = aoi_retrieval_split(sn7_prepared, split), aoi_retrieval_split(sn7_prepared, split, seed=1)
    assert np.array_equal(again.train.indices, protocol.train.indices)
    assert not np.array_equal(other.train.indices, protocol.train.indices)


def test_lists_of_the_first_version_and_of_today_go_together(sn7_prepared, tmp_path):
    seen = write_first_version(tmp_path / "seen.csv", [(0, OTHER, 1), (0, AOI, 1), (3, AOI, 2)])
    unseen = write_first_version(tmp_path / "unseen.csv", [(3, AOI, 1), (1, OTHER, 2)])
    protocol = seen_unseen_split(seen, unseen, sn7_prepared.parent / "train")
    assert protocol.classes == [AOI, OTHER]
    assert protocol.train.labels.tolist() == [1, 0, 0] and protocol.test.labels.tolist() == [0, 1]
    assert (
        protocol.test.location_ids[0] == protocol.train.location_ids[2] and "50% of the unseen" in protocol.description
    )
    assert protocol.test.dataset.images([0]).shape == (1, 3, 8, 8)
    mixed = seen_unseen_split(sn7_prepared / "train.csv", unseen, sn7_prepared.parent / "train")
    assert len(mixed.classes) == 4 and mixed.test.labels.tolist() == [0, 1]


def test_an_unseen_aoi_without_seen_samples_is_refused(sn7_prepared, tmp_path):
    seen = write_first_version(tmp_path / "seen.csv", [(0, AOI, 1)])
    unseen = write_first_version(tmp_path / "unseen.csv", [(0, AOI, 2), (0, OTHER, 1)])
    with pytest.raises(ValueError, match=rf"unseen.csv: 1 AOIs that .*seen.csv does not have \({OTHER}\)"):
        seen_unseen_split(seen, unseen, sn7_prepared.parent / "train")


def test_half_a_second_protocol_is_refused(tmp_path):
    assert retrieval_split() is None
    for given in (
        {"seen": tmp_path},
        {"unseen": tmp_path},
        {"csv_dir": tmp_path, "seen": tmp_path, "unseen": tmp_path},
    ):
        with pytest.raises(ValueError, match="--seen and --unseen together"):
            retrieval_split(**given)


def test_retrieval_split_takes_a_folder_alone(sn7_prepared):
    found, expected = retrieval_split(sn7_prepared), aoi_retrieval_split(sn7_prepared)
    assert found is not None and (found.classes, found.description) == (expected.classes, expected.description)
    assert np.array_equal(found.train.indices, expected.train.indices)  # drawn with the same seed
