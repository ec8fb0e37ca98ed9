"""The precision of training: chosen from a measurement on a CPU, once for all processes and for the whole run."""

import json

import pytest
import torch

from tests.test_engine_pretrain import train
from vicreg import distributed
from vicreg.engine import precision
from vicreg.engine.precision import choose_bf16, measure_precisions, use_bf16

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture
def measured(monkeypatch):
    """Function (fp32, bf16) that sets the seconds to be measured; returns the list of measurements made."""
    calls = []

    def inject(fp32, bf16):
        monkeypatch.setattr(precision, "measure_precisions", lambda: calls.append(1) or (fp32, bf16))
        return calls

    return inject


@pytest.mark.parametrize(("capability", "bf16"), [((7, 5), False), ((8, 0), True), ((9, 0), True)])
def test_bf16_is_chosen_for_gpus_that_compute_in_it(monkeypatch, measured, capability, bf16):
    calls = measured(1.0, 0.1)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert use_bf16("auto", CUDA) is choose_bf16("auto", CUDA, 1000, not bf16) is bf16
    assert use_bf16("bf16", CUDA) and not use_bf16("fp32", CUDA)
    assert not use_bf16("auto", CPU) and calls == []


@pytest.mark.parametrize(("fp32", "bf16", "chosen"), [(0.2, 0.1, True), (0.115, 0.1, True), (0.11, 0.1, False)])
def test_cpu_uses_bf16_if_it_is_clearly_faster_and_both_times_are_logged(measured, capsys, fp32, bf16, chosen):
    measured(fp32, bf16)
    assert choose_bf16("auto", CPU, 100) is chosen
    assert capsys.readouterr().out == (
        f"--precision auto: {1000 * fp32:.1f} ms in fp32 and 100.0 ms in bf16 for some layers on one core of this CPU; "
        f"{'bf16' if chosen else 'fp32'} is used\n"
    )


@pytest.mark.parametrize(("asked", "steps", "saved", "side", "chosen"), [
    ("bf16", 1000, None, 16, True), ("fp32", 1000, None, 64, False), ("fp32", 1000, True, 64, False),
    ("bf16", 9, False, 64, True), ("auto", 99, None, 64, False), ("auto", 1000, None, 31, False),
    ("auto", 1000, True, 64, True), ("auto", 1000, False, 64, False),
    ("auto", 1000, True, 28, False),
])  # fmt: skip
def test_cpu_is_measured_only_where_it_can_choose(measured, asked, steps, saved, side, chosen):
    """Not for short or resumed runs, small images, or a given precision."""
    calls = measured(1.0, 0.1)
    assert choose_bf16(asked, CPU, steps, saved, side) is chosen and calls == []


def test_all_ranks_take_the_choice_of_rank_0(measured, monkeypatch):
    """Rank 1 measures nothing, and adds 0 to the sum over the ranks."""
    calls, parts = measured(1.0, 0.1), []
    monkeypatch.setattr(distributed, "is_main", lambda: False)
    monkeypatch.setattr(distributed, "all_reduce", lambda tensor: parts.append(float(tensor)) or tensor + 1)
    assert choose_bf16("auto", CPU, 100) is True
    assert calls == [] and parts == [0.0]


def test_measurement_takes_positive_times_one_thread_and_no_random_numbers(monkeypatch):
    monkeypatch.setattr(precision, "_SECONDS", 0.0)
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    seen: list[int] = []
    linear = torch.nn.functional.linear
    monkeypatch.setattr(
        torch.nn.functional, "linear", lambda *args: seen.append(torch.get_num_threads()) or linear(*args)
    )
    torch.set_num_threads(2)
    try:
        assert all(0 < seconds < 60 for seconds in measure_precisions())
        assert set(seen) == {1} and torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(torch.get_rng_state(), state)


def test_resumed_run_keeps_its_precision(tmp_path, measured, monkeypatch):
    """A run that was started in bf16 resumes in it, although fp32 is now measured to be faster."""
    monkeypatch.setattr(precision, "MIN_STEPS", 3)
    calls = measured(1.0, 0.1)
    train(tmp_path, max_steps=3, probe_every=0, image_size=32)
    assert len(calls) == 1
    measured(0.1, 1.0)
    state = train(tmp_path, max_steps=4, probe_every=0, image_size=32)
    assert state["step"] == 4 and state["bf16"] is True and len(calls) == 1
    assert json.loads((tmp_path / "config.json").read_text())["plan"]["bf16"] is True
