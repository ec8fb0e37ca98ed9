#!/usr/bin/env python3
"""Look at frozen features of several backbones: kNN, k-means, a linear sweep, how they lie, pictures; one table.

    python evaluate_embeddings.py --pretrained random stats pixels exp/trained_model.pth --csv-dir ../data/sn7 \
        --exp-dir exp

extracts the features of each once (a second start reuses them), prints a table with 95 % intervals, and writes
``result.json``, ``tsne.png`` and ``neighbors.png`` to ``<exp-dir>/embeddings/<name>/``, and ``table.md`` and
``table.json`` of all beside them.
"""

import argparse
import sys
from pathlib import Path

if __name__ == "__main__":  # import from the repo root, wherever we are launched
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from vicreg import distributed
from vicreg.common import cli
from vicreg.common.cli import to_serializable
from vicreg.data import image_folder
from vicreg.data.sn7 import SN7Patches
from vicreg.data.subsets import check_percent
from vicreg.eval import (
    benchmark,
    splits,
)
from vicreg.eval.feature_cache import (
    DTYPES,
    FeatureCache,
    resolve_backbones,
)
from vicreg.eval.lr_sweep import RATES
from vicreg.eval.metrics import RESAMPLES


def get_parser():
    """Arguments of the script."""
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    run = parser.add_argument_group("run")
    run.add_argument("--exp-dir", type=Path, required=True, help="results: embeddings/, features: features/")
    run.add_argument("--seed", type=int, default=0, help="settles random weights, clusters, heads, draws and pictures")
    model = parser.add_argument_group("backbones")
    model.add_argument(
        "--pretrained", nargs="+", required=True, metavar="FILE",
        help="files that evaluate_sn7.py takes, and baselines: random, imagenet, stats, pixels",
    )  # fmt: skip
    model.add_argument("--arch", help="of random, imagenet and files that name none (default: the first file's)")
    model.add_argument("--in-chans", type=int, default=3, help="channels, for baselines")
    data = parser.add_argument_group("protocol 1: a training and a validation list")
    data.add_argument("--csv-dir", type=Path, help="folder written by make_sn7_csv.py")
    data.add_argument(
        "--data-dir", type=Path,
        help="alone: class folders (train/ and val/ in it); with --csv-dir: SN7 tree, where that has no patches.npy",
    )  # fmt: skip
    data.add_argument("--val-percent", type=int, default=10,
                      help="class folders without val/: share of every class to judge on")  # fmt: skip
    data.add_argument("--no-check", action="store_true", help="class folders: do not look for broken files first")
    more = parser.add_argument_group("protocol 2: other AOIs, each one a class (kNN and k-means)")
    more.add_argument("--test-csv", type=Path, metavar="DIR", help="folder of those AOIs, written by make_sn7_csv.py")
    more.add_argument("--test-split", choices=splits.SPLITS, default="patches",
                      help="what of each AOI is seen: half its patch positions, or half its mosaics")  # fmt: skip
    more.add_argument("--seen", type=Path, metavar="CSV", help="patch list to learn from, in place of --test-csv")
    more.add_argument("--unseen", type=Path, metavar="CSV", help="patch list to judge on")
    more.add_argument("--test-data-dir", type=Path, help="SN7 tree, where the lists have no patches.npy beside them")
    look = parser.add_argument_group("features")
    look.add_argument("--image-size", type=int, help="side of the views in pixels (default: 7/8 of the image's)")
    look.add_argument("--feature-batch", type=int, default=256, help="images at a time")
    look.add_argument("--dtype", choices=DTYPES, default="float32", help="of the kept features; float16: half the disk")
    judge = parser.add_argument_group("figures")
    judge.add_argument("--knn", type=int, nargs="+", default=[5, 20, 200], help="neighbors")
    judge.add_argument("--lr-head", type=float, nargs="+", default=list(RATES), help="rates of the linear heads")
    judge.add_argument("--train-percent", type=int, nargs="+", default=[], metavar="PERCENT",
                       help="linear heads on shares of the labels as well, such as 1 10")  # fmt: skip
    judge.add_argument("--seeds", type=int, default=5, help="draws of each share, from --seed on: their mean is told")
    judge.add_argument("--epochs", type=int, default=50, help="passes of the linear heads over the training features")
    judge.add_argument("--batch-size", type=int, default=256, help="samples a step of the linear heads")
    judge.add_argument("--resamples", type=int, default=RESAMPLES, help="of the bootstrap")
    judge.add_argument("--map-samples", type=int, default=1500, help="samples of the t-SNE picture; 0: no pictures")
    distributed.add_arguments(parser)
    return parser


def main(args):
    """Read the lists, make sure of the backbones, compare them."""
    cli.check_positive(
        args, "image_size", "feature_batch", "knn", "lr_head", "epochs", "batch_size", "resamples", "seeds"
    )
    for percent in args.train_percent:
        check_percent(percent)
    if not 1 <= args.val_percent <= 90:
        raise ValueError(f"--val-percent {args.val_percent}: 1 to 90 is needed")
    backbones = resolve_backbones(args.pretrained, args.arch, args.in_chans, args.seed)
    device = distributed.init(args.device, args.local_rank)
    if args.csv_dir:
        lists = [SN7Patches(args.csv_dir / f"{part}.csv", data_dir=args.data_dir) for part in ("train", "val")]
    elif args.data_dir:
        fraction = args.val_percent / 100
        lists = image_folder.load_folder(
            args.data_dir, device, args.image_size, not args.no_check, val_fraction=fraction
        )[:2]
    else:
        raise ValueError("no data: say --csv-dir (a folder written by make_sn7_csv.py) or --data-dir (class folders)")
    first = splits.train_val_split(*lists)
    second = splits.retrieval_split(
        args.test_csv, args.seen, args.unseen, args.test_split, args.seed, args.test_data_dir
    )
    size = args.image_size or max(1, round(lists[0].patch_size * 7 / 8))
    cache = FeatureCache(
        args.exp_dir / "features", size, device, args.feature_batch, args.dtype, args.in_chans, args.seed
    )
    settings = {"knn": args.knn, "rates": args.lr_head, "epochs": args.epochs, "batch_size": args.batch_size}
    settings |= {"percents": args.train_percent, "seeds": args.seeds}
    settings |= {"resamples": args.resamples, "map_samples": args.map_samples, "seed": args.seed}
    benchmark.compare(args.exp_dir, backbones, (first, second), cache, settings, to_serializable(vars(args)))


if __name__ == "__main__":
    cli.run(main, get_parser().parse_args())
