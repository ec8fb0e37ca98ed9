"""Tables that compare several backbones, as text and as Markdown."""

from typing import Any

COLUMNS = {
    "top1": "linear top-1", "top5": "top-5", "knn5_top1": "kNN-5", "knn20_top1": "kNN-20", "knn200_top1": "kNN-200",
    "kmeans_accuracy": "k-means", "kmeans_nmi": "NMI", "kmeans_ari": "ARI", "effective_rank": "rank",
    "alignment": "alignment", "uniformity": "uniformity",
}  # fmt: skip
Results = dict[str, dict[str, Any]]  # backbone name to metrics, with ``intervals`` for some of them


def cells(results: Results) -> list[list[str]]:
    """Return the rows of the table, the headings first; one column for every metric that some backbone has."""
    keys = [key for key in _column_keys(results) if any(r.get(key) is not None for r in results.values())]
    rows = [["backbone", *(_heading(key) for key in keys)]]
    for name, result in results.items():
        rows.append([name, *(_cell(key, result.get(key), result.get("intervals", {}).get(key)) for key in keys)])
    return rows


def as_text(results: Results) -> str:
    """Format the table in columns, for a terminal."""
    rows = cells(results)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
                     for row in rows)  # fmt: skip


def as_markdown(results: Results) -> str:
    """Format the table in Markdown."""
    head, *rows = (f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in cells(results))
    return "\n".join([head, "|" + "---|" * (len(cells(results)[0])), *rows])


def _column_keys(results: Results) -> list[str]:
    """Return ``COLUMNS``, label fractions, and kNN with other numbers of neighbors if there are any."""
    keys = list(COLUMNS)
    names = {key for result in results.values() for key in result if key.endswith("_top1")}
    fractions = sorted((key for key in names if key.startswith("label")), key=lambda key: int(key[5:-5]))
    neighbors = sorted((key for key in names - set(keys) if key.startswith("knn")), key=lambda key: int(key[3:-5]))
    start, end = keys.index("top5") + 1, keys.index("kmeans_accuracy")
    return [*keys[:start], *fractions, *keys[start:end], *neighbors, *keys[end:]]


def _heading(key: str) -> str:
    if key.startswith("label"):
        return f"{key[5:-5]} % of labels"
    return COLUMNS.get(key) or f"kNN-{key[3:-5]}"


def _cell(key: str, value: float | None, interval: list[float] | None) -> str:
    if value is None:
        return ""
    text = f"{value:.1f}" if key == "effective_rank" else f"{value:.3f}"
    return text if interval is None else f"{text} [{interval[0]:.2f} {interval[1]:.2f}]"
