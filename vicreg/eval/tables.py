"""Results of several backbones side by side: on the screen, as Markdown and as JSON."""

COLUMNS = {
    "top1": "linear top-1", "top5": "top-5", "knn5_top1": "kNN-5", "knn20_top1": "kNN-20", "knn200_top1": "kNN-200",
    "kmeans_accuracy": "k-means", "kmeans_nmi": "NMI", "kmeans_ari": "ARI", "effective_rank": "rank",
    "alignment": "alignment", "uniformity": "uniformity",
}  # fmt: skip


def cells(results):
    """What a table says.

    Args:
        results: dict name -> dict of figures, with ``intervals`` for some of them.

    Returns:
        list of rows of strings, the headings first; a column for every figure that some result has.
    """
    keys = [key for key in _with_other_neighbors(results) if any(r.get(key) is not None for r in results.values())]
    rows = [["backbone", *(_heading(key) for key in keys)]]
    for name, result in results.items():
        rows.append([name, *(_cell(key, result.get(key), result.get("intervals", {}).get(key)) for key in keys)])
    return rows


def as_text(results):
    """The table in columns, for a terminal."""
    rows = cells(results)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
                     for row in rows)  # fmt: skip


def as_markdown(results):
    """The table in Markdown."""
    head, *rows = (f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in cells(results))
    return "\n".join([head, "|" + "---|" * (len(cells(results)[0])), *rows])


def _with_other_neighbors(results):
    """The usual columns, shares of the labels, and kNN with other numbers of neighbors where results have them."""
    keys = list(COLUMNS)
    shares = {key for result in results.values() for key in result if key.startswith("label") and key.endswith("_top1")}
    keys[keys.index("top5") + 1 : keys.index("top5") + 1] = sorted(shares, key=lambda key: int(key[5:-5]))
    found = {key for result in results.values() for key in result if key.startswith("knn") and key.endswith("_top1")}
    others = sorted(found - set(keys), key=lambda key: int(key[3:-5]))
    place = keys.index("kmeans_accuracy")
    return keys[:place] + others + keys[place:]


def _heading(key):
    if key.startswith("label"):
        return f"{key[5:-5]} % of labels"
    return COLUMNS.get(key) or f"kNN-{key[3:-5]}"


def _cell(key, value, interval):
    if value is None:
        return ""
    text = f"{value:.1f}" if key == "effective_rank" else f"{value:.3f}"
    return text if interval is None else f"{text} [{interval[0]:.2f} {interval[1]:.2f}]"
