"""Run folders as the scripts leave them, small and written in milliseconds, for tests of the report."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from vicreg.common.plots import save_thumbnails

HOSTILE = "</script><script>window.hacked=1</script>\"'&<b>"  # a name of a class, an AOI or a source
CLASSES = ["Brazil", "Kenya", "New Zealand", HOSTILE]
AOIS = [
    ("L15-0331E-1257N_1327_3160_13", -121.66, 37.97),
    ("L15-1669E-1153N_6678_3579_13", 113.5, 22.2),
    (HOSTILE, 30, -2),
]


def write_json(path: Path, content) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def write_provenance(folder: Path, kind: str, status: str = "finished", message: str = "", **more) -> None:
    first = {
        "command": f"python main.py --exp-dir {folder.name}",
        "directory": "/home/user/cities",
        "commit": "1a2b3c4",
    }
    first |= {
        "dirty": True,
        "versions": {"python": "3.11.2", "torch": "2.6.0"},
        "device": "NVIDIA H100",
        "processes": 2,
    }
    first |= {"host": "node01", "data": {"validation samples": "5f1d"}, "start": "2026-01-02T20:00:00+00:00"}
    first |= {"end": "2026-01-02T21:30:00+00:00", "status": "stopped", "message": "SIGTERM"}
    last = first | {"start": "2026-01-02T22:00:00+00:00", "status": status, "message": message}
    last["end"] = None if status == "running" else "2026-01-03T04:10:00+00:00"
    write_json(folder / "provenance.json", {"schema": 1, "kind": kind, "sessions": [first, last]} | more)


def write_training(
    folder: Path, steps: int = 60, seed: int = 0, lines: int | None = None, bound: float = 1.9, **status
):
    """Write a pretraining run whose loss falls from 25 toward 17, far above its lower bound."""
    write_provenance(folder, "pretraining", **status)
    plan = {"steps": steps, "batch_size": 64, "steps_per_epoch": 10, "source": "VICReg, SN7"}
    config = {"loss": "vicreg", "augment": "temporal", "aug_override": ["scale=0.3,1"]}
    write_json(folder / "config.json", {"kind": "pretraining", "config": config, "plan": plan})
    rng = np.random.default_rng(seed)
    with (folder / "stats.txt").open("w") as file:
        for step in range(1, (lines or steps) + 1):
            line = {"epoch": (step - 1) // 10, "step": step, "lr": step / steps}
            line |= {"loss": 17 + 8 * float(np.exp(-step / 15)) + 0.1 * rng.normal(), "repr_loss": 0.1 / step}
            line |= {"embedding_std": 0.5, "pairs_per_second": 700.0 + rng.normal(), "data_time": 0.01}
            line |= {"effective_rank": 30 + step / 2, "loss_lower_bound": bound}
            file.write(json.dumps(line | ({"knn20_top1": 0.3 + step / 200} if step % 10 == 0 else {})) + "\n")
    picture(folder / "views.png", 12 * 60, 120, seed)
    dates = ("2018-12", "2019-03")
    write_json(folder / "views.json", [[{"location": HOSTILE, "date": date} for date in dates]] * 2)
    return folder


def write_evaluation(folder: Path, pretrained: str, source: str, top1: float, half: float = 0.03, **more) -> Path:
    """Write a linear probe of SN7."""
    write_provenance(folder, "evaluation")
    result = {"schema": 1, "task": "classification", "dataset": "SN7", "protocol": "freeze_100", "arch": "resnet18"}
    result |= {"pretrained": pretrained, "source": source, "train_samples": 900, "val_samples": 300, "top1": top1}
    result |= {"top5": min(1.0, top1 + 0.3), "best_top1": top1 + 0.02, "knn20_top1": top1 - 0.02, "seed": 0}
    result |= {"overlap": {"samples": 300, "location_overlap": 0.0, "exact_duplicates": 0.0}}
    names = ("top1", "knn20_top1")
    result["intervals"] = {name: [result[name] - half, result[name] + half] for name in names}
    result |= {"intervals_of": "95 % bootstrap, 1000 resamples of 40 whole locations", "args": {"csv_dir": "data/sn7"}}
    result |= {"selected_on_validation": ["best_top1"], "class_names": CLASSES}
    counts = np.full((4, 4), 3) + np.eye(4, dtype=int) * int(100 * top1)
    result |= {"confusion": counts.tolist()}
    columns = ("location", "longitude", "latitude")
    result["locations"] = [dict(zip(columns, aoi, strict=True)) | {"samples": 40, "top1": top1} for aoi in AOIS]
    write_json(folder / "result.json", result | more)
    return folder


def write_benchmark(folder: Path, name: str, samples: int = 120, **more) -> Path:
    """Write the results of evaluate_embeddings.py for one backbone: metrics, map and neighbors."""
    write_provenance(folder, "embedding benchmark")
    kinds = {"protocol": "embeddings", "label10_top1": 0.4, "kmeans_accuracy": 0.3, "protocol2": {"knn20_top1": 0.6}}
    out = write_evaluation(folder / name, name, name, 0.5, **(kinds | more))
    (out / "provenance.json").unlink()
    rng = np.random.default_rng(1)
    label = rng.integers(0, 4, samples)
    position = rng.normal(size=(samples, 2)) + np.stack([label % 2 * 6, label // 2 * 6], 1)
    places = [AOIS[row % 3] for row in range(samples)]
    info = {"location": [place[0] for place in places], "date": ["2018-12"] * samples}
    info |= {"longitude": [place[1] for place in places], "latitude": [place[2] for place in places]}
    tiles = np.full((samples, 3, 8, 8), 60, np.uint8) + (label * 40).astype(np.uint8)[:, None, None, None]
    columns = save_thumbnails(out / "thumbnails.jpg", [tiles])
    content = {"samples": 500, "thumbnails": "thumbnails.jpg", "side": 48, "columns": columns, "classes": CLASSES}
    content |= {"label": label.tolist(), "info": info, "x": position[:, 0].tolist(), "y": position[:, 1].tolist()}
    write_json(out / "embedding_map.json", content)
    picture(out / "neighbors.png", 600, 300, 2)
    return out


def write_tasks(folder: Path) -> None:
    """Write a result of each downstream task."""
    overlap = {"samples": 100, "location_overlap": None, "exact_duplicates": 0.0}
    common = {"schema": 1, "arch": "resnet18", "train_samples": 400, "val_samples": 100, "overlap": overlap}
    common |= {"intervals_of": "95 % bootstrap", "selected_on_validation": []}
    for name, top1 in (("random", 0.7), ("runs/vicreg/trained_model.pth", 0.9)):
        result = common | {"task": "classification", "dataset": "EuroSAT", "protocol": "EuroSAT finetune", "top1": top1}
        result |= {"best_top1": top1 + 0.01, "intervals": {"top1": [top1 - 0.02, top1 + 0.02]}, "source": name}
        result |= {"config": {"data_dir": "EuroSAT/2750", "train_percent": 10, "pretrained": name}, "classes": CLASSES}
        write_json(folder / f"eurosat_{Path(name).stem}" / "result.json", result)
    detection = {"box": {"AP": 0.55, "AP50": 0.87, "AP75": 0.61}, "mask": {"AP": 0.5, "AP50": 0.85, "AP75": 0.6}}
    result = common | {"task": "detection", "dataset": "CrowdAI", "protocol": "Mask R-CNN", "val": detection}
    write_json(folder / "crowdai" / "result.json", result | {"source": "random", "intervals": {}})
    iou = {"mean_iou": 0.41, "mean_dice": 0.52, "accuracy": 0.8, "intervals": {"mean_iou": [0.35, 0.46]}}
    result = common | iou | {"task": "segmentation", "dataset": "flood segmentation", "source": "random"}
    result |= {"last": iou | {"mean_iou": 0.39}, "config": {"task": "floodnet", "pretrained": "random"}}
    result |= {"constant": {"class": "grass", "mean_iou": 0.06}, "selected_on_validation": ["mean_iou"]}
    write_json(folder / "floodnet" / "result.json", result)
    picture(folder / "floodnet" / "examples.png", 900, 400, 3)


def write_example(folder: Path) -> Path:
    """Write a folder with runs of every kind and state, and with what is no run."""
    write_training(folder / "vicreg")
    write_training(folder / "interrupted", seed=1, lines=25, status="stopped", message="SIGTERM")
    write_training(folder / "crashed", seed=2, lines=12, status="failed", message="out of GPU memory")
    write_training(folder / "killed", seed=3, lines=40, status="running")
    write_evaluation(folder / "eval" / "random" / "freeze_100", "random", "random weights", 0.31)
    write_evaluation(folder / "eval" / "stats" / "freeze_100", "stats", "stats", 0.45)
    write_evaluation(folder / "eval" / "vicreg" / "freeze_100", "runs/vicreg/trained_model.pth", HOSTILE, 0.62)
    write_benchmark(folder / "bench" / "embeddings", "random")
    write_tasks(folder)
    write_json(folder / "newer" / "result.json", {"schema": 99, "top1": 0.5, "protocol": {"new": 1}, "intervals": 7})
    write_json(folder / "old" / "args.json", {"plan": {"source": "SN7", "batch_size": 64, "steps": 20}})
    (folder / "old" / "stats.txt").write_text('{"step": 1, "loss": 30.0, "pairs_per_second": 5.0}\n{"step": 2, "lo')
    (folder / "damaged").mkdir()
    (folder / "damaged" / "result.json").write_bytes(b'{"top1": 0.\xff')
    (folder / "notes.txt").write_text("not a run")
    (folder / "pictures").mkdir()
    return folder


def picture(path: Path, width: int, height: int, seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 255, (height // 20, width // 20, 3)).astype(np.uint8)
    Image.fromarray(pixels).resize((width, height)).save(path)
