"""Columns of the tables, each with a heading and what it means; titles and published figures of the tables."""

import json
import re
from pathlib import Path
from typing import NamedTuple

PUBLISHED = json.loads((Path(__file__).parent / "published.json").read_text(encoding="utf-8"))
PUBLISHED_NOTE = {
    "classification": "its SN7 split was random over mosaics, so every validation location was also in training",
    "retrieval": "its SN7 split was random over mosaics, so every validation location was also in training",
    "eurosat": "ResNet50, whole network, best epoch on the validation images",
    "crowdai": "Mask R-CNN R50-FPN, 90,000 iterations",
    "floods": "Hurricane Harvey, U-Net over ResNet50, two stages",
}
TITLES = {
    "classification": "Table 1. Classification with a linear layer, and with few labels",
    "retrieval": "Table 2. Neighbors and clusters of frozen features",
    "eurosat": "Table 3. EuroSAT land cover",
    "crowdai": "Table 4. Buildings of CrowdAI",
    "floods": "Table 5. Flood segmentation",
}
_PERCENT = re.compile(r"(label|frozen)(\d+)_(top\d)")
_COLUMNS = {
    "linear_top1": ("linear top-1", "Accuracy of a linear layer on frozen features, all labels, after the last epoch"),
    "linear_top5": ("linear top-5", "The correct class is among the five likeliest; linear layer on frozen features"),
    "own_top1": ("own top-1", "Accuracy of the classifier that the run itself trained on labels, after the last epoch"),
    "labels": ("labels", "Fraction of the training labels that were used"),
    "protocol": ("training", "frozen: a linear layer on frozen features; finetuned: the whole network is trained"),
    "top1": ("top-1", "Accuracy on the validation images after the last epoch"),
    "best_top1": ("best top-1 †", "Accuracy of the epoch that was best on the same validation images, so too high"),
    "tta_top1": ("with flips", "Accuracy with predictions averaged over eight flips and quarter turns"),
    "box_AP": ("box AP", "COCO average precision of boxes over IoU 0.50 to 0.95"),
    "box_AP50": ("box AP50", "Average precision of boxes at IoU 0.50"),
    "box_AP75": ("box AP75", "Average precision of boxes at IoU 0.75"),
    "mask_AP": ("mask AP", "COCO average precision of masks over IoU 0.50 to 0.95"),
    "mask_AP50": ("mask AP50", "Average precision of masks at IoU 0.50"),
    "mask_AP75": ("mask AP75", "Average precision of masks at IoU 0.75"),
    "building_dice": ("building Dice", "Dice of buildings: twice the overlap over the sum of both areas"),
    "building_iou": ("building IoU", "Intersection over union of buildings"),
    "flooded_dice": ("flooded Dice", "Dice of flooded buildings"),
    "flooded_iou": ("flooded IoU", "Intersection over union of flooded buildings"),
    "mean_iou": ("mean IoU", "Intersection over union, averaged over the classes of the masks"),
    "mean_dice": ("mean Dice", "Dice, averaged over the classes of the masks"),
    "kmeans_accuracy": ("k-means", "Accuracy of clusters matched with the classes (no labels used to cluster)"),
    "best_iou": ("best IoU †", "IoU of the epoch that was best on the same validation images, so too high"),
}
ORDER = {
    "classification": ["linear_top1", "linear_top5", "own_top1", "best_top1"],
    "eurosat": ["labels", "protocol", "top1", "best_top1", "tta_top1", "knn20_top1"],
    "crowdai": ["box_AP", "box_AP50", "box_AP75", "mask_AP", "mask_AP50", "mask_AP75"],
    "floods": ["building_dice", "building_iou", "flooded_dice", "flooded_iou", "mean_iou", "mean_dice", "best_iou"],
}


class Column(NamedTuple):
    """A column: key, heading, and what it means."""

    key: str
    title: str
    help: str


def column(key: str) -> Column:
    """Return heading and meaning of a column, also of those with a percentage or a number of neighbors."""
    if key.startswith("p2_"):
        _, title, help = column(key[3:])
        return Column(key, f"AOIs: {title}", f"Protocol 2: each AOI is a class; half of its patches are seen. {help}")
    if match := _PERCENT.fullmatch(key):
        kind, percent, top = match.groups()
        trained = "the whole network finetuned" if kind == "label" else "a linear layer on frozen features"
        word = "finetuned" if kind == "label" else "frozen"
        name = f"{percent} % {word} {top[:3]}-{top[3:]}"
        return Column(key, name, f"Top-{top[3:]} accuracy with {percent} % of the labels, {trained}")
    if match := re.fullmatch(r"knn(\d+)_top(\d)", key):
        k, top = match.groups()
        name = f"kNN-{k}" + ("" if top == "1" else f" top-{top}")
        return Column(key, name, f"Top-{top} accuracy of a vote of the {k} nearest training samples")
    return Column(key, *_COLUMNS.get(key, (key, "")))


def sort_key(key: str) -> tuple[bool, int, int, str]:
    """Return a key that sorts columns: few labels first, then neighbors by number, then clusters; protocol 2 last."""
    name = key.removeprefix("p2_")
    kind = next((place for place, start in enumerate(("label", "frozen", "knn")) if name.startswith(start)), 3)
    digits = re.search(r"\d+", name)
    return key != name, kind, int(digits[0]) if digits else 0, key
