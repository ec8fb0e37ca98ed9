"""How good a detector is on a split: COCO's average precisions of boxes and masks, and a picture."""

import contextlib
import io
import math
from pathlib import Path

import numpy as np
import torch
from detectron2.data import MetadataCatalog
from detectron2.data import transforms as T
from detectron2.data.detection_utils import read_image
from detectron2.evaluation import COCOEvaluator, inference_on_dataset
from detectron2.utils import comm
from PIL import Image

from downstream.detectron2_crowdai_detection_task import coco
from downstream.detectron2_crowdai_detection_task.dataset import judging_batches
from vicreg import distributed
from vicreg.common import files
from vicreg.common.files import write_json
from vicreg.inference import polygons

METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")
TASKS = {"box": "bbox", "mask": "segm"}  # our words: COCO's


def judge(model, split, name, cfg, exp_dir, device):
    """Average precisions of a model; the processes share the work.

    Args:
        model: not wrapped for parallel training. split: ``coco.Split``. name: of the split.
        cfg: settings. exp_dir: where ``ground_truth_<name>.json`` goes. device: torch.device.

    Returns:
        dict of plain values on the main process, with figures from 0 to 1: ``box`` and ``mask``, each of AP (mean over
        IoU 0.50:0.95), AP50, AP75 and AP of small, medium and large objects (None where there are none); empty on the
        others.
    """
    path = Path(exp_dir) / f"ground_truth_{name}.json"
    if distributed.is_main():
        write_json(path, coco.ground_truth(split))
    comm.synchronize()
    key = f"crowdai_{name}"
    MetadataCatalog.pop(key, None)  # of an earlier call
    MetadataCatalog.get(key).set(
        json_file=str(path),
        thing_classes=[category["name"] for category in split.categories],
        thing_dataset_id_to_contiguous_id={category["id"]: n for n, category in enumerate(split.categories)},
    )
    evaluator = COCOEvaluator(key, tuple(TASKS.values()), distributed=distributed.world_size() > 1)
    batches = judging_batches(split.records, cfg, distributed.rank(), distributed.world_size(), device)
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its own tables
        found = inference_on_dataset(model, batches, evaluator)
    if not distributed.is_main():
        return {}
    return {
        task: {metric: _share(found[theirs][metric], metric) for metric in METRICS} for task, theirs in TASKS.items()
    }


def _share(percent, metric):
    """A figure as a share. COCO has none without any detection, which is no precision at all: 0."""
    if math.isnan(percent):
        return 0.0 if metric in ("AP", "AP50", "AP75") else None
    return round(percent / 100, 6)


def words(name, figures):
    """The figures of a split in one line, in the order of the published table."""
    parts = [f"{task} " + " ".join(f"{m} {figures[task][m]:.4f}" for m in ("AP", "AP50", "AP75")) for task in TASKS]
    return f"{name}: " + "   ".join(parts)


@torch.no_grad()
def look(model, image, cfg):
    """Show one image to a model.

    Args:
        model: in eval mode. image: uint8 (H, W, 3), RGB. cfg: settings.

    Returns:
        Instances in CPU memory, of boxes, scores and masks (n, H, W).
    """
    height, width = image.shape[:2]
    resize = T.ResizeShortestEdge([cfg.INPUT.MIN_SIZE_TEST] * 2, cfg.INPUT.MAX_SIZE_TEST)
    seen = resize.get_transform(image).apply_image(image)
    seen = torch.as_tensor(np.ascontiguousarray(seen.transpose(2, 0, 1)))
    return model([{"image": seen, "height": height, "width": width}])[0]["instances"].to("cpu")


def save_examples(path, model, records, cfg, threshold=0.5):
    """Write a picture: images side by side, true polygons above and predicted ones below.

    Args:
        path: of the PNG. model: any mode. records: of ``coco.Split``. cfg: settings.
        threshold: lowest score that is drawn.
    """
    was_training = model.training
    model.eval()
    columns = []
    for record in records:
        image = read_image(record["file_name"], format="RGB")
        truth = [polygons.from_rings(found["segmentation"]) for found in record["annotations"]]
        found = polygons.from_masks(look(model, image, cfg), threshold)
        tiles = [polygons.draw(image, truth, (60, 180, 255)), polygons.draw(image, [f.shape for f in found])]
        tiles = [np.asarray(Image.fromarray(tile).resize((300, 300))) for tile in tiles]
        columns.append(np.concatenate([np.pad(tile, ((2, 2), (2, 2), (0, 0)), constant_values=255) for tile in tiles]))
    model.train(was_training)
    files.atomic_write(path, Image.fromarray(np.concatenate(columns, 1)).save)
