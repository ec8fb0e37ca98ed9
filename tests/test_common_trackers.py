"""Trackers get settings, metrics and views, and a resumed run continues there."""

import sys
import types

import numpy as np
import pytest
from PIL import Image

from vicreg import main_vicreg_sn7
from vicreg.common.logger import MetricLogger
from vicreg.engine.config import RunConfig

CONFIG = {"arch": "resnet18", "lr": 0.3, "criterion": {"sim_coeff": 25.0}, "bands": None, "compile": False}
FLAT = {"arch": "resnet18", "lr": 0.3, "criterion.sim_coeff": 25.0, "bands": "None", "compile": False}


class Recorder(types.ModuleType):
    """Stands for the package of a tracker: records every call of a function."""

    def __init__(self, name):
        super().__init__(name)
        self.calls = []

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)

        def function(*args, **options):
            self.calls.append((name, args, options))
            return types.SimpleNamespace(info=types.SimpleNamespace(run_id="r1")) if name == "start_run" else args

        return function


@pytest.fixture
def run(tmp_path):
    """Function (tracker, step) that logs two lines of a run in a folder, whose views are written between."""
    folder = tmp_path / "run"
    folder.mkdir()

    def log(tracker, step=0):
        logger = MetricLogger(folder, step, tracker=tracker, config=CONFIG)
        Image.fromarray(np.full((4, 6, 3), 99, np.uint8)).save(folder / "views.png")
        logger.write({"step": step + 1, "epoch": 0, "loss": 2.5, "note": "text"}, show=False)
        logger.write({"step": step + 2, "epoch": 0, "loss": 1.5}, show=False)
        logger.close()
        return folder

    return log


def test_tensorboard_holds_settings_metrics_and_views(run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    run("tensorboard")
    folder = run("tensorboard", 2)
    events = EventAccumulator(str(folder / "tensorboard")).Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(1, 2.5), (2, 1.5), (3, 2.5), (4, 1.5)]
    (views,) = events.Images("views")
    assert (views.width, views.height, views.step) == (6, 4, 1)
    content = events.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    hparams = HParamsPluginData.FromString(content).session_start_info.hparams
    assert hparams["lr"].number_value == 0.3 and hparams["criterion.sim_coeff"].number_value == 25
    assert hparams["arch"].string_value == "resnet18" and hparams["bands"].string_value == "None"


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_wandb_and_trackio_continue_a_resumed_run(run, monkeypatch, name):
    module = Recorder(name)
    monkeypatch.setitem(sys.modules, name, module)
    run(name)
    folder = run(name, 2)
    calls = [call[0] for call in module.calls]
    assert calls == ["init", "log", "Image", "log", "log", "finish", "init", "log", "log", "finish"]
    first, second = (options for kind, _, options in module.calls if kind == "init")
    assert first == second and first["config"] == FLAT and first["resume"] == "allow" and first["project"] == "vicreg"
    run_id = (folder / "tracker_id.txt").read_text().split()[1]
    assert first.get("id", first["name"].removeprefix("run-")) == run_id
    assert module.calls[1] == ("log", ({"epoch": 0, "loss": 2.5},), {"step": 1})
    assert module.calls[3] == ("log", ({"views": (str(folder / "views.png"),)},), {"step": 1})
    assert not (folder / "tensorboard").exists()


def test_mlflow_continues_a_resumed_run(run, monkeypatch):
    module = Recorder("mlflow")
    monkeypatch.setitem(sys.modules, "mlflow", module)
    run("mlflow")
    folder = run("mlflow", 2)
    assert module.calls == [
        ("set_experiment", ("vicreg",), {}), ("start_run", (), {"run_id": None, "run_name": "run"}),
        ("log_params", (FLAT,), {}), ("log_metrics", ({"epoch": 0, "loss": 2.5},), {"step": 1}),
        ("log_artifact", (str(folder / "views.png"),), {}), ("log_metrics", ({"epoch": 0, "loss": 1.5},), {"step": 2}),
        ("end_run", (), {}), ("set_experiment", ("vicreg",), {}),
        ("start_run", (), {"run_id": "r1", "run_name": "run"}),
        ("log_metrics", ({"epoch": 0, "loss": 2.5},), {"step": 3}),
        ("log_metrics", ({"epoch": 0, "loss": 1.5},), {"step": 4}), ("end_run", (), {}),
    ]  # fmt: skip


def test_no_tracker_writes_the_log_alone(run):
    assert sorted(path.name for path in run("none").iterdir()) == ["stats.txt", "views.png"]


def test_a_tracker_that_is_not_installed_or_refuses_is_named(run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)  # as if it were not installed
    with pytest.raises(ValueError, match="--tracker wandb needs the package wandb: pip install wandb"):
        RunConfig(exp_dir=tmp_path, tracker="wandb")
    module = types.ModuleType("wandb")
    module.init = lambda **options: 1 / 0
    monkeypatch.setitem(sys.modules, "wandb", module)
    with pytest.raises(ValueError, match="--tracker wandb: division by zero; --tracker none goes without"):
        run("wandb")


def test_pretraining_shows_its_settings_and_views_in_the_tracker(sn7_prepared, tmp_path, monkeypatch):
    module = Recorder("wandb")
    monkeypatch.setitem(sys.modules, "wandb", module)
    words = f"--csv-dir {sn7_prepared} --exp-dir {tmp_path / 'run'} --arch test_resnet --mlp 16-16 --batch-size 16"
    words += " --image-size 16 --workers 0 --device cpu --max-steps 1 --probe-every 0 --tracker wandb"
    main_vicreg_sn7.main(main_vicreg_sn7.get_parser().parse_args(words.split()))
    assert [call[0] for call in module.calls] == ["init", "log", "Image", "log", "finish"]
    assert module.calls[0][2]["config"]["criterion.sim_coeff"] == 25 and module.calls[1][1][0]["loss"] > 0
