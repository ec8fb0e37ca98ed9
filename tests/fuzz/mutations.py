"""Hypothesis strategies that damage valid files: bytes, text encodings, JSON values, table cells, checkpoints."""

import copy
import io
import json

import torch
from hypothesis import strategies as st

NUMBERS = [0, -1, 1, 2**31, 2**63, -(2**63), 10**30, 0.5, -0.0, 1e9, 1e308, float("nan"), float("inf")]
TEXTS = ["", " ", "0", "-1", "nan", "1e400", "x" * 300, "a\nb", "\x00", "\ud800", "../..", "/vsicurl/http://x", "=1+1"]
scalars = st.one_of(st.sampled_from(NUMBERS), st.sampled_from(TEXTS), st.none(), st.booleans(), st.integers(-5, 5))
values = st.one_of(scalars, st.lists(scalars, max_size=3), st.dictionaries(st.sampled_from(TEXTS), scalars, max_size=2))
encodings = st.sampled_from(["utf-8", "utf-8", "utf-8-sig", "utf-16", "latin-1", "cp1252"])


@st.composite
def damaged_bytes(draw, content, first=None):
    """Flip, replace, remove, repeat or cut off parts of bytes; in the first ``first`` bytes mostly."""
    content = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        end = len(content) if first is None or draw(st.integers(0, 3)) == 0 else min(first, len(content))
        at = draw(st.integers(0, max(0, end - 1)))
        kind = draw(st.sampled_from(["flip", "set", "word", "remove", "repeat", "cut", "insert"]))
        if kind == "flip" and content:
            content[at] ^= 1 << draw(st.integers(0, 7))
        elif kind == "set" and content:
            content[at] = draw(st.sampled_from([0, 1, 0x7F, 0x80, 0xFE, 0xFF]))
        elif kind == "word":
            content[at : at + 4] = draw(st.sampled_from([b"\0" * 4, b"\xff" * 4, b"\xff\xff\xff\x7f", b"\1\0\0\0"]))
        elif kind == "remove":
            del content[at : at + draw(st.integers(1, 40))]
        elif kind == "repeat":
            part = content[at : at + draw(st.integers(1, 40))]
            content[at:at] = part
        elif kind == "cut":
            del content[at:]
        else:
            content[at:at] = draw(st.binary(max_size=8))
    return bytes(content)


@st.composite
def damaged_text(draw, text):
    """Encode text, perhaps in an unexpected way, and perhaps damage its bytes."""
    content = text.encode(draw(encodings), "replace")
    return draw(damaged_bytes(content)) if draw(st.integers(0, 2)) == 0 else content


@st.composite
def damaged_tree(draw, tree, leaf=values):
    """Drop, replace, rename or duplicate values of nested dicts and lists."""
    tree = copy.deepcopy(tree)
    for _ in range(draw(st.integers(1, 3))):
        parent, key = None, None
        node = tree
        while isinstance(node, (dict, list)) and node and (parent is None or draw(st.integers(0, 3))):
            key = draw(st.sampled_from(list(node) if isinstance(node, dict) else range(len(node))))
            parent, node = node, node[key]
        if parent is None:
            return draw(leaf)
        kind = draw(st.sampled_from(["replace", "replace", "drop", "rename", "wrap"]))
        if kind == "drop":
            del parent[key]
        elif kind == "rename" and isinstance(parent, dict):
            parent[draw(st.sampled_from(TEXTS))] = parent.pop(key)
        else:
            parent[key] = [node] if kind == "wrap" else draw(leaf)
    return tree


@st.composite
def damaged_json(draw, content):
    """Change values of a JSON document, or its text."""
    kind = draw(st.sampled_from(["tree"] * 6 + ["text"] * 2 + ["deep"]))
    if kind == "deep":
        return draw(st.sampled_from([b"[" * 10**5, b'{"a": ' * 10**5, b"9" * 10**4]))
    text = json.dumps(draw(damaged_tree(content)) if kind == "tree" else content)
    return text.encode("utf-8", "replace") if kind == "tree" else draw(damaged_text(text))


@st.composite
def damaged_lines(draw, lines):
    """Change values of a file of JSON objects, one per line."""
    return b"\n".join(draw(damaged_json(line)) for line in lines) + b"\n"


@st.composite
def damaged_csv(draw, text):
    """Change cells, columns, the delimiter or the text of a table."""
    rows = [line.split(",") for line in text.splitlines()]
    for _ in range(draw(st.integers(1, 3))):
        row = rows[draw(st.integers(0, len(rows) - 1))]
        kind = draw(st.sampled_from(["cell", "cell", "cell", "short", "long", "column", "row", "quote"]))
        at = draw(st.integers(0, max(0, len(row) - 1)))
        if kind == "cell" and row:
            row[at] = str(draw(scalars))
        elif kind == "short" and row:
            del row[at]
        elif kind == "long":
            row.append("x")
        elif kind == "column":
            for other in rows:
                del other[at : at + 1]
        elif kind == "row" and len(rows) > 1:
            rows.remove(row)
        elif row:
            row[at] = '"' + row[at]
    delimiter = draw(st.sampled_from([",", ",", ",", ";", "\t"]))
    return draw(damaged_text("\n".join(map(delimiter.join, rows)) + "\n"))


tensors = st.sampled_from([
    torch.zeros(()), torch.zeros(0), torch.full((3,), float("nan")), torch.full((3, 3, 3, 3), float("inf")),
    torch.zeros(2, 2, dtype=torch.int64), torch.zeros(1).expand(10**6, 10**4),
    torch.zeros(3, dtype=torch.complex64), torch.eye(2).to_sparse(),
])  # fmt: skip


@st.composite
def damaged_checkpoint(draw, content):
    """Change values of a dict of tensors, or bytes of its file."""
    buffer = io.BytesIO()
    whole = draw(st.integers(0, 2)) == 0
    torch.save(content if whole else draw(damaged_tree(content, st.one_of(values, tensors))), buffer)
    return draw(damaged_bytes(buffer.getvalue())) if whole else buffer.getvalue()
