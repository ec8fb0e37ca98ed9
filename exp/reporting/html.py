"""The report as one HTML page that needs no server and no network."""

import json
import math
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from exp.reporting import figures
from exp.reporting.collect import Problem, Run, number
from exp.reporting.compare import compare, summarize
from exp.reporting.curves import curves
from exp.reporting.rows import Cell
from exp.reporting.tables import Group, Table

TEMPLATES = Path(__file__).parent / "templates"
MAX_BYTES = 9_500_000  # of the page; pictures that do not fit are left out and counted
_RUN_BYTES, _ROW_BYTES = 2500, 1600  # of a run's details and of a table's row, at most as a rule
_ICONS = {"running": "●", "finished": "✓", "stopped": "❚❚", "failed": "✕", "killed": "✕", "unknown": "?"}


def render(title: str, runs: Sequence[Run], tables: Sequence[Table], problems: Sequence[Problem]) -> str:
    """Return the page of runs, their tables, and what is no run or cannot be read.

    Raises:
        ValueError: Plotly or Jinja2 is not installed.
    """
    try:
        import jinja2
        from plotly.offline import get_plotlyjs
    except ModuleNotFoundError as error:
        raise ValueError(
            f"the page needs {error.name}: pip install -r requirements.txt; --csv works without"
        ) from error
    plotly, problems = get_plotlyjs().replace("</script", "<\\/script"), list(problems)
    data: dict[str, Any] = {"curves": curves(runs)}
    rows = sum(len(group.rows) for table in tables for group in table.groups)
    text_bytes = _RUN_BYTES * len(runs) + _ROW_BYTES * rows + len(json.dumps(data))
    store = figures.ImageStore(MAX_BYTES - len(plotly.encode()) - text_bytes)
    data |= {"embedding": figures.embedding_maps(runs, store, problems)}
    data |= {"world": figures.world(runs, store), "confusions": figures.confusions(runs, store)}
    pictures = figures.encode_images(runs, store, problems)
    claims, places = compare(tables), {id(run): place for place, run in enumerate(runs)}
    loader = jinja2.FileSystemLoader(TEMPLATES)
    environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    page = environment.get_template("report.html.j2").render(
        title=title, now=datetime.now().strftime("%Y-%m-%d %H:%M"), runs=runs, tables=tables, problems=problems,
        summary=summarize(claims), claims=claims, pictures=pictures, left_out=store.left_out,
        counts={status: sum(run.status == status for run in runs) for status in _ICONS}, data=data,
        json=_script_json(data), plotly=plotly, index_of=lambda run: places[id(run)],
        duration=_duration, local=_local, bar=_bar, icons=_ICONS, number=number,
    )  # fmt: skip
    return page.encode("utf-8", "backslashreplace").decode()  # names may hold bytes that are not UTF-8


def _script_json(data: Any) -> str:
    """Return JSON for a script element: a ``</script>`` in a name does not end it."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    for char in "<>&\u2028\u2029":
        text = text.replace(char, f"\\u{ord(char):04x}")
    return text


def _bar(cell: Cell, key: str, group: Group) -> str | None:
    """Return the style of a bar that shows a value and its interval on the scale of its column, or None."""
    cells = [row.cells[key] for row in group.rows if key in row.cells and row.cells[key].value is not None]
    ends = [end for other in cells for end in (other.interval or (other.value, other.value))]
    low, high = min(ends), max(ends)
    if not cell.interval or cell.value is None or high <= low:
        return None
    start, end = cell.interval
    left, middle, right = (100 * (value - low) / (high - low) for value in (start, cell.value, end))
    return f"--low:{left:.1f}%;--value:{middle:.1f}%;--high:{100 - right:.1f}%"


def _local(time: Any) -> str:
    """Return an ISO time as local time, or as it is."""
    try:
        return datetime.fromisoformat(str(time)).astimezone().strftime("%Y-%m-%d %H:%M")
    except ValueError:
        return str(time or "")


def _duration(session: dict[str, Any]) -> str:
    """Return the duration of a session, up to now if it has no end."""
    try:
        start = datetime.fromisoformat(str(session.get("start")))
        end = datetime.fromisoformat(str(session["end"])) if session.get("end") else datetime.now(start.tzinfo)
        seconds = (end - start).total_seconds()
    except (ValueError, TypeError):
        return ""
    if seconds < 100:
        return f"{math.ceil(seconds)} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
