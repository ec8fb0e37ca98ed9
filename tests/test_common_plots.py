"""Figures of names that matplotlib would take for something else."""

import warnings

import numpy as np
import torch

from vicreg.common import plots

NAMES = ["$\\foo$", "_hidden", "\x1b[31mred", "50$"]


def test_names_in_figures_are_neither_formulas_nor_control_codes_nor_hidden(tmp_path, monkeypatch):
    monkeypatch.setattr(plots, "tsne", lambda features: features[:, :2])
    images, labels = torch.zeros(4, 3, 8, 8, dtype=torch.uint8), np.arange(4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plots.plot_confusion_matrix(tmp_path / "a.png", np.eye(4), NAMES)
        plots.save_class_map(tmp_path / "b.png", labels.reshape(2, 2), NAMES, np.eye(4, 3), NAMES[0])
        plots.save_predictions(tmp_path / "c.png", images, NAMES, NAMES[::-1], [0.5] * 4, NAMES[0])
        plots.save_embedding_map(tmp_path / "d.png", np.eye(4), labels, NAMES, NAMES[0])
        cosines, names = torch.ones(4, 1), [[name] for name in NAMES]
        plots.save_neighbors(tmp_path / "e.png", images, NAMES, images[:, None], names, cosines, cosines > 0, NAMES[0])
    figure, axes = plots.new_figure(1, 1, (2, 2))
    axes[0, 0].scatter([], [], label=plots.literal("_hidden"))
    assert [text.get_text() for text in figure.legend().texts] == [" _hidden"]
    assert plots.literal("50$\x1b") == r"50\$\x1b"
