"""Classify image files in batches and write the probabilities as a table."""

import collections
import csv
from collections.abc import Sequence
from pathlib import Path

import torch

from vicreg.common import files
from vicreg.common.logger import log

MAX_LOGGED = 20  # images


def write_predictions(path: Path, images: Sequence[Path], probabilities: torch.Tensor, classes: Sequence[str]) -> None:
    """Write the probabilities (n, classes) as CSV; log the first images and the number of images of each class."""
    confidences, ranked = probabilities.sort(1, descending=True)

    def save(tmp_path: Path) -> None:
        with tmp_path.open("w", newline="", encoding="utf-8") as file:
            table = csv.writer(file)
            table.writerow(["file", "class", *map(files.csv_cell, classes)])
            for image, label, row in zip(images, ranked[:, 0].tolist(), probabilities.tolist(), strict=True):
                file_name = str(image)
                if file_name.startswith(("=", "+", "-", "@")):  # a formula to a spreadsheet
                    file_name = f"./{file_name}"
                cells = map(files.csv_cell, (file_name, classes[label]))
                table.writerow([*cells, *(f"{value:.6f}" for value in row)])

    files.atomic_write(path, save)
    rows = list(zip(images, confidences[:, :3].tolist(), ranked[:, :3].tolist(), strict=True))
    for image, values, labels in rows[:MAX_LOGGED]:
        best = (f"{classes[label]} {value:.3f}" for label, value in zip(labels, values, strict=True))
        log(f"{files.printable(image, '')}  {'  '.join(best)}")
    if len(rows) > MAX_LOGGED:
        log(f"… and {len(rows) - MAX_LOGGED} more")
    counts = collections.Counter(classes[label] for label in ranked[:, 0].tolist())
    log(f"{len(images)} images: {', '.join(f'{name} {n}' for name, n in counts.most_common())}; {path}")
