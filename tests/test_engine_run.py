"""TrainingRun: updates, log values, output files, and the optimizer's settings after a resume."""

import dataclasses
import math

import pytest
import torch
from torch import nn

from vicreg.common import trackers
from vicreg.common.config import setting
from vicreg.common.logger import MetricLogger, read_stats
from vicreg.engine.checkpoint import check_finite
from vicreg.engine.config import RunConfig, plan_run
from vicreg.engine.optim import build_optimizer
from vicreg.engine.run import TrainingRun
from vicreg.engine.run_folder import RunFolder

CPU = torch.device("cpu")


class Numbers(torch.utils.data.Dataset):
    """Eight numbers."""

    def __len__(self):
        return 8

    def __getitems__(self, keys):
        return torch.tensor([[float(index)] for index, _ in keys])


@dataclasses.dataclass(frozen=True, kw_only=True)
class ToyConfig(RunConfig):
    """Four steps of two samples per epoch."""

    epochs: int = setting(2, compare="length")
    batch_size: int = setting(2)
    lr: float = setting(0.1)
    workers: int = setting(0, compare="ignore")
    device: str = setting("cpu", compare="ignore")


def start(folder, optimizer="sgd", more=None, **changes):
    config = ToyConfig(exp_dir=folder, **changes)
    run_folder = RunFolder(config, "a toy", CPU)
    torch.manual_seed(0)
    model = nn.Linear(1, 1)
    built = build_optimizer(optimizer, model, config.weight_decay, momentum=0.5)
    return TrainingRun(
        config, plan_run(config, 8, CPU, run_folder.batch_size), run_folder, model, built, CPU, **more or {}
    )


def finish(run, stop=None):
    """Train to the end, or leave before the step ``stop``."""
    for step, numbers in run.steps(run.loader(Numbers())):
        if step == stop:
            break
        loss = run.model(numbers).square().mean()
        run.backward(loss)
        run.log({"loss": loss}, weight=run.module.weight[0, 0], twice=lambda: 2.0 * step)  # noqa: B023
    run.close()
    return run


def test_update_follows_the_formula_of_clipped_sgd(tmp_path):
    run = start(tmp_path, grad_clip=0.25)
    weight = run.module.weight.item()
    for _, _ in run.steps(run.loader(Numbers())):
        run.backward(10 * run.module.weight.sum())
        break
    assert run.module.weight.grad.item() == 0.25
    assert run.module.weight.item() == pytest.approx(weight - 0.1 * 0.25)
    run.close()


def test_log_averages_tensors_and_calls_functions_for_a_line(tmp_path):
    calls, lines, weights = [], [], []
    run = start(tmp_path, more={"on_line": lines.append, "constants": {"bound": 1.5}}, log_freq_time=1000)
    for step, numbers in run.steps(run.loader(Numbers())):
        weights.append(run.module.weight.item())
        loss = run.model(numbers).square().mean()
        weight = run.module.weight[0, 0].detach().clone()
        run.backward(loss)
        run.log({"loss": loss}, weight=weight, last=lambda: calls.append(step) or step)  # noqa: B023
    run.close()
    assert calls == [3, 7] == [line["last"] for line in lines]
    assert [line["weight"] for line in lines] == pytest.approx([sum(weights[:4]) / 4, sum(weights[4:]) / 4], abs=1e-5)
    assert all(line["bound"] == 1.5 and line["lr"] == 0.1 for line in lines)
    assert [line["step"] for line in read_stats(tmp_path / "stats.txt")] == [4, 8]


def test_group_scale_multiplies_its_learning_rate(tmp_path):
    run = start(tmp_path)
    run.optimizer.param_groups[1]["scale"] = 0.5
    next(iter(run.steps(run.loader(Numbers()))))
    assert [group["lr"] for group in run.optimizer.param_groups] == pytest.approx([0.1, 0.05])
    run.close()


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_resumed_optimizer_has_its_state_and_the_current_settings(tmp_path, optimizer):
    first = finish(start(tmp_path, optimizer, weight_decay=0.1, checkpoint_every=3), stop=3)
    states = [dict(state) for state in first.optimizer.state.values()]
    second = start(tmp_path, optimizer, weight_decay=0.2)
    assert second.start_step == 3
    assert [group["weight_decay"] for group in second.optimizer.param_groups] == [0.2, 0.0]  # vectors do not decay
    for old, new in zip(states, second.optimizer.state.values(), strict=True):
        assert all(torch.equal(torch.as_tensor(old[key]), torch.as_tensor(new[key])) for key in old)
    second.close()


def test_best_is_the_highest_metric_and_last_the_latest(tmp_path):
    values = iter([0.5, 0.25])
    more = {"validate": lambda: {"top1": next(values), "names": ["not logged"]}, "monitor": "top1"}
    run = finish(start(tmp_path, more=more))
    assert run.last == {"epoch": 1, "step": 8, "top1": 0.25, "names": ["not logged"]}
    assert run.best == {"epoch": 0, "step": 4, "top1": 0.5, "names": ["not logged"]}
    best = torch.load(tmp_path / "best_model.pth", weights_only=True)
    assert best["step"] == 4 and best["best"] == run.best and "optimizer" not in best


def test_an_undefined_metric_is_the_worst(tmp_path):
    values = iter([None, 0.25, None])
    more = {"validate": lambda: {"iou": next(values)}, "monitor": "iou"}
    run = finish(start(tmp_path, more=more, epochs=3))
    assert run.best == {"epoch": 1, "step": 8, "iou": 0.25} and run.last["iou"] is None
    assert ["iou" in line for line in read_stats(tmp_path / "stats.txt")] == [False, True, False]


def test_validation_is_skipped_between_its_epochs(tmp_path):
    calls = []
    more = {"validate": lambda: calls.append(1) or {"top1": 1.0}, "validate_every": 2}
    finish(start(tmp_path, more=more, epochs=5))
    assert [line["step"] for line in read_stats(tmp_path / "stats.txt") if "top1" in line] == [8, 16, 20]


def test_outputs_are_written_before_the_last_checkpoint_and_again_if_missing(tmp_path):
    seen = []

    def write(path):
        seen.append(torch.load(tmp_path / "model.pth", weights_only=True)["step"])
        path.write_text("result")

    for expected in ([4], [4], [4, 8]):  # a whole run, a finished one, a finished one that lacks its file
        run = start(tmp_path)
        run.outputs["result.txt"] = write
        finish(run)
        assert seen == expected and (tmp_path / "result.txt").is_file()
        if run.start_step == 8:
            (tmp_path / "result.txt").unlink()


def test_finished_checkpoint_without_metrics_is_validated_for_its_outputs(tmp_path):
    finish(start(tmp_path))  # as an older version, without last and best
    run = start(tmp_path, more={"validate": lambda: {"top1": 0.5}, "monitor": "top1"})
    run.outputs["result.txt"] = lambda path: path.write_text(str(run.last["top1"]))
    finish(run)
    assert (tmp_path / "result.txt").read_text() == "0.5"


def test_non_finite_loss_is_not_saved(tmp_path):
    run = start(tmp_path, checkpoint_every=1)
    with pytest.raises(FloatingPointError, match="at step 2"):
        for step, numbers in run.steps(run.loader(Numbers())):
            loss = run.model(numbers).square().mean() * (math.nan if step == 2 else 1.0)
            run.backward(loss)
            run.log({"loss": loss})
    assert torch.load(tmp_path / "model.diverged.pth", weights_only=True)["step"] == 2
    run.close()


def test_weights_that_are_not_finite_are_not_saved(tmp_path):
    run = start(tmp_path, checkpoint_every=4)
    run.outputs["result.txt"] = lambda path: path.write_text("result")
    with pytest.raises(FloatingPointError, match="1 weights are not finite after step 8, the first is bias; the last"):
        for step, numbers in run.steps(run.loader(Numbers())):
            loss = run.model(numbers).square().mean()
            loss.backward()
            if step == 7:  # the loss of the last step is finite, its gradient is not
                run.module.bias.grad.fill_(math.nan)
            run.record(loss)
            run.update()
            run.log({"loss": loss})
    assert torch.load(tmp_path / "model.pth", weights_only=True)["step"] == 4
    assert not (tmp_path / "result.txt").exists()
    run.close()


def test_running_statistics_that_are_not_finite_are_not_saved():
    model = nn.BatchNorm1d(2)
    check_finite(model, 1)
    model.running_var[1] = math.inf
    with pytest.raises(FloatingPointError, match="1 weights are not finite after step 3, the first is running_var"):
        check_finite(model, 3)


def test_a_tracker_that_fails_ends_no_run(tmp_path, monkeypatch, capsys):
    class Broken(trackers.Tracker):
        def log(self, numbers, step):
            raise ConnectionError("no server")

    monkeypatch.setattr(trackers, "start_tracker", lambda name, *arguments: Broken(*arguments))
    finish(start(tmp_path))
    assert capsys.readouterr().out.count("the tracker failed and gets no more values") == 1
    assert read_stats(tmp_path / "stats.txt")[-1]["step"] == 8


def test_longer_run_continues_a_finished_one(tmp_path, capsys):
    finish(start(tmp_path))
    run = finish(start(tmp_path, epochs=3))
    assert run.start_step == 8 and "note: --epochs was 2 when this run started and is 3 now" in capsys.readouterr().out
    assert torch.load(tmp_path / "model.pth", weights_only=True)["step"] == 12


def test_shorter_run_than_what_is_done_is_refused_and_leaves_the_folder(tmp_path):
    finish(start(tmp_path))
    before = {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    with pytest.raises(ValueError, match="holds a run at step 8, beyond the 4 steps asked for; raise --epochs"):
        start(tmp_path, epochs=1)
    assert {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before


def test_log_line_in_time_is_written_one_step_after_it_is_due_and_not_twice(tmp_path, monkeypatch):
    monkeypatch.setattr(MetricLogger, "seconds", property(lambda self: 5.0 * (self._count + 1)))
    finish(start(tmp_path, epochs=1, batch_size=1, log_freq_time=8.0))
    assert [line["step"] for line in read_stats(tmp_path / "stats.txt")] == [3, 6, 8]


def test_run_with_other_data_is_refused(tmp_path):
    run = start(tmp_path, more={"describe": lambda step: {"data": {"samples": "a", "images": "b"}}})
    finish(run)
    folder = RunFolder(ToyConfig(exp_dir=tmp_path), "a toy", CPU)
    folder.check_data({"samples": "a", "new": "c"})
    with pytest.raises(ValueError, match=r"holds a run with other data \(images\); choose another --exp-dir"):
        folder.check_data({"samples": "a", "images": "c"})
    folder.close()
