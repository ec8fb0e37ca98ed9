"""What a comparison shows, in sentences: which backbone leads, and whether the intervals separate."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from exp.reporting.columns import column
from exp.reporting.rows import Row
from exp.reporting.tables import Group, Table, format_cell

_METRICS = {
    "classification": ("linear_top1", "own_top1"),
    "retrieval": ("knn20_top1",),
    "eurosat": ("top1",),
    "crowdai": ("box_AP",),
    "floods": ("building_iou", "flooded_iou", "mean_iou"),
}
_VERDICTS = {  # whether the intervals are separated: verdict if the first row is ahead or not, and the reason
    True: ("Better", "Worse", "beyond the intervals", "The 95 % intervals do not overlap."),
    False: ("Ahead", "Behind", "within the intervals",
            "The 95 % intervals overlap: this is no evidence of a difference."),
    None: ("Ahead", "Behind", "without intervals", "Intervals are missing, so it is open whether this is chance."),
}  # fmt: skip
_AGAINST = {  # kind of the other row: how it is called
    "baseline": "random weights and statistics",
    "supervised": "the supervised network",
    "pretrained": "the next best one",
}


class Claim(NamedTuple):
    """The comparison of the best pretrained backbone with the best baseline, supervised or other pretrained one."""

    against: str  # kind of the other one, a key of ``_AGAINST``
    text: str
    verdict: str  # short form of the text
    is_ahead: bool  # the pretrained backbone has the higher value
    is_separated: bool | None  # the intervals do not overlap; None without intervals


def compare(tables: Iterable[Table]) -> list[Claim]:
    """Compare the rows of each group of each table."""
    claims = []
    for table in tables:
        for group in table.groups:
            for key in () if group.published else _METRICS[table.key]:
                for rows in _comparable(group, key):
                    claims += _compare_rows(rows, key, group)
    return claims


def summarize(claims: Sequence[Claim]) -> str:
    """Return a sentence about the comparisons with each kind of backbone."""
    if not claims:
        return "Nothing to compare yet: no pretrained backbone was evaluated on the same samples as another one."
    parts = [(name, [claim for claim in claims if claim.against == kind]) for kind, name in _AGAINST.items()]
    return " ".join(_summarize(part, name) for name, part in parts if part)


def _summarize(claims: Sequence[Claim], other: str) -> str:
    better = sum(claim.is_ahead and claim.is_separated is True for claim in claims)
    worse = sum(not claim.is_ahead and claim.is_separated is True for claim in claims)
    count = f"{len(claims)} comparison{'s' * (len(claims) > 1)}"
    if better == len(claims):
        count = f"all {count}" if better > 1 else count
        return f"The pretrained backbone is better than {other} in {count}, beyond the intervals."
    if not better and not worse:
        return f"No difference to {other} is established: in {count}, the intervals overlap or are missing."
    parts = [f"better in {better}"] * bool(better) + [f"worse in {worse}"] * bool(worse)
    rest = len(claims) - better - worse
    parts += [f"not separated in {rest}"] * bool(rest)
    return f"Against {other}, the pretrained backbone is {', '.join(parts)} of {count}, by the intervals."


def _comparable(group: Group, key: str) -> list[list[Row]]:
    """Return the rows with a value of a metric, apart by the labels and the training that they had."""
    parts: dict[tuple[str, ...], list[Row]] = {}
    for row in group.rows:
        if row.kind != "constant" and key in row.cells and row.cells[key].value is not None:
            setting = tuple(row.cells[name].text for name in ("labels", "protocol") if name in row.cells)
            parts.setdefault(setting, []).append(row)
    return [rows for rows in parts.values() if len(rows) > 1]


def _compare_rows(rows: list[Row], key: str, group: Group) -> list[Claim]:
    """Compare the best pretrained row, if any, with the best of each other kind; without others, with the next one."""
    ordered = sorted(rows, key=lambda row: row.cells[key].value or 0.0, reverse=True)
    first = next((row for row in ordered if row.kind == "pretrained"), None)
    if first is None:
        return []
    others = [row for row in ordered if row is not first]
    best = {row.kind: row for row in reversed(others)}
    if len(best) > 1:
        best.pop("pretrained", None)
    return [_claim(first, best[kind], key, group) for kind in _AGAINST if kind in best]


def _claim(first: Row, other: Row, key: str, group: Group) -> Claim:
    one, two = first.cells[key], other.cells[key]
    is_ahead, is_separated = (one.value or 0) > (two.value or 0), None
    if one.interval and two.interval:
        is_separated = one.interval[0] > two.interval[1] or two.interval[0] > one.interval[1]
    ahead, behind, limits, reason = _VERDICTS[is_separated]
    setting = " ".join(first.cells[name].text for name in ("labels", "protocol") if name in first.cells)
    setting = f", {setting.replace('%', '% of the labels,')}" if setting else ""
    text = f"{column(key).title}{setting} on {group.title.split(',')[0]}: {first.name} {format_cell(one)}, "
    text += f"{'above' if is_ahead else 'not above'} {other.name} {format_cell(two)}. {reason}"
    return Claim(other.kind, text, f"{ahead if is_ahead else behind}, {limits}", is_ahead, is_separated)
