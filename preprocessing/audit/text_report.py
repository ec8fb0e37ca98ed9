"""Format the result of ``compare.compare`` as text, and plot its first pairs."""

import textwrap
from pathlib import Path
from typing import Any

from preprocessing.audit.compare import KINDS
from preprocessing.audit.phash import HASH_SIZE
from preprocessing.audit.samples import Subset
from vicreg.common import files
from vicreg.common.plots import literal

MAX_CLASSES = 12  # listed in the text; the JSON has all
TITLES = {"exact": "equal pixels", "near": "near duplicates", "location": "same location"}


def format_report(result: dict[str, Any], dihedral: bool, shifted: bool) -> str:
    """Format the result of ``compare.name_pairs`` as text; the flags say what was tried."""
    lines = [
        f"{role:12s}{result[key]['samples']:8d}  {result[key]['name']}"
        for role, key in (("training", "train"), ("validation", "val"))
    ]
    lines.append("")
    if "exact" in result:
        lines += _format_pixels(result, dihedral, shifted)
    if "location" in result:
        location = result["location"]
        notes = [f"{location['locations_shared']} of {location['locations']} validation locations are in training"]
        if location["same_name_elsewhere"]:
            notes.append(f"not counted: {location['same_name_elsewhere']} that have the name of a training location "
                         "and other coordinates")  # fmt: skip
        if location["position_unknown"]:
            notes.append(f"{location['position_unknown']} of them by name only: no coordinates in a JSON file")
        lines += _format_overlap(f"same {location['kind']}", location, notes)
    else:
        lines.append("locations are unknown")
    lines += ["", *_format_classes(result["classes"])]
    total = result["overlap"]
    lines += ["", f"validation samples with any overlap: {total['samples']} ({total['fraction']:.2%})"]
    return "\n".join(lines)


def _format_pixels(result: dict[str, Any], dihedral: bool, shifted: bool) -> list[str]:
    exact, near = result["exact"], result["near"]
    notes = [f"{exact['uniform']} of them of one color"] if exact["samples"] else []
    lines = _format_overlap(TITLES["exact"], exact, notes)
    tried = ["rotations and flips"] * dihedral + ["shifts up to 1/16 of the side"] * shifted
    notes = [f"at most {near['max_bits']} of {HASH_SIZE**2} bits differ" + "".join(f", {what}" for what in tried)]
    if near["excluded_val"] or near["excluded_train"]:
        notes.append(f"excluded as featureless (contrast below {near['min_contrast']:g} of 255): "
                     f"{near['excluded_val']} validation and {near['excluded_train']} training images")  # fmt: skip
    lines += _format_overlap(TITLES["near"], near, notes)
    for part in ("val", "train"):
        if result[part]["unreadable"]:
            lines.append(f"unreadable: {result[part]['unreadable']} in {result[part]['name']}")
            lines += [f"    {error}" for error in result[part]["errors"][:3]]
    return lines


def _format_overlap(title: str, overlap: dict[str, Any], notes: list[str]) -> list[str]:
    lines = [f"{title}: {overlap['samples']} validation samples ({overlap['fraction']:.2%})"]
    lines += [f"    {note}" for note in notes]
    for pair in overlap["pairs"]:
        bits = f"  ({pair['bits']} bits)" if pair["bits"] is not None else ""
        lines.append(f"    {pair['val']}  =  {pair['train']}{bits}")
    return lines


def _format_classes(classes: dict[str, Any]) -> list[str]:
    counts = classes["counts"]
    if not counts:
        return ["classes are unknown"]
    totals = [max(1, sum(count[part] for count in counts.values())) for part in (0, 1)]
    lines = [f"{len(counts)} classes                      training          validation"]
    largest = sorted(counts.items(), key=lambda item: -sum(item[1]))
    for name, (train, val) in largest[:MAX_CLASSES]:
        lines.append(f"  {name[:24]:24s} {train:8d} {train / totals[0]:7.2%} {val:8d} {val / totals[1]:7.2%}")
    if len(counts) > MAX_CLASSES:
        lines.append(f"  … and {len(counts) - MAX_CLASSES} smaller ones (--json lists all)")
    for key, where in (("only_val", "in validation only"), ("only_train", "in training only")):
        names = classes[key]
        listed = f" ({', '.join(names[:8])}{', …' * (len(names) > 8)})" if names else ""
        lines.append(f"{where}: {len(names)} classes{listed}")
    return lines


def plot_pairs(path: str | Path, result: dict[str, Any], train: Subset, val: Subset) -> bool:
    """Plot the pairs of ``compare.limit_pairs`` side by side, validation on the left; return False without any pair."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    pairs = [(kind, pair) for kind in KINDS if kind in result for pair in result[kind]["pairs"]]
    if not pairs:
        return False
    columns = min(3, len(pairs))
    rows = -(-len(pairs) // columns)
    figure, axes = pyplot.subplots(rows, 2 * columns, figsize=(3.6 * columns, 2.2 * rows), squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for number, (kind, (v, t, bits)) in enumerate(pairs):
        left, right = axes[number // columns, 2 * (number % columns) :][:2]
        left.imshow(val.read(v))
        right.imshow(train.read(t))
        left.set_title(TITLES[kind] + (f", {bits} bits" if bits is not None else ""), fontsize=8)
        for axis, name in ((left, val.samples[v]), (right, train.samples[t])):
            lines = literal("\n".join(textwrap.wrap(name[-96:], 34)))
            axis.text(0.5, -0.02, lines, fontsize=5, ha="center", va="top", transform=axis.transAxes)
    figure.tight_layout()
    files.atomic_write(path, lambda tmp_path: figure.savefig(tmp_path, dpi=120))
    pyplot.close(figure)
    return True
