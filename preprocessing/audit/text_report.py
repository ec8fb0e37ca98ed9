"""What ``findings.compare`` found, for people: a page of text, and a picture of the first pairs."""

import textwrap

from preprocessing.audit.compare import KINDS
from preprocessing.audit.phash import HASH_SIZE

LISTED = 12  # classes in the text; the JSON has all


def text(found, turned=True, shifted=True):
    """The report.

    Args:
        found: of ``findings.with_names``. turned, shifted: whether orientations and shifts were looked for.

    Returns:
        str of several lines.
    """
    lines = [
        f"{role:12s}{found[key]['samples']:8d}  {found[key]['name']}"
        for role, key in (("training", "train"), ("validation", "val"))
    ]
    lines.append("")
    if "exact" in found:
        lines += _pixel_lines(found, turned, shifted)
    if "places" in found:
        places = found["places"]
        notes = [f"{places['location_overlap']} of the {places['places']} in validation are in training too"]
        if places["elsewhere"]:
            notes.append(f"{places['elsewhere']} more have the name of one in training and lie elsewhere: not counted")
        if places["unknown"]:
            notes.append(f"{places['unknown']} of them by name alone: no position in a JSON beside the image")
        lines += _finding(f"same {places['kind']}", places, notes)
    else:
        lines.append("places are not known here")
    lines += ["", *_class_lines(found["classes"])]
    total = found["overlap"]
    lines += ["", f"validation samples with any overlap: {total['samples']} ({total['share']:.2%})"]
    return "\n".join(lines)


def _pixel_lines(found, turned, shifted):
    exact, near = found["exact"], found["near"]
    lines = _finding(
        "same pixels", exact, [f"{exact['one_color']} of them one color all over"] * bool(exact["samples"])
    )
    looked = ["flips and quarter turns"] * turned + ["shifts up to 1/16 of the side"] * shifted
    notes = [f"at most {near['bits']} of {HASH_SIZE**2} bits differ" + "".join(f", {what}" for what in looked)]
    if near["left_out_val"] or near["left_out_train"]:
        notes.append(f"left out as featureless (contrast below {near['min_contrast']:g} of 255): "
                     f"{near['left_out_val']} validation and {near['left_out_train']} training images")  # fmt: skip
    lines += _finding("near duplicates", near, notes)
    for part in ("val", "train"):
        if found[part]["unreadable"]:
            lines.append(f"not readable: {found[part]['unreadable']} in {found[part]['name']}")
            lines += [f"    {problem}" for problem in found[part]["problems"][:3]]
    return lines


def _finding(title, finding, notes):
    lines = [f"{title}: {finding['samples']} validation samples ({finding['share']:.2%})"]
    lines += [f"    {note}" for note in notes]
    for pair in finding["pairs"]:
        bits = f"  ({pair['bits']} bits)" if pair["bits"] is not None else ""
        lines.append(f"    {pair['val']}  =  {pair['train']}{bits}")
    return lines


def _class_lines(classes):
    counts = classes["counts"]
    if not counts:
        return ["classes are not known here"]
    totals = [max(1, sum(count[part] for count in counts.values())) for part in (0, 1)]
    lines = [f"{len(counts)} classes                      training          validation"]
    largest = sorted(counts.items(), key=lambda item: -sum(item[1]))
    for name, (train, val) in largest[:LISTED]:
        lines.append(f"  {name[:24]:24s} {train:8d} {train / totals[0]:7.2%} {val:8d} {val / totals[1]:7.2%}")
    if len(counts) > LISTED:
        lines.append(f"  … and {len(counts) - LISTED} smaller ones (--json lists all)")
    for key, where in (("only_val", "in validation only"), ("only_train", "in training only")):
        names = classes[key]
        listed = f" ({', '.join(names[:8])}{', …' * (len(names) > 8)})" if names else ""
        lines.append(f"{where}: {len(names)} classes{listed}")
    return lines


def draw(path, found, train, val):
    """Draw pairs side by side, the validation sample on the left.

    Args:
        path: .png. found: of ``findings.shorten``. train, val: parts.Part.

    Returns:
        how many pairs were drawn; without any, nothing is written.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    pairs = [(kind, pair) for kind in KINDS if kind in found for pair in found[kind]["pairs"]]
    if not pairs:
        return 0
    columns = min(3, len(pairs))
    rows = -(-len(pairs) // columns)
    figure, axes = pyplot.subplots(rows, 2 * columns, figsize=(3.6 * columns, 2.2 * rows), squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for number, (kind, (v, t, bits)) in enumerate(pairs):
        left, right = axes[number // columns, 2 * (number % columns) :][:2]
        left.imshow(val.pixels(v))
        right.imshow(train.pixels(t))
        left.set_title({"exact": "same pixels", "near": f"near, {bits} bits", "places": "same place"}[kind], fontsize=8)
        for axis, name in ((left, val.samples[v]), (right, train.samples[t])):
            lines = "\n".join(textwrap.wrap(name[-96:], 34))
            axis.text(0.5, -0.02, lines, fontsize=5, ha="center", va="top", transform=axis.transAxes)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
    return len(pairs)
