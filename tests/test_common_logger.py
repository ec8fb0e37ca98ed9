"""The log of a run: stats.txt, TensorBoard, the terminal and the lock of the folder."""

import json
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from vicreg.common import logger
from vicreg.common.logger import MetricLogger, format_eta, lock_run_dir, read_stats
from vicreg.distributed import process_group


def test_metric_logger_does_not_import_tensorflow(repo_root, tmp_path):
    (tmp_path / "tensorflow").mkdir()
    (tmp_path / "tensorflow" / "__init__.py").write_text("raise SystemExit('TensorFlow was imported')")
    code = f"from vicreg.common.logger import MetricLogger; metric_logger = MetricLogger({str(tmp_path)!r}); "
    code += "metric_logger.write({'step': 1, 'loss': 2.0}); metric_logger.close()"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    ran = subprocess.run([sys.executable, "-c", code], cwd=repo_root, env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert list((tmp_path / "tensorboard").glob("events.*"))


def test_metric_logger_averages_the_steps_of_an_interval_over_training_time(tmp_path, monkeypatch):
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(logger, "time", SimpleNamespace(perf_counter=lambda: clock.now))
    metric_logger = MetricLogger(tmp_path)
    for loss in (1.0, 2.0, 6.0):
        metric_logger.add({"loss": torch.tensor(loss), "std": torch.tensor(loss / 2)}, data_seconds=0.5)
    clock.now += 6
    assert metric_logger.seconds_per_step == 2
    assert metric_logger.averages(batch_size=4) == {"loss": 3.0, "std": 1.5, "pairs_per_second": 2.0, "data_time": 0.25}
    clock.now += 50  # a probe
    assert metric_logger.seconds == 50
    metric_logger.restart_clock()
    metric_logger.add({"loss": torch.tensor(10.0)})
    clock.now += 2
    assert metric_logger.averages(4, "images") == {"loss": 10.0, "images_per_second": 2.0, "data_time": 0.0}
    metric_logger.close()


def test_metric_logger_writes_each_line_at_once_as_a_json_object(tmp_path, capsys):
    metric_logger = MetricLogger(tmp_path)
    metric_logger.write({"step": 1, "loss": 0.123456})
    assert (tmp_path / "stats.txt").read_text() == '{"step": 1, "loss": 0.123456}\n'
    metric_logger.write({"step": 2, "loss": 0.1}, show=False)
    assert read_stats(tmp_path / "stats.txt") == [{"step": 1, "loss": 0.123456}, {"step": 2, "loss": 0.1}]
    assert capsys.readouterr().out == "step 1  loss 0.1235\n"
    metric_logger.close()
    assert len(list((tmp_path / "tensorboard").iterdir())) == 1


@pytest.mark.parametrize(
    ("resumed_at", "expected"), [(0, []), (2, [1, 2]), (3, [1, 2]), (4, [1, 2, 4]), (9, [1, 2, 4, 5])]
)
def test_metric_logger_drops_lines_after_the_resumed_step_and_a_truncated_line(tmp_path, resumed_at, expected):
    (tmp_path / "stats.txt").write_text('{"step": 1}\n{"step": 2}\n{"step": 4}\n{"step": 5}\n{"step": 6, "lo')
    metric_logger = MetricLogger(tmp_path, resumed_at)
    metric_logger.write({"step": 10}, show=False)
    metric_logger.close()
    text = (tmp_path / "stats.txt").read_text()
    assert text == "".join(json.dumps({"step": step}) + "\n" for step in [*expected, 10])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["stats.txt", "tensorboard"]


def test_metric_logger_is_silent_on_other_ranks(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(process_group, "rank", lambda: 1)
    metric_logger = MetricLogger(tmp_path)
    metric_logger.add({"loss": torch.tensor(1.0)})
    metric_logger.write({"step": 1, **metric_logger.averages(1)})
    logger.log("hello")
    metric_logger.close()
    assert list(tmp_path.iterdir()) == [] and capsys.readouterr().out == ""
    assert read_stats(tmp_path / "stats.txt") == []


def test_read_stats_skips_damaged_lines_only(tmp_path):
    path = tmp_path / "stats.txt"
    path.write_bytes(b'{"step": 1}\n{"step": \xff2}\n7\n{"step": 3}\n{"step": 4')
    assert read_stats(path) == [{"step": 1}, {"step": 3}]


@pytest.mark.parametrize("damaged", ['{"step": 91}', '{"step": null}', '{"step": "2"}', "{}x"])
def test_metric_logger_drops_a_damaged_line_and_keeps_the_later_ones_on_resume(tmp_path, damaged):
    (tmp_path / "stats.txt").write_text('{"step": 1}\n' + damaged + '\n{"step": 3}\n{"step": 4}\n')
    MetricLogger(tmp_path, step=3).close()
    assert read_stats(tmp_path / "stats.txt") == [{"step": 1}, {"step": 3}]


def test_lock_run_dir_removes_partial_files_of_any_kind(tmp_path):
    names = [".model.7.partial.pth", ".views.7.partial.png", ".stats.7.partial.txt", ".config.7.partial.json"]
    for name in [*names, "model.pth", ".lock"]:
        (tmp_path / name).touch()
    lock_run_dir(tmp_path).close()
    assert {path.name for path in tmp_path.iterdir()} == {"model.pth", ".lock"}


def test_lock_run_dir_refuses_a_second_process_until_the_file_is_closed(repo_root, tmp_path):
    code = "import sys; from vicreg.common.logger import lock_run_dir\n"
    code += "try: lock_run_dir(sys.argv[1])\nexcept ValueError as error: sys.exit(str(error))"

    def other_process():
        return subprocess.run(
            [sys.executable, "-c", code, tmp_path / "run"], cwd=repo_root, capture_output=True, text=True
        )

    lock = lock_run_dir(tmp_path / "run")
    assert other_process().stderr == (
        f"another run is writing to {tmp_path / 'run'} now; wait for it or choose another --exp-dir\n"
    )
    lock.close()
    assert other_process().returncode == 0


@pytest.mark.parametrize(("seconds", "expected"), [(42, "42 s"), (600, "0 h 10 min"), (7500, "2 h 05 min")])
def test_format_eta_gives_the_duration_and_the_time_at_its_end(seconds, expected):
    assert format_eta(seconds).startswith(f"{expected} (until 20")
