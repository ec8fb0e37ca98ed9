#!/usr/bin/env python3
"""Report on run folders: tables in the terminal, and one HTML page with tables, curves, maps and pictures.

    python exp/report.py exp/quickstart
    python exp/report.py exp/a exp/b --out report.html
    python exp/report.py exp --csv
    python exp/report.py exp --watch

searches for runs at any depth, whatever their state and version, prints what the comparison shows, tables and the state
of each run, and writes ``report.html`` into the first folder. What cannot be read is named on stderr and in the page.
"""

import argparse
import sys
from pathlib import Path

if __name__ == "__main__":  # scripts run from a bare clone
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from exp.reporting import collect, html, tables, terminal, watch
from vicreg.common import cli, files


def get_parser() -> argparse.ArgumentParser:
    """Build the argument parser."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+", metavar="RUN_DIR", help="run folders, or folders of runs")
    parser.add_argument("--out", type=Path, help="HTML page to write (default: report.html in the first folder)")
    parser.add_argument("--csv", action="store_true", help="print all values as CSV, and write no page")
    parser.add_argument("--watch", action="store_true", help="follow running jobs until they end or Ctrl-C")
    return parser


def main(args: argparse.Namespace) -> None:
    """Read the runs, print the report and write the page."""
    if missing := [folder for folder in args.folders if not folder.exists()]:
        raise FileNotFoundError(f"no folder {missing[0]}")
    if args.out:
        files.check_writable(args.out, (".html", ".htm"))
    if args.watch:
        watch.watch(args.folders)
        return
    runs, problems = collect.collect(args.folders)
    if not runs:
        raise ValueError(f"no runs in {', '.join(map(str, args.folders))}: none has {' or '.join(collect.MARKERS)}")
    result_tables = tables.build_tables(runs)
    if args.csv:
        print(terminal.format_csv(result_tables), end="")
        return
    terminal.print_report(runs, result_tables, problems)
    page = args.out or next(folder for folder in args.folders if folder.is_dir()) / "report.html"
    title = f"Runs in {', '.join(folder.name or str(folder.resolve().name) for folder in args.folders)}"
    files.write_text(page, html.render(title, runs, result_tables, problems))
    print(f"\n{page}")


if __name__ == "__main__":
    cli.run(main, cli.parse(get_parser()))
