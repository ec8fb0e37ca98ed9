"""The moving average of weights: its formula, resume, and that training itself does not change."""

import pytest
import torch

from tests.test_engine_pretrain import Stripes, assert_same_weights, configure, kill_after_saving, train
from vicreg.common import checkpoint_io
from vicreg.engine.optim import average_weights
from vicreg.engine.pretrain import pretrain
from vicreg.models.backbones import load_backbone


@pytest.fixture(scope="module")
def averaged(tmp_path_factory):
    """Folder of an undisturbed run with a moving average."""
    folder = tmp_path_factory.mktemp("ema") / "run"
    train(folder, ema_decay=0.6)
    return folder


def test_the_average_forgets_the_first_weights_soon_and_later_keeps_the_decay():
    module = torch.nn.BatchNorm1d(2)
    optimizer = torch.optim.SGD(module.parameters(), lr=1.0)
    average = average_weights(module, optimizer, 0.3)
    values, expected = [4.0, 1.0, -2.0, 7.0, 5.0, 0.5], None
    for step, value in enumerate(values):
        module.weight.grad = module.weight.detach() - value  # the step sets the weight to the value
        module.running_mean.fill_(2 * value)
        optimizer.step()
        decay = min(0.3, (1 + step) / (10 + step))
        expected = value if expected is None else decay * expected + (1 - decay) * value
    assert average.module.weight.tolist() == pytest.approx([expected] * 2)
    assert average.module.running_mean.tolist() == pytest.approx([2 * expected] * 2)
    assert not any(p.requires_grad for p in average.parameters())
    assert average.n_averaged == len(values)
    average.n_averaged = torch.zeros((), dtype=torch.long, device="meta")  # cannot be read back
    optimizer.step()


def test_training_is_the_same_and_the_backbone_file_holds_the_average(averaged, tmp_path):
    state = torch.load(averaged / "model.pth", weights_only=True)
    plain = train(tmp_path)
    assert_same_weights(plain, state)
    written = checkpoint_io.load(averaged / "trained_model.pth")["state_dict"]
    for key, value in written.items():
        assert torch.equal(value, state["model"][f"module.backbone_ema.module.{key}"])
    assert not torch.equal(written["conv1.0.weight"], state["model"]["module.backbone.conv1.0.weight"])
    with pytest.raises(KeyError):
        plain["model"]["module.backbone_ema.n_averaged"]


@pytest.mark.parametrize("step", [1, 6])
def test_a_run_that_is_cut_off_resumes_its_average_to_the_bit(averaged, tmp_path, monkeypatch, step):
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        kill_after_saving(patch, step)
        train(tmp_path, ema_decay=0.6)
    resumed = train(tmp_path, ema_decay=0.6)
    assert_same_weights(torch.load(averaged / "model.pth", weights_only=True), resumed)


def test_the_checkpoint_of_a_run_gives_the_weights_of_the_last_step(averaged):
    last, info = load_backbone(averaged / "model.pth")
    assert "0 missing" in info["report"]  # the weights of the last step, as for other runs
    state = torch.load(averaged / "model.pth", weights_only=True)["model"]
    assert torch.equal(last.state_dict()["conv1.0.weight"], state["module.backbone.conv1.0.weight"])


@pytest.mark.parametrize("lacking", [False, True])
def test_a_run_keeps_the_decay_it_was_started_with(tmp_path, monkeypatch, lacking):
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        payload = kill_after_saving(patch, 1)
        train(tmp_path)
    if lacking:  # a checkpoint of an older version
        del payload[0]["config"]["ema_decay"]
        checkpoint_io.save(payload[0], tmp_path / "model.pth")
    message = "holds a run without --ema-decay" if lacking else "holds a run with --ema-decay 0.0, not 0.6"
    with pytest.raises(ValueError, match=message):
        train(tmp_path, ema_decay=0.6)


@pytest.mark.parametrize("decay", [1.0, -0.1])
def test_decays_that_average_nothing_are_refused(tmp_path, decay):
    with pytest.raises(ValueError, match="--ema-decay"):
        configure(tmp_path, ema_decay=decay)


def test_micro_batches_update_the_average_once_a_step(tmp_path):
    pretrain(configure(tmp_path, ema_decay=0.6, accumulate=2), Stripes(), None, "a test")
    assert torch.load(tmp_path / "model.pth", weights_only=True)["model"]["module.backbone_ema.n_averaged"] == 10
