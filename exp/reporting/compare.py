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
_VERDICTS = {
    (True, True): "Better, beyond the intervals",
    (True, False): "Ahead, within the intervals",
    (True, None): "Ahead, without intervals",
    (False, True): "Worse, beyond the intervals",
    (False, False): "Behind, within the intervals",
    (False, None): "Behind, without intervals",
}


class Claim(NamedTuple):
    """The comparison of the best pretrained backbone with the best other one; without these, of the best two.

    Attributes:
        text: The sentence.
        verdict: Its short form.
        is_ahead: Whether the pretrained backbone has the higher value.
        is_separated: Whether the intervals do not overlap; None without intervals.
    """

    text: str
    verdict: str
    is_ahead: bool
    is_separated: bool | None


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
    """Return one sentence about all comparisons."""
    if not claims:
        return "Nothing to compare yet: no two backbones were evaluated on the same samples."
    better = sum(claim.is_ahead and claim.is_separated is True for claim in claims)
    worse = sum(not claim.is_ahead and claim.is_separated is True for claim in claims)
    count = f"{len(claims)} comparison{'s' * (len(claims) > 1)}"
    if better == len(claims):
        count = f"all {count}" if better > 1 else count
        return f"The pretrained backbone is better than the best alternative in {count}, beyond the intervals."
    if not better and not worse:
        return f"No difference is established: in {count}, the intervals never separate the best two backbones."
    parts = [f"the pretrained backbone is better beyond the intervals in {better}"] * bool(better)
    parts += [f"worse beyond them in {worse}"] * bool(worse)
    rest = len(claims) - better - worse
    parts += [f"not separated from the best alternative in {rest}"] * bool(rest)
    if not better:
        parts[0] = f"the pretrained backbone is {parts[0]}".replace("beyond them", "beyond the intervals")
    return f"Of {count}, " + ", ".join(parts) + "."


def _comparable(group: Group, key: str) -> list[list[Row]]:
    """Return the rows with a value of a metric, apart by the labels and the training that they had."""
    parts: dict[tuple[str, ...], list[Row]] = {}
    for row in group.rows:
        if row.kind != "constant" and key in row.cells and row.cells[key].value is not None:
            setting = tuple(row.cells[name].text for name in ("labels", "protocol") if name in row.cells)
            parts.setdefault(setting, []).append(row)
    return [rows for rows in parts.values() if len(rows) > 1]


def _compare_rows(rows: list[Row], key: str, group: Group) -> list[Claim]:
    ordered = sorted(rows, key=lambda row: row.cells[key].value or 0.0, reverse=True)
    first = next((row for row in ordered if row.kind == "pretrained"), ordered[0])
    others = [row for row in ordered if row.kind != "pretrained"] or [row for row in ordered if row is not first]
    other = next((row for row in others if row is not first), None)
    if other is None:
        return []
    one, two = first.cells[key], other.cells[key]
    is_ahead, is_separated = (one.value or 0) > (two.value or 0), None
    if one.interval and two.interval:
        is_separated = one.interval[0] > two.interval[1] or two.interval[0] > one.interval[1]
    reason = {
        True: "The 95 % intervals do not overlap.",
        False: "The 95 % intervals overlap: this is no evidence of a difference.",
        None: "Intervals are missing, so it is open whether this is chance.",
    }[is_separated]
    setting = " ".join(first.cells[name].text for name in ("labels", "protocol") if name in first.cells)
    setting = f", {setting.replace('%', '% of the labels,')}" if setting else ""
    text = f"{column(key).title}{setting} on {group.title.split(',')[0]}: {first.name} {format_cell(one)}, "
    text += f"{'above' if is_ahead else 'not above'} {other.name} {format_cell(two)}. {reason}"
    return [Claim(text, _VERDICTS[is_ahead, is_separated], is_ahead, is_separated)]
