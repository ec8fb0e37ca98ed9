"""Problems in input files, collected and reported together."""

import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from vicreg.common.files import printable

MAX_LISTED = 20  # problems spelled out in a report; the others are counted


class Problem(NamedTuple):
    """A problem with an input file or folder."""

    kind: str  # for counting, such as "wrong size"
    path: Path
    message: str


def check_problems(problems: Sequence[Problem], on_error: str, source: str | Path) -> None:
    """Print problems of a source on stderr; raise ValueError if ``--on-error`` is "stop" and there are any."""
    if problems:
        print(format_problems(problems), file=sys.stderr)
        if on_error == "stop":
            raise ValueError(f"nothing written: fix the problems of {source} listed above, or leave the bad files out "
                             "with --on-error skip")  # fmt: skip


def format_problems(problems: Sequence[Problem]) -> str:
    """Format problems as text: counts by kind, then the first ``MAX_LISTED`` with their paths."""
    total = f"{len(problems)} problem{'s' * (len(problems) != 1)}"
    lines = [f"{total}: {count_kinds(problems)}"]
    lines += [f"  {printable(problem.path, '')}: {printable(problem.message, '')}" for problem in problems[:MAX_LISTED]]
    if len(problems) > MAX_LISTED:
        lines.append(f"  … and {len(problems) - MAX_LISTED} more")
    return "\n".join(lines)


def count_kinds(problems: Sequence[Problem]) -> str:
    """Format the number of problems of each kind, such as ``2 x wrong size``."""
    kinds = Counter(problem.kind for problem in problems)
    return ", ".join(f"{count} x {kind}" for kind, count in sorted(kinds.items()))
