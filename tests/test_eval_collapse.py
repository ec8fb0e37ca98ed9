"""The collapse warning."""

from vicreg.eval.metrics import ADVICE, check_collapse


def test_a_collapse_is_named_with_advice_and_a_healthy_run_is_not():
    assert check_collapse(0.5, 80.0, 256, 512) is None
    assert "hardly differ" in check_collapse(0.01, 80.0, 256, 512)
    assert "1.5 effective dimensions (below 2.6)" in check_collapse(0.5, 1.5, 256, 512)
    assert ADVICE in check_collapse(0.5, 1.5, 256, 512) and "--lr" in ADVICE
