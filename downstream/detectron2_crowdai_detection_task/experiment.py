"""What a detection run says, and what it leaves in its folder."""

import json
from collections import Counter

import numpy as np
import torch
import yaml
from PIL import Image

from downstream.detectron2_crowdai_detection_task import coco, config, evaluation
from vicreg import distributed
from vicreg.common import checkpoint_io, files
from vicreg.common.cli import to_serializable
from vicreg.common.files import write_json
from vicreg.common.logger import log
from vicreg.data import leakage
from vicreg.engine import checkpoint

EXAMPLES = 8  # images in the picture
MOST_COMPARED = 5000  # images whose pixels are compared at the end of a run; minutes on slow disks


class Run:
    """All that belongs to one run, so that it can be kept and judged.

    Args:
        args: of train_crowdai.py. cfg: settings. splits: dict name -> ``coco.Split``.
        info: of the backbone: ``arch, in_chans, mean, std, source``.
        model: not wrapped for parallel training. optimizer, scheduler: where it is trained.
    """

    def __init__(self, args, cfg, splits, info, model, optimizer=None, scheduler=None):
        self.args, self.cfg, self.splits, self.model = args, cfg, splits, model
        self.optimizer, self.scheduler = optimizer, scheduler
        self.backbone = {key: info[key] for key in ("arch", "in_chans", "mean", "std", "source")}

    def announce(self, remarks, begin, device, bf16):
        """Say what is going to happen, and write ``args.json`` and ``config.yaml``."""
        if not distributed.is_main():
            return
        write_json(self.args.exp_dir / "args.json", {"args": to_serializable(vars(self.args)), "data": self._counts()})
        files.write_text(self.args.exp_dir / config.CONFIG_FILE, self.cfg.dump())
        solver, steps = self.cfg.SOLVER, self.cfg.SOLVER.MAX_ITER
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
        millions = sum(p.numel() for p in self.model.parameters()) / 1e6
        lines = [coco.describe(name, split.counts) for name, split in self.splits.items()]
        lines += remarks
        lines += [
            f"Mask R-CNN {self.backbone['arch']}-FPN, {millions:.1f} M parameters, from {self.backbone['source']}; "
            f"norm {self.cfg.MODEL.RESNETS.NORM}, {name} x {distributed.world_size()}, {'bf16' if bf16 else 'fp32'}",
            f"{steps} iterations of {solver.IMS_PER_BATCH} images, rate {solver.BASE_LR:g} x {solver.GAMMA:g} at "
            f"{', '.join(map(str, solver.STEPS))}, warm-up {solver.WARMUP_ITERS}, decay {solver.WEIGHT_DECAY:g}"
            f" -> {self.args.exp_dir}",
        ]
        log("\n".join(lines))
        if 0 < begin < steps:
            log(f"resume from step {begin}")

    def keep(self, step):
        """Write the checkpoint."""
        if not distributed.is_main():
            return
        sizes = Counter((record["height"], record["width"]) for record in self.splits["train"].records)
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "step": step,
            "backbone": self.backbone,
            "pretrained": self.args.pretrained,
            "categories": self.splits["train"].categories,
            "image_size": list(sizes.most_common(1)[0][0]),
            "settings": self.cfg.dump(),
            "seed": self.args.seed,
        }
        checkpoint_io.save(state, self.args.exp_dir / checkpoint_io.MODEL_FILE, previous=checkpoint.PREVIOUS_FILE)

    def judge(self, device):
        """Figures of each split that ``--eval-on`` names: dict name -> figures; said as well."""
        names = ("train", "val") if self.args.eval_on == "both" else (self.args.eval_on,)
        found = {}
        for name in names:
            found[name] = evaluation.judge(self.model, self.splits[name], name, self.cfg, self.args.exp_dir, device)
            if distributed.is_main():
                log(evaluation.words(name, found[name]))
        return found

    def conclude(self, device, step=None):
        """Judge, and write ``result.json`` and ``examples.png``."""
        found = self.judge(device)
        if not distributed.is_main():
            return
        shared = self._overlap()
        log(leakage.format_overlap(shared))
        result = {**found, "step": step or self.cfg.SOLVER.MAX_ITER, "backbone": self.backbone}
        result |= {"data": self._counts(), "overlap": shared, "args": to_serializable(vars(self.args))}
        write_json(self.args.exp_dir / "result.json", result)
        shown = [record for name in found for record in self.splits[name].records[: EXAMPLES // len(found)]]
        evaluation.save_examples(self.args.exp_dir / "examples.png", self.model, shown, self.cfg)
        log(f"{self.args.exp_dir / 'result.json'}, {self.args.exp_dir / 'examples.png'}")

    def _counts(self):
        return {name: split.counts for name, split in self.splits.items()}

    def _overlap(self):
        """Share of validation images whose very pixels are in training, in the form of ``vicreg.data.leakage``."""
        train, val = ([record["file_name"] for record in self.splits[name].records] for name in ("train", "val"))
        if len(train) + len(val) > MOST_COMPARED:
            return {"samples": len(val), "location_overlap": None, "exact_duplicates": None}
        return leakage.overlap_of_images(*((np.asarray(Image.open(path)) for path in paths) for paths in (train, val)))


def concluded(exp_dir, step, device):
    """Whether a folder's ``result.json`` is of this step; the same answer on all processes."""
    try:
        found = json.loads((exp_dir / "result.json").read_text())["step"] == step
    except (OSError, ValueError, KeyError):
        found = False
    return bool(distributed.all_reduce(torch.tensor(float(found), device=device), "max"))


def flatten(figures):
    """{"val": {"box": {"AP": …}}} -> {"val_box_AP": …}, without what is not known."""
    return {
        f"{name}_{task}_{metric}": value
        for name, tasks in figures.items()
        for task, metrics in tasks.items()
        for metric, value in metrics.items()
        if value is not None
    }


def check_same(earlier, cfg, categories, args):
    """Make sure that a folder's run can go on with today's settings.

    Args:
        earlier: its checkpoint. cfg: today's settings. categories: of today's data. args: of train_crowdai.py.

    Raises:
        ValueError: the model would be another one.
    """
    if not {"optimizer", "scheduler", "settings"} <= earlier.keys() or earlier["categories"] != categories:
        raise ValueError(f"{args.exp_dir} holds another kind of run, or other categories; choose another --exp-dir")
    before = earlier.get("pretrained", args.pretrained)
    if before != args.pretrained:
        raise ValueError(
            f"{args.exp_dir} holds a run with --pretrained {before}, not {args.pretrained}; choose another --exp-dir"
        )
    if args.arch and args.arch != earlier["backbone"]["arch"]:
        raise ValueError(f"{args.exp_dir} holds a run with {earlier['backbone']['arch']}, not {args.arch}")
    before, now = yaml.safe_load(earlier["settings"]), yaml.safe_load(cfg.dump())
    for model in (before["MODEL"], now["MODEL"]):
        model["DEVICE"] = ""
        for part in ("RESNETS", "FPN"):
            model[part]["NORM"] = model[part]["NORM"].replace("Sync", "")  # one process or many: the same weights
    if before["MODEL"] != now["MODEL"]:
        raise ValueError(f"{args.exp_dir} holds a run with other MODEL settings; choose another --exp-dir")
    if before["SOLVER"] != now["SOLVER"] or earlier["seed"] != args.seed:
        log("note: SOLVER settings or the seed are not those that this run began with")
