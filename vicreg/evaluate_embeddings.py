#!/usr/bin/env python3
"""Compare frozen features of several backbones: kNN, k-means, linear probe, geometry and figures, in one table.

    python evaluate_embeddings.py --pretrained random stats pixels exp/trained_model.pth --csv-dir ../data/sn7 \
        --exp-dir exp

extracts the features of each once (a second start reuses them), prints a table with 95 % intervals, and writes
``result.json``, ``tsne.png`` and ``neighbors.png`` to ``<exp-dir>/embeddings/<name>/``, and ``table.md`` and
``table.json`` of all backbones to ``<exp-dir>/embeddings/``.
"""

import argparse
import sys
from pathlib import Path

if __name__ == "__main__":  # import from the repo root, wherever we are launched
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from vicreg import distributed
from vicreg.common import cli
from vicreg.common.config import from_args
from vicreg.common.files import check_outside
from vicreg.common.logger import log
from vicreg.data import image_folder, tables
from vicreg.data.base import LabeledDataset
from vicreg.data.images import add_levels_argument
from vicreg.data.sn7 import SN7Patches
from vicreg.eval import splits
from vicreg.eval.benchmark import BenchmarkConfig, compare
from vicreg.eval.config import add_backbone_arguments
from vicreg.eval.feature_cache import DTYPES, FeatureCache, resolve_backbones
from vicreg.eval.lr_sweep import DEFAULT_LRS
from vicreg.eval.metrics import RESAMPLES
from vicreg.models.weight_files import recorded_levels


def get_parser() -> argparse.ArgumentParser:
    """Build the parser of the script."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0], formatter_class=cli.HelpFormatter)
    run = parser.add_argument_group("run")
    run.add_argument("--exp-dir", type=Path, required=True, help="results: embeddings/, features: features/")
    run.add_argument("--seed", type=int, default=0, help="seed of random weights, clusters, heads, subsets and figures")
    model = parser.add_argument_group("backbones")
    model.add_argument(
        "--pretrained", nargs="+", required=True, metavar="FILE",
        help="files that evaluate_sn7.py takes, and baselines: random, imagenet, stats, pixels",
    )  # fmt: skip
    add_backbone_arguments(model)
    data = parser.add_argument_group("protocol 1: a training and a validation list")
    data.add_argument("--csv-dir", type=Path, help="folder written by make_sn7_csv.py")
    tables.add_verify_argument(data)
    data.add_argument(
        "--data-dir", type=Path,
        help="alone: class folders (train/ and val/ in it); with --csv-dir: SN7 tree, if that has no patches.npy",
    )  # fmt: skip
    data.add_argument(
        "--val-fraction",
        type=float,
        default=0.1,
        help="class folders without val/: fraction of every class to hold out",
    )
    data.add_argument("--val-percent", dest="val_fraction", type=_percent, help=argparse.SUPPRESS)
    data.add_argument("--no-check", action="store_true", help="class folders: do not look for broken files first")
    data.add_argument("--bands", type=int, nargs=3, metavar="BAND", help="class folders: red, green, blue of TIFFs")
    add_levels_argument(data, "default: those of --pretrained")
    other = parser.add_argument_group("protocol 2: other AOIs, each one a class (kNN and k-means)")
    other.add_argument("--test-csv", type=Path, metavar="DIR", help="folder of those AOIs, written by make_sn7_csv.py")
    other.add_argument("--test-split", choices=splits.SPLITS, default="patches",
                       help="what of each AOI is seen: half its patch positions, or half its mosaics")  # fmt: skip
    other.add_argument("--seen", type=Path, metavar="CSV", help="patch list to learn from, in place of --test-csv")
    other.add_argument("--unseen", type=Path, metavar="CSV", help="patch list to evaluate on")
    other.add_argument("--test-data-dir", type=Path, help="SN7 tree, if the lists have no patches.npy beside them")
    features = parser.add_argument_group("features")
    features.add_argument("--image-size", type=int, help="side of the views in pixels; None: 7/8 of the images' side")
    features.add_argument("--feature-batch", type=int, default=256, help="images at a time")
    features.add_argument(
        "--dtype", choices=DTYPES, default="float32", help="of the cache; float16: half the disk space"
    )
    metrics = parser.add_argument_group("metrics")
    metrics.add_argument("--knn", type=int, nargs="+", default=[5, 20, 200], help="numbers of neighbors")
    metrics.add_argument("--lr", "--lr-head", type=float, nargs="+", default=list(DEFAULT_LRS),
                         help="learning rates of the linear probe")  # fmt: skip
    metrics.add_argument("--weight-decay", "--wd-head", type=float, default=1e-6, help="of the linear probe")
    metrics.add_argument("--train-percent", type=int, nargs="+", default=[], metavar="PERCENT",
                         help="linear probes on percentages of the labels as well, such as 1 10")  # fmt: skip
    metrics.add_argument("--seeds", type=int, default=5, help="random subsets of each percentage, from --seed on")
    metrics.add_argument("--epochs", type=int, default=50, help="passes of the linear probe over the training features")
    metrics.add_argument("--batch-size", type=int, default=256, help="samples of a step of the linear probe")
    metrics.add_argument("--resamples", type=int, default=RESAMPLES, help="bootstrap resamples of the intervals")
    metrics.add_argument("--map-samples", type=int, default=1500, help="samples of the t-SNE map; 0: no figures")
    distributed.add_arguments(parser)
    return parser


def _percent(text: str) -> float:
    return float(text) / 100


def main(args: argparse.Namespace) -> None:
    """Read the lists, check the backbones, compare them."""
    cli.check_positive(args, "image_size", "feature_batch", "in_chans", "std", "bands")
    if not 0 < args.val_fraction < 1:
        raise ValueError(f"--val-fraction {args.val_fraction:g}: above 0 and below 1 is needed")
    config = from_args(BenchmarkConfig, args)
    backbones = resolve_backbones(args.pretrained, args.arch, args.in_chans, args.seed, args.weight_bands)
    device = distributed.init(args.device, args.local_rank, args.timeout_minutes)
    train: LabeledDataset
    val: LabeledDataset
    if args.verify_data and args.csv_dir:
        log(tables.verify_folder(args.csv_dir))
    if args.csv_dir:
        train, val = (SN7Patches(args.csv_dir / f"{part}.csv", data_dir=args.data_dir) for part in ("train", "val"))
    elif args.data_dir:
        check_outside(args.exp_dir, args.data_dir)
        levels = args.levels or recorded_levels(backbone.record for backbone in backbones)
        options = {"val_fraction": args.val_fraction, "bands": args.bands, "levels": levels}
        train, val, _ = image_folder.load_folder(args.data_dir, args.image_size, not args.no_check, **options)
    else:
        raise ValueError("no data: say --csv-dir (a folder written by make_sn7_csv.py) or --data-dir (class folders)")
    protocols = (
        splits.train_val_split(train, val),
        splits.retrieval_split(args.test_csv, args.seen, args.unseen, args.test_split, args.seed, args.test_data_dir),
    )
    cache = FeatureCache(
        args.exp_dir / "features", train, device, args.image_size, args.feature_batch, args.dtype, args.in_chans,
        args.seed, args.mean, args.std, args.weight_bands,
    )  # fmt: skip
    compare(config, backbones, protocols, cache, cli.to_serializable(vars(args)))


if __name__ == "__main__":
    cli.run(main, cli.parse(get_parser()))
