"""Problems found in input files, collected and reported together."""

from collections import Counter
from pathlib import Path
from typing import NamedTuple

LISTED = 20  # problems spelled out in a report; the rest are counted


class Problem(NamedTuple):
    """Something wrong with the tree: its kind (for counting), the path, and what is wrong with it."""

    kind: str
    path: Path
    what: str


def report(problems):
    """Problems -> text: counts by kind, then the first ``LISTED`` with their paths."""
    kinds = Counter(problem.kind for problem in problems)
    total = f"{len(problems)} problem{'s' * (len(problems) != 1)}"
    lines = [f"{total}: " + ", ".join(f"{count} x {kind}" for kind, count in sorted(kinds.items()))]
    lines += [f"  {problem.path}: {problem.what}" for problem in problems[:LISTED]]
    if len(problems) > LISTED:
        lines.append(f"  … and {len(problems) - LISTED} more")
    return "\n".join(lines)
