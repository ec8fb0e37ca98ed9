"""Losses and final weights of the training scripts, compared with the committed record."""

import copy
import json

import pytest

from tests import golden_trajectories as golden

RECORD = golden.ROOT / "tests" / "golden" / "trajectories.json"


@pytest.fixture(scope="session")
def record():
    """The committed record."""
    return json.loads(RECORD.read_text())


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """Inputs of all runs; do not write into them."""
    return golden.make_data(tmp_path_factory.mktemp("golden"))


@pytest.mark.slow
@pytest.mark.parametrize("name", golden.RUNS)
def test_run_repeats_recorded_losses(name, record, data, tmp_path):
    if others := golden.other_libraries(name, record):
        pytest.skip(f"{', '.join(others)} of the installed libraries differ from the record's")
    found = golden.run(name, data, tmp_path / name)
    exact = record["machine"] == golden.machine()
    assert golden.difference(record["runs"][name], found, exact) is None


def test_difference_names_the_first_step_and_sees_the_last_decimal(record):
    recorded = record["runs"]["vicreg_sn7_same"]
    assert golden.difference(recorded, recorded, True) is None
    changed = copy.deepcopy(recorded)
    changed["terms"]["loss"][6] += 1e-6
    assert golden.difference(recorded, changed, True).startswith("step 7: loss ")
    assert golden.difference(recorded, changed, False) is None
    changed["terms"]["loss"][6] *= 1.001
    assert golden.difference(recorded, changed, False).startswith("step 7: loss ")
    assert "final weights differ" in golden.difference(recorded, recorded | {"weights": "0"}, True)


def test_renamed_terms_are_left_out_and_the_loss_is_required(record):
    recorded = record["runs"]["vicreg_sn7_same"]
    renamed = {f"{key}_renamed" if key != "loss" else key: values for key, values in recorded["terms"].items()}
    assert golden.difference(recorded, recorded | {"terms": renamed}, True) is None
    del renamed["loss"]
    with pytest.raises(KeyError, match="loss"):
        golden.difference(recorded, recorded | {"terms": renamed}, True)
