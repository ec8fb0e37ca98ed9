#!/usr/bin/env python3
"""Compare backbones under several splits in one table; the difference between the splits is due to leakage.

    python exp/split_table.py exp/sn7_splits

reads ``<folder>/<split>/embeddings/table.json``, which evaluate_embeddings.py writes, prints the table and writes
``splits.md`` into the folder.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # scripts run from a bare clone
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from vicreg.common import cli, files
from vicreg.common.json_files import read_json
from vicreg.eval import tables

COLUMNS = ("top1", "top5", "label1_top1", "label10_top1", "knn20_top1", "kmeans_accuracy")


def get_parser() -> argparse.ArgumentParser:
    """Build the argument parser."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="contains a folder for each split")
    parser.add_argument("--columns", nargs="+", default=COLUMNS, help=f"metrics (default: {' '.join(COLUMNS)})")
    return parser


def read_results(folder: Path) -> dict[str, dict[str, Any]]:
    """Read the results of all splits: dict "backbone, split" -> metrics, grouped by backbone.

    A table that is damaged is listed on stderr and left out.

    Raises:
        FileNotFoundError: There are no readable tables.
    """
    splits: dict[str, dict[str, dict[str, Any]]] = {}
    for path in sorted(folder.glob("*/embeddings/table.json")):
        try:
            results = read_json(path)
            splits[path.parts[-3]] = {result["name"]: result for result in results}
        except (ValueError, TypeError, KeyError) as error:
            print(f"unreadable: {path}: {type(error).__name__}: {error}", file=sys.stderr)
    if not splits:
        raise FileNotFoundError(f"no readable */embeddings/table.json in {folder}; evaluate_embeddings.py writes them")
    names = dict.fromkeys(name for results in splits.values() for name in results)
    return {
        f"{name}, {split}": results[name]
        for name in names
        for split, results in reversed(splits.items())  # image before block
        if name in results
    }


def main(args: argparse.Namespace) -> None:
    """Print and write the table."""
    results = read_results(args.folder)
    given = [] if args.columns is COLUMNS else args.columns
    if missing := [name for name in given if not any(name in result for result in results.values())]:
        raise ValueError(f"--columns {' '.join(missing)}: no result in {args.folder} has such a metric")
    rows = {name: {key: result.get(key) for key in (*args.columns, "intervals")} for name, result in results.items()}
    table = tables.as_markdown(rows)
    files.write_text(args.folder / "splits.md", table + "\n")
    print(f"{table}\n\n{args.folder / 'splits.md'}")


if __name__ == "__main__":
    cli.run(main, cli.parse(get_parser()))
