#!/usr/bin/env python3
"""Time evaluation on extracted features, with the memory that it needs beside them, and t-SNE of two libraries.

    python benchmarks/bench_eval.py --samples 300000 --dim 2048 --queries 10000 --epochs 1

makes random features with a class structure, and prints seconds and the growth of the peak memory of kNN, of the linear
probe with all learning rates and with one, and with ``--tsne N`` the seconds of t-SNE of N samples in openTSNE and
scikit-learn, one after the other, with the accuracy of kNN-10 on the maps. Give few ``--epochs``; the time of 100 is
printed.
"""

import argparse
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path

if __name__ == "__main__":  # scripts run from a bare clone
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
import torch

from benchmarks.step_profile import describe_machine
from vicreg.common import cli
from vicreg.common.tsne import tsne
from vicreg.eval.knn import knn_predict
from vicreg.eval.linear_probe import fit_linear_probe
from vicreg.eval.lr_sweep import DEFAULT_LRS
from vicreg.eval.metrics import accuracy


def get_parser() -> argparse.ArgumentParser:
    """Build the argument parser."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=cli.HelpFormatter)
    parser.add_argument("--samples", type=int, default=21_600, help="training samples (default: 21600, as EuroSAT)")
    parser.add_argument("--dim", type=int, default=512, help="size of the features")
    parser.add_argument("--classes", type=int, default=10, help="number of classes")
    parser.add_argument("--queries", type=int, default=5_400, help="samples to classify by kNN")
    parser.add_argument("--epochs", type=int, default=5, help="epochs of the linear probe")
    parser.add_argument("--tsne", type=int, default=0, help="samples of the t-SNE maps; 0: none")
    return parser


def make_features(samples: int, dim: int, centers: torch.Tensor, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return features (samples, dim) around the centers of their classes, and the labels, in little memory."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(len(centers), (samples,), generator=generator)
    features = torch.empty(samples, dim).normal_(generator=generator)
    for start in range(0, samples, 4096):
        features[start : start + 4096] += centers[labels[start : start + 4096]]
    return features, labels


def peak_gb() -> float:
    """Return the largest memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def timed(name: str, run: Callable[[], str]) -> float:
    """Call a function that returns a note, and print its seconds and the growth of the peak memory."""
    before, start = peak_gb(), time.perf_counter()
    note = run()
    seconds = time.perf_counter() - start
    print(f"{name:26}{seconds:9.1f} s  {peak_gb() - before:+7.2f} GB  {note}", flush=True)
    return seconds


def main(args: argparse.Namespace) -> None:
    """Time each part once."""
    cli.check_positive(args, "samples", "dim", "classes", "queries", "epochs")
    if 0 < args.tsne < 20:
        raise ValueError(f"--tsne {args.tsne}: 20 samples or more are needed")
    if args.tsne > args.samples:
        raise ValueError(f"--tsne {args.tsne}: there are {args.samples} samples; see --samples")
    centers = 0.15 * torch.randn(args.classes, args.dim, generator=torch.Generator().manual_seed(0))
    train, labels = make_features(args.samples, args.dim, centers, 1)
    queries, expected = make_features(args.queries, args.dim, centers, 2)
    print(f"{describe_machine()}, {args.samples} x {args.dim} features of {train.nbytes / 1e9:.2f} GB, "
          f"{args.classes} classes")  # fmt: skip

    def knn() -> str:
        ranked = knn_predict(train, labels, queries, args.classes)
        return f"top-1 {accuracy(ranked, expected, (1,))['top1']:.3f}"

    def probe(lrs: tuple[float, ...]) -> str:
        fit = fit_linear_probe(train, labels, None, args.classes, lrs, epochs=args.epochs)
        with torch.no_grad():
            correct = (fit.head(queries).argmax(1) == expected).float().mean()
        return f"top-1 {correct:.3f}, learning rate {fit.lr:g}"

    timed(f"kNN of {args.queries}", knn)
    for lrs in (DEFAULT_LRS, (0.1,)):
        name = f"{len(lrs)} learning rate(s), {args.epochs} ep."
        seconds = timed(name, lambda lrs=lrs: probe(lrs))
        print(f"{'':26}{seconds / args.epochs * 100:9.1f} s for 100 epochs")
    if args.tsne:
        points, colors = train[: args.tsne].numpy(), labels[: args.tsne].numpy()
        for library in ("openTSNE", "scikit-learn"):
            timed(f"{library}, {args.tsne} samples", lambda library=library: map_quality(points, colors, library))


def map_quality(points: np.ndarray, labels: np.ndarray, library: str) -> str:
    """Return the accuracy of kNN-10 between the halves of a t-SNE map."""
    from sklearn.neighbors import KNeighborsClassifier

    positions = tsne(points, library=library)
    score = KNeighborsClassifier(min(10, len(points) // 2)).fit(positions[::2], labels[::2])
    return f"kNN-10 on the map {score.score(positions[1::2], labels[1::2]):.3f}"


if __name__ == "__main__":
    cli.run(main, cli.parse(get_parser()))
