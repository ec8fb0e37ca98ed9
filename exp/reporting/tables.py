"""Tables 1 to 5 of the earlier report, filled with the results of runs; its published figures are reference rows."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from exp.reporting.collect import Run
from exp.reporting.columns import ORDER, PUBLISHED, PUBLISHED_NOTE, TITLES, Column, column, sort_key
from exp.reporting.rows import Cell, Row, rows_of


@dataclass
class Group:
    """Rows that were evaluated on the same samples, so that their figures can be compared."""

    title: str
    rows: list[Row]
    published: bool = False


@dataclass
class Table:
    """A table; ``key`` is that of ``TITLES``."""

    key: str
    columns: list[Column]
    groups: list[Group]

    @property
    def title(self) -> str:
        """Heading of the table."""
        return TITLES[self.key]

    @property
    def has_marks(self) -> bool:
        """Whether a value was selected on the samples that it is of."""
        return any(cell.selected for group in self.groups for row in group.rows for cell in row.cells.values())


def build_tables(runs: Iterable[Run]) -> list[Table]:
    """Build the tables that have at least one row of ours."""
    groups_of: dict[str, dict[tuple[str, ...], dict[Any, Row]]] = {}
    titles: dict[tuple[str, ...], str] = {}
    for run in runs:
        for key, samples, row_id, row in rows_of(run) if run.result else ():
            rows = groups_of.setdefault(key, {}).setdefault(samples.key, {})
            titles[samples.key] = max(titles.get(samples.key, ""), samples.title, key=len)
            earlier = rows.get(row_id)
            if earlier and not set(earlier.cells) & set(row.cells):
                earlier.cells |= row.cells
                earlier.runs += row.runs
            else:
                rows[row_id if not earlier else (row_id, run.name)] = row
    for rows in (rows for groups in groups_of.values() for rows in groups.values()):
        names = [row.name for row in rows.values()]
        for row in rows.values():  # the folder tells rows of one backbone apart
            row.where = ", ".join(run.name for run in row.runs) if names.count(row.name) > 1 else ""
    named = {key: [(titles[samples], rows) for samples, rows in groups.items()] for key, groups in groups_of.items()}
    return [_table(key, named[key]) for key in TITLES if key in named]


def _table(key: str, groups: list[tuple[str, dict[Any, Row]]]) -> Table:
    used = {name for _, rows in groups for row in rows.values() for name in row.cells}
    reference = [Row(row["name"], _published_cells(row), kind="published") for row in PUBLISHED[key]]
    is_comparable = key not in ("classification", "retrieval") or any(title.startswith("SN7") for title, _ in groups)
    shown = [row for row in reference if is_comparable and set(row.cells) & used]
    used |= {name for row in shown for name in row.cells if not name.startswith("label1_")}  # of one row only
    order = [name for name in ORDER.get(key, []) if name in used]
    columns = [column(name) for name in [*order, *sorted(used - set(order), key=sort_key)]]
    content = [Group(title, _mark_best(_sorted(rows.values(), columns), columns)) for title, rows in groups]
    if shown:
        content.append(Group(f"Published figures of the earlier work (2022): {PUBLISHED_NOTE[key]}", shown, True))
    return Table(key, columns, content)


def _sorted(rows: Iterable[Row], columns: Sequence[Column]) -> list[Row]:
    """Sort rows by their labels and training, then by the first metric, the best first; constant predictions last."""
    metric = next((column.key for column in columns if any(_value(row, column.key) is not None for row in rows)), "")

    def key(row: Row) -> tuple[bool, float, str, float]:
        labels = row.cells.get("labels", Cell(text="0")).text
        training = row.cells.get("protocol", Cell()).text
        return row.kind == "constant", float(labels.strip(" %")), training, -(_value(row, metric) or 0.0)

    return sorted(rows, key=key)


def _value(row: Row, key: str) -> float | None:
    return row.cells.get(key, Cell()).value


def _published_cells(row: dict[str, Any]) -> dict[str, Cell]:
    return {
        name: Cell(text=value) if isinstance(value, str) else Cell(value, selected=name.startswith("best_"))
        for name, value in row.items()
        if name != "name"
    }


def _mark_best(rows: list[Row], columns: Sequence[Column]) -> list[Row]:
    """Mark the highest value of each column, of those not selected on the samples that they are of."""
    for key in [shown.key for shown in columns]:
        cells = [(row, row.cells[key]) for row in rows if key in row.cells and row.kind != "constant"]
        values = [cell.value for _, cell in cells if cell.value is not None and not cell.selected]
        for row, cell in cells:
            if len(values) > 1 and cell.value == max(values) and not cell.selected:
                row.cells[key] = cell._replace(best=True)
    return rows


def format_cell(cell: Cell) -> str:
    """Format a value with its interval, such as ``0.507 [0.461, 0.553]``; † marks selection on validation."""
    if cell.value is None:
        return cell.text
    text = f"{cell.value:.3f}"
    if cell.interval:
        text += " [{:.3f}, {:.3f}]".format(*cell.interval)
    return text + (" †" if cell.selected else "")
