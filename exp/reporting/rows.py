"""Rows of the tables, from the results of runs of any version."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from exp.reporting.collect import Run, as_dict, number
from exp.reporting.columns import ORDER
from vicreg.common.files import printable

BASELINES = {
    "random": "Random weights", "stats": "Color statistics", "pixels": "Raw pixels", "imagenet": "ImageNet weights",
}  # fmt: skip
_SUPERVISED = re.compile(r"(?<![a-z])(?<![a-z]-)supervised")  # not self-supervised
WEIGHTS = ("trained_model.pth", "model.pth", "best_model.pth")


class Cell(NamedTuple):
    """A value of a table; ``selected`` if it was selected on the samples that it is of, ``best`` in its group."""

    value: float | None = None
    interval: tuple[float, float] | None = None
    selected: bool = False
    text: str = ""
    best: bool = False
    std: float | None = None
    seeds: int = 1


class Samples(NamedTuple):
    """What a result was computed on: equal keys can be compared."""

    key: tuple[str, ...]
    title: str


@dataclass
class Row:
    """A row: a backbone under one evaluation."""

    name: str
    cells: dict[str, Cell]
    detail: str = ""
    kind: str = "pretrained"  # or baseline, supervised, published, constant
    runs: list[Run] = field(default_factory=list)
    where: str = ""  # folder, if another row has the same name


def rows_of(run: Run) -> Iterable[tuple[str, Samples, Any, Row]]:
    """Yield table, samples, row id and row of each table that a result has figures for."""
    result = run.result
    if "mean_iou" in result:
        yield from _segmentation(run)
    elif any(isinstance(result.get(part), dict) and "box" in result[part] for part in ("val", "train")):
        yield from _detection(run)
    elif result.get("dataset") == "EuroSAT" or str(result.get("protocol")).startswith("EuroSAT"):
        yield "eurosat", _samples(run), run.name, _row(run, _eurosat_cells(run))
    else:
        cells = _classification_cells(run)
        identity = backbone_path(run) or run.name
        for key, is_of in (("classification", False), ("retrieval", True)):
            part = {name: cell for name, cell in cells.items() if _is_retrieval(name) == is_of}
            if part:
                yield key, _samples(run), identity, _row(run, part)


def _is_retrieval(name: str) -> bool:
    return name.removeprefix("p2_").startswith(("knn", "kmeans"))


def _cells(values: dict[str, Any], names: dict[str, str], prefix: str = "") -> dict[str, Cell]:
    """Make cells of metrics; ``names`` maps those of a result to columns."""
    intervals, selected = as_dict(values.get("intervals")), values.get("selected_on_validation")
    selected = selected if isinstance(selected, list) else []
    cells = {}
    for name, column in names.items():
        value, ends = number(values.get(name)), intervals.get(name)
        valid = isinstance(ends, list) and len(ends) == 2 and all(number(end) is not None for end in ends)
        if value is not None:
            seeds = values.get("seeds") if isinstance(values.get("seeds"), int) else 1
            is_selected = name in selected or name.startswith("best_")
            interval = (ends[0], ends[1]) if valid else None
            std = number(values.get(f"{name}_std"))
            cells[prefix + column] = Cell(value, interval, is_selected, std=std, seeds=seeds)
    return cells


def _classification_cells(run: Run) -> dict[str, Cell]:
    result = run.result
    protocol = str(result.get("protocol") or run.path.name)
    match = re.fullmatch(r"(freeze|frozen|finetune)_(\d+)", protocol)
    top = {"top1": "linear_top1", "top5": "linear_top5"}
    if protocol == "supervised":
        top = {"top1": "own_top1", "best_top1": "best_top1"}
    elif match and match[0] not in ("freeze_100", "frozen_100"):
        kind = "label" if match[1] == "finetune" else "frozen"
        top = {name: f"{kind}{match[2]}_{name}" for name in top}
    names = top | {
        f"label{percent}_{name}": f"frozen{percent}_{name}" for percent in (1, 10) for name in ("top1", "top5")
    }
    names |= {key: key for key in result if re.fullmatch(r"knn\d+_top1|kmeans_accuracy", key)}
    cells = _cells(result, names)
    second = as_dict(result.get("protocol2"))
    kept = {key: key for key in second if re.fullmatch(r"knn\d+_top1|kmeans_accuracy", key)}
    return cells | _cells(second, kept, "p2_")


def _eurosat_cells(run: Run) -> dict[str, Cell]:
    frozen = str(run.result.get("protocol")).endswith("linear")
    cells = _cells(run.result, {name: name for name in ("top1", "tta_top1", "knn20_top1")})
    if not frozen:  # the head of frozen features is evaluated once
        cells |= _cells(run.result, {"best_top1": "best_top1"})
    percent = number(run.config.get("train_percent")) or 100
    return {"labels": Cell(text=f"{percent:g} %"), "protocol": Cell(text="frozen" if frozen else "finetuned"), **cells}


def _detection(run: Run) -> Iterable[tuple[str, Samples, Any, Row]]:
    for part in ("val", "train"):
        metrics = as_dict(run.result.get(part))
        flat = {f"{kind}_{name}": value for kind in metrics for name, value in as_dict(metrics[kind]).items()}
        if cells := _cells(flat, {name: name for name in ORDER["crowdai"]}):
            samples = _samples(run, "" if part == "val" else "on training images, which the detector has seen")
            yield "crowdai", samples, (run.name, part), _row(run, cells)


def _segmentation(run: Run) -> Iterable[tuple[str, Samples, Any, Row]]:
    """Yield the last epoch, or the test images with the best epoch; the best epoch on validation is marked."""
    result, config = run.result, run.config
    has_test = bool(as_dict(result.get("test")))
    honest = as_dict(result.get("test")) or as_dict(result.get("last"))
    kind = {"building": "building", "flooded": "flooded"}.get(str(config.get("task")), "mean")
    names = {"mean_iou": f"{kind}_iou", "mean_dice": f"{kind}_dice"}
    cells = _cells(honest, names) | _cells(result, {"mean_iou": "best_iou"})
    if kind == "mean":
        flooded = {f"flooded_{key}": as_dict(honest.get(key)).get("building flooded") for key in ("iou", "dice")}
        cells |= _cells(flooded, {name: name for name in flooded})
    samples = _samples(run, "test images" if has_test else "")
    yield "floods", samples, run.name, _row(run, cells)
    constant = as_dict(result.get("constant"))
    if constant and not has_test:
        row = Row(f"“{constant.get('class')}” everywhere", _cells(constant, names), kind="constant")
        yield "floods", samples, ("constant", str(constant.get("class"))), row


def _row(run: Run, cells: dict[str, Cell]) -> Row:
    name, detail, kind = describe_backbone(run)
    return Row(name, cells, detail, kind, [run])


def describe_backbone(run: Run) -> tuple[str, str, str]:
    """Return name, description and kind (baseline, supervised or pretrained) of the backbone of a result."""
    result, source = run.result, str(run.result.get("source") or "")
    pretrained = str(result.get("pretrained") or run.config.get("pretrained") or "")
    arch = str(result.get("arch") or "")
    if pretrained in BASELINES or (not pretrained and source in BASELINES):
        name = pretrained or source
        return BASELINES[name], "" if arch == name else arch, "baseline"
    if result.get("protocol") == "supervised":
        return run.name, source, "supervised"
    path = Path(pretrained)
    name = path.parent.name if path.name in WEIGHTS and path.parent.name else path.name
    kind = "supervised" if _SUPERVISED.search(f"{source} {name}".lower()) else "pretrained"
    return name or source or run.name, source if source != name else arch, kind


def backbone_path(run: Run) -> str:
    """Return what identifies the backbone of a result: its file, a baseline, or the folder of its own run."""
    pretrained = str(run.result.get("pretrained") or "")
    if not pretrained or pretrained in BASELINES:
        return pretrained
    directory = str(run.session.get("directory") or ".")
    return str(Path(printable(directory), printable(pretrained)).resolve().parent)  # no NUL, which resolve refuses


def _samples(run: Run, part: str = "") -> Samples:
    """Return the samples of a result; the digest of their list tells them apart where it is recorded."""
    result = run.result
    args = run.config | as_dict(result.get("args"))
    data = Path(str(args.get("csv_dir") or args.get("data_dir") or "")).name
    count = result.get("val_samples", result.get("val_images"))
    name = str(result.get("dataset") or "")
    known = not data or data.lower() == name.lower()
    parts = [" ".join([name, *[data] * (not known)]).strip() or "unknown data"]
    if isinstance(count, int):
        parts.append(f"{count:,} validation samples")
    shared = as_dict(result.get("overlap"))
    for key, text in (("location_overlap", "show a training location"), ("exact_duplicates", "equal a training image")):
        if (value := number(shared.get(key))) is not None:
            parts.append(f"{value:.0%} {text}")
    if isinstance(result.get("task"), str) and str(run.config.get("task")) not in ("None", "floodnet"):
        parts[0] += f", {run.config['task']}"
    digests = as_dict(run.session.get("data"))
    digest = digests.get("validation samples") or digests.get("samples")
    title = ", ".join([*parts, part] if part else parts)
    return Samples((name, str(digest), str(count), part) if digest else (title,), title)
