"""The collapse warning."""

from vicreg.engine.pretrain import CollapseWarning
from vicreg.eval.metrics import ADVICE, check_collapse


def test_a_collapse_is_named_with_advice_and_a_healthy_run_is_not():
    assert check_collapse(0.5, 80.0, 256, 512) is None
    assert "hardly differ" in check_collapse(0.01, 80.0, 256, 512)
    assert "1.5 effective dimensions (below 2.6)" in check_collapse(0.5, 1.5, 256, 512)
    assert ADVICE in check_collapse(0.5, 1.5, 256, 512) and "--lr" in ADVICE


def test_collapse_warning_is_printed_once_and_not_during_the_warm_up(capsys):
    warn = CollapseWarning(warmup_steps=10, samples=256, dim=512)
    for step in (1, 10):
        warn({"step": step, "embedding_std": 0.01, "effective_rank": 1.0})
    assert capsys.readouterr().out == ""
    for step in (11, 12):
        warn({"step": step, "embedding_std": 0.01, "effective_rank": 1.0})
    assert capsys.readouterr().out.count(ADVICE) == 1
