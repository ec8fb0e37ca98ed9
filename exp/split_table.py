#!/usr/bin/env python3
"""Put what evaluate_embeddings.py found under several splits into one table: the gap between them is what leaked.

    python exp/split_table.py exp/sn7_splits

reads ``<folder>/<split>/embeddings/table.json``, prints the table and writes ``splits.md`` into the folder.
"""

import argparse
import json
import sys
from pathlib import Path

if __name__ == "__main__":  # import from the repo root, wherever we are launched
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from vicreg.common import (
    cli,
    files,
)
from vicreg.eval import tables

COLUMNS = ("top1", "top5", "label1_top1", "label10_top1", "knn20_top1", "kmeans_accuracy")


def get_parser():
    """Arguments of the script."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path, help="holds a folder for each split")
    parser.add_argument("--columns", nargs="+", default=COLUMNS, help=f"figures (default: {' '.join(COLUMNS)})")
    return parser


def read(folder):
    """Results of all splits below a folder: dict "backbone, split" -> figures, backbone by backbone.

    Raises:
        FileNotFoundError: there are none.
    """
    tables = {path.parts[-3]: json.loads(path.read_text()) for path in sorted(folder.glob("*/embeddings/table.json"))}
    if not tables:
        raise FileNotFoundError(f"no */embeddings/table.json in {folder}; evaluate_embeddings.py writes them")
    names = dict.fromkeys(result["name"] for table in tables.values() for result in table)
    return {
        f"{name}, {split}": result
        for name in names
        for split, table in reversed(tables.items())  # image before block
        for result in table
        if result["name"] == name
    }


def main(args):
    """Print the table and keep it."""
    results = read(args.folder)
    kept = {name: {key: result.get(key) for key in (*args.columns, "intervals")} for name, result in results.items()}
    table = tables.as_markdown(kept)
    files.write_text(args.folder / "splits.md", table + "\n")
    print(f"{table}\n\n{args.folder / 'splits.md'}")


if __name__ == "__main__":
    cli.run(main, get_parser().parse_args())
