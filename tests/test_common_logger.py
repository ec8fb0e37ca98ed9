"""The record of a run: stats.txt, TensorBoard and the terminal."""

import json
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from vicreg.common import logger
from vicreg.common.logger import MetricLogger, format_eta, read_stats
from vicreg.distributed import process_group


def test_tensorflow_is_left_alone_even_where_it_is_installed(repo_root, tmp_path):
    (tmp_path / "tensorflow").mkdir()
    (tmp_path / "tensorflow" / "__init__.py").write_text("raise SystemExit('TensorFlow was imported')")
    code = f"from vicreg.common.logger import MetricLogger; metric_logger = MetricLogger({str(tmp_path)!r}); "
    code += "metric_logger.write({'step': 1, 'loss': 2.0}); metric_logger.close()"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    ran = subprocess.run([sys.executable, "-c", code], cwd=repo_root, env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert list((tmp_path / "tensorboard").glob("events.*"))


def test_a_line_averages_over_all_steps_since_the_line_before_in_training_time(tmp_path, monkeypatch):
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(logger, "time", SimpleNamespace(perf_counter=lambda: clock.now))
    metric_logger = MetricLogger(tmp_path)
    for loss in (1.0, 2.0, 6.0):
        metric_logger.add({"loss": torch.tensor(loss), "std": torch.tensor(loss / 2)}, waited=0.5)
    clock.now += 6
    assert metric_logger.averages(per_step=4) == {"loss": 3.0, "std": 1.5, "pairs_per_second": 2.0, "data_time": 0.25}
    clock.now += 50  # a probe
    assert metric_logger.seconds == 50
    metric_logger.restart_clock()
    metric_logger.add({"loss": torch.tensor(10.0)})
    clock.now += 2
    assert metric_logger.averages(per_step=4) == {"loss": 10.0, "pairs_per_second": 2.0, "data_time": 0.0}
    metric_logger.close()


def test_lines_are_written_at_once_one_json_object_each(tmp_path, capsys):
    metric_logger = MetricLogger(tmp_path)
    metric_logger.write({"step": 1, "loss": 0.123456})
    assert (tmp_path / "stats.txt").read_text() == '{"step": 1, "loss": 0.123456}\n'
    metric_logger.write({"step": 2, "loss": 0.1}, show=False)
    assert read_stats(tmp_path / "stats.txt") == [{"step": 1, "loss": 0.123456}, {"step": 2, "loss": 0.1}]
    assert capsys.readouterr().out == "step 1  loss 0.1235\n"
    metric_logger.close()
    assert len(list((tmp_path / "tensorboard").iterdir())) == 1


@pytest.mark.parametrize(("resumed_at", "kept"), [(0, []), (2, [1, 2]), (3, [1, 2]), (4, [1, 2, 4]), (9, [1, 2, 4, 5])])
def test_lines_after_the_resumed_step_and_a_half_written_one_are_dropped(tmp_path, resumed_at, kept):
    (tmp_path / "stats.txt").write_text('{"step": 1}\n{"step": 2}\n{"step": 4}\n{"step": 5}\n{"step": 6, "lo')
    metric_logger = MetricLogger(tmp_path, resumed_at)
    metric_logger.write({"step": 10}, show=False)
    metric_logger.close()
    text = (tmp_path / "stats.txt").read_text()
    assert text == "".join(json.dumps({"step": step}) + "\n" for step in [*kept, 10])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["stats.txt", "tensorboard"]


def test_other_processes_write_and_print_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(process_group, "rank", lambda: 1)
    metric_logger = MetricLogger(tmp_path)
    metric_logger.add({"loss": torch.tensor(1.0)})
    metric_logger.write({"step": 1, **metric_logger.averages(1)})
    logger.log("hello")
    metric_logger.close()
    assert list(tmp_path.iterdir()) == [] and capsys.readouterr().out == ""
    assert read_stats(tmp_path / "stats.txt") == []


@pytest.mark.parametrize(("seconds", "words"), [(42, "42 s"), (600, "0 h 10 min"), (7500, "2 h 05 min")])
def test_durations_are_told_in_words(seconds, words):
    assert format_eta(seconds).startswith(f"{words} (until 20")
