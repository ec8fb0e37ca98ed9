"""The report in the terminal: tables with the best value in bold, and the state of each run; or CSV."""

import csv
import io
import sys
from collections.abc import Sequence

from exp.reporting.collect import Problem, Run
from exp.reporting.compare import compare, summarize
from exp.reporting.rows import Cell, Row
from exp.reporting.tables import Table, format_cell
from vicreg.common.files import csv_cell, printable

_BOLD, _DIM, _RESET = "\x1b[1m", "\x1b[2m", "\x1b[0m"
_SHOWN = 20  # problems


def print_report(runs: Sequence[Run], tables: Sequence[Table], problems: Sequence[Problem]) -> None:
    """Print what the comparison shows, the tables, the runs, and what is not in the report."""
    is_terminal = sys.stdout.isatty()
    claims = compare(tables)
    print(summarize(claims))
    for claim in claims:
        print(f"  {claim.verdict}: {printable(claim.text, '')}")
    for table in tables:
        print("\n" + format_table(table, is_terminal))
    if any(table.has_marks for table in tables):
        print("\n† selected on the validation samples that it is of, so too high; do not compare it with the others")
    print("\nRuns\n" + format_runs(runs))
    for problem in problems[:_SHOWN]:
        print(f"note: {printable(problem.path, '')}: {printable(problem.reason, '')}", file=sys.stderr)
    if len(problems) > _SHOWN:
        print(f"note: … and {len(problems) - _SHOWN} more", file=sys.stderr)


def format_table(table: Table, is_terminal: bool = False) -> str:
    """Format a table in columns; the best value of each group is bold, or marked with * if colors are not wanted."""
    lines = [table.title]
    rows = [(row, group) for group in table.groups for row in group.rows]
    width = max(len(_name(row)) for row, _ in rows)
    texts = {id(row): [_text(row.cells.get(column.key), is_terminal) for column in table.columns] for row, _ in rows}
    widths = [
        max([len(column.title), *(len(texts[id(row)][n]) for row, _ in rows)]) for n, column in enumerate(table.columns)
    ]
    lines.append("  ".join([" " * width, *(c.title.rjust(w) for c, w in zip(table.columns, widths, strict=True))]))
    for group in table.groups:
        title = printable(group.title, "")
        lines.append(f"{_DIM}{title}{_RESET}" if is_terminal else f"-- {title}")
        for row in group.rows:
            cells = [text.rjust(size) for text, size in zip(texts[id(row)], widths, strict=True)]
            for n, column in enumerate(table.columns):
                if is_terminal and row.cells.get(column.key, Cell()).best:
                    cells[n] = f"{_BOLD}{cells[n]}{_RESET}"
            lines.append("  ".join([_name(row).ljust(width), *cells]).rstrip())
    return "\n".join(lines)


def _name(row: Row) -> str:
    return printable(f"{row.name} ({row.where})" if row.where else row.name, "")


def _text(cell: Cell | None, is_terminal: bool) -> str:
    text = format_cell(cell) if cell else ""
    return text + (" *" if cell and cell.best and not is_terminal else "")


def format_runs(runs: Sequence[Run]) -> str:
    """Format the state of each run, one per line."""
    rows = [("run", "kind", "state", "progress", "loss", "")]
    for run in runs:
        steps = run.plan.get("steps")
        progress = f"{run.step}/{steps}" if run.losses and steps else ""
        loss = f"{run.losses[-1]['loss']:.4g}" if run.losses else ""
        rows.append(
            (printable(run.name, ""), printable(run.kind, ""), run.status, progress, loss, printable(run.reason, ""))
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows)


def format_csv(tables: Sequence[Table]) -> str:
    """Format all values as CSV, one line each."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    head = ["table", "data", "row", "metric", "value", "low", "high", "published", "selected_on_validation", "runs"]
    writer.writerow(head)
    for table in tables:
        for group in table.groups:
            for row in group.rows:
                for column in table.columns:
                    cell = row.cells.get(column.key, Cell())
                    if cell.value is None:
                        continue
                    ends = cell.interval or ("", "")
                    names = " ".join(run.name for run in row.runs)
                    flags = [int(group.published), int(cell.selected), csv_cell(names)]
                    start = [table.key, csv_cell(group.title), csv_cell(row.name), column.title.removesuffix(" †")]
                    writer.writerow([*start, cell.value, *ends, *flags])
    return text.getvalue()
