#!/usr/bin/env python3
"""Print pip constraints that pin every requirement to its lower bound.

Usage: python .ci/lower_bounds.py > constraints.txt && make test PYTHON=python3.10 CONSTRAINTS=constraints.txt
"""

import re
from pathlib import Path

for line in (Path(__file__).resolve().parents[1] / "requirements.txt").read_text().splitlines():
    if match := re.match(r"([A-Za-z0-9._-]+)(?:\[.*\])?>=([0-9.]+)", line):
        print(f"{match[1]}=={match[2]}")
