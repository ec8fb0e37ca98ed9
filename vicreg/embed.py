#!/usr/bin/env python3
"""Embed images or patches as a (Geo)Parquet table, list the nearest rows of one, or map the features of a raster.

    python embed.py --pretrained exp/trained_model.pth --csv-dir data/mine --out embeddings.parquet
    python embed.py --knn 17 --k 5 --out embeddings.parquet
    python embed.py --pretrained exp/trained_model.pth --image scene.tif --patch-size 64 --stride 16 --out features.tif

Files that cannot be read are skipped and listed, and the exit status is then 1.
"""

import argparse
import sys
from pathlib import Path

if __name__ == "__main__":  # import from the repo root, wherever we are launched
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from vicreg import distributed
from vicreg.common import cli
from vicreg.common.config import from_args
from vicreg.data.images import add_levels_argument
from vicreg.eval.config import add_backbone_arguments
from vicreg.inference.embedding_job import EmbeddingConfig, EmbeddingJob
from vicreg.inference.embeddings import nearest


def get_parser() -> argparse.ArgumentParser:
    """Build the parser of the script."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0], formatter_class=cli.HelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="table (.parquet), or feature map (.tif) of --image")
    backbone = parser.add_argument_group("backbone")
    backbone.add_argument("--pretrained", help="trained_model.pth, model.pth, a state dict, or a baseline")
    add_backbone_arguments(backbone)
    backbone.add_argument("--image-size", type=int, help="side of the network's input in pixels; None: 7/8 of the "
                          "patches', 224 for --data-dir, --patch-size for --image")  # fmt: skip
    backbone.add_argument("--batch-size", type=int, default=64, help="images at a time")
    backbone.add_argument(
        "--device", choices=["auto", "cuda", "cpu"], default="auto", help="auto: a GPU if there is one"
    )
    backbone.add_argument("--seed", type=int, default=0, help="seed of random weights and of the sample of the PCA")
    source = parser.add_argument_group("what to embed").add_mutually_exclusive_group()
    source.add_argument("--csv-dir", type=Path, help="folder written by make_imagery_csv.py or make_sn7_csv.py")
    source.add_argument("--data-dir", type=Path, help="folder of images, at any depth; no labels needed")
    source.add_argument("--image", type=Path, help="raster to map")
    source.add_argument("--knn", metavar="ROW", help="list the rows of --out nearest to this row: its number or path")
    files = parser.add_argument_group("image files")
    files.add_argument("--bands", type=int, nargs="+", metavar="BAND",
                       help="bands of the channels, from 1; None: RGB, or all bands of a network for more")  # fmt: skip
    add_levels_argument(files, "default: those of --pretrained")
    feature_map = parser.add_argument_group("feature map")
    feature_map.add_argument("--patch-size", type=int, default=224, help="side of the windows in pixels")
    feature_map.add_argument("--stride", type=int, help="pixels between windows, a cell of the map; None: half of them")
    feature_map.add_argument("--components", type=int, default=3, help="bands of the map, by PCA; 0: all features")
    parser.add_argument("--k", type=int, default=10, help="number of rows that --knn lists")
    return parser


def main(args: argparse.Namespace) -> None:
    """List neighbors, map features, or write a table."""
    cli.check_positive(args, "k")
    if args.knn is not None:
        print(nearest(args.out, args.knn, args.k).to_string(index=False))
        return
    job = EmbeddingJob(from_args(EmbeddingConfig, args), distributed.init(args.device))
    job.map_raster() if args.image else job.write_table()
    distributed.destroy()


if __name__ == "__main__":
    cli.run(main, cli.parse(get_parser()))
