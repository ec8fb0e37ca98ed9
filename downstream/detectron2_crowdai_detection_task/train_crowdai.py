#!/usr/bin/env python3
"""Train Mask R-CNN on the buildings of the CrowdAI mapping challenge, starting from a pretrained backbone.

    python train_crowdai.py --data-dir ../../data/crowdai --pretrained ../../exp/sn7/trained_model.pth \
        --exp-dir ../../exp/crowdai --num-gpus 4

prints the corrections of the annotations and Detectron2's log, then box and mask AP, AP50 and AP75 on the validation
images. ``--exp-dir`` receives ``result.json``, ``examples.png``, ``provenance.json``, ``metrics.json``, ``log.txt``,
TensorBoard events, ``config.yaml`` and checkpoints. Add ``--resume`` to continue from the last checkpoint. Settings of
Detectron2 follow at the end: ``… SOLVER.IMS_PER_BATCH 8 SOLVER.MAX_ITER 30000``. Needs Detectron2:
``bash install_detectron2.sh``.
"""

import argparse
import os
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

if __name__ == "__main__":  # import from the repo root, wherever we are launched
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from downstream.detectron2_crowdai_detection_task import dataset, detectron2_setup
from vicreg.common import cli, files, provenance
from vicreg.common.logger import lock_run_dir
from vicreg.common.trackers import check_tracker
from vicreg.engine.arguments import add_tracker_argument
from vicreg.engine.precision import use_bf16
from vicreg.eval.config import add_normalization_arguments
from vicreg.exporters import detectron2
from vicreg.models.backbones import format_normalization, load_backbone

HERE = Path(__file__).resolve().parent


def get_parser() -> argparse.ArgumentParser:
    """Add the options of this task to Detectron2's parser; raise ValueError without Detectron2."""
    detectron2_setup.require()
    from detectron2.engine import default_argument_parser

    parser = default_argument_parser(epilog=" ")
    parser.description = __doc__.split("\n")[0]
    parser.set_defaults(config_file=str(HERE / "configs" / "train_config.yaml"), dist_url="auto")
    task = parser.add_argument_group("task")
    task.add_argument("--exp-dir", type=Path, required=True, help="run folder")
    task.add_argument("--pretrained", help="trained_model.pth, random, imagenet, or a torchvision file")
    task.add_argument("--arch", help="resnet18, 34, 50 or 101, if --pretrained does not name it")
    add_normalization_arguments(task)
    task.add_argument("--data-dir", type=Path, default=HERE.parents[1] / "data/crowdai", help="holds train/ and val/")
    for name in ("train", "val"):
        text = f"name in {name}/, or a path (annotation-small.json is the short list of the challenge)"
        task.add_argument(f"--{name}-json", default="annotation.json", help=text)
    task.add_argument("--eval-on", choices=["val", "train", "both"], default="val", help="splits to evaluate on")
    task.add_argument("--seed", type=int, default=0, help="of new weights, order and augmentation")
    task.add_argument("--device", choices=["auto", "cuda", "cpu"], default="auto", help="auto: a GPU if there is one")
    task.add_argument("--precision", choices=["auto", "bf16", "fp32"], default="fp32", help="auto: bf16 on GPUs")
    add_tracker_argument(task, "settings and metrics")
    return parser


def main(args: argparse.Namespace) -> None:
    """Check the options, lock the run folder, and start."""
    import torch

    from downstream.detectron2_crowdai_detection_task import experiment

    cli.check_positive(args, "num_gpus", "num_machines")
    check_tracker(args.tracker)
    files.check_outside(args.exp_dir, args.data_dir)
    if args.dist_url != "auto" and not args.dist_url.startswith(("tcp://", "file://", "env://")):
        raise ValueError(f"--dist-url {args.dist_url}: tcp://first-machine:port is needed")
    device = detectron2_setup.choose_device(args.device)
    if args.num_machines > 1 and args.dist_url == "auto":
        raise ValueError("several machines need --dist-url tcp://first-machine:port, the same on all")
    if args.num_gpus > 1 and (device == "cpu" or args.num_gpus > torch.cuda.device_count()):
        raise ValueError(f"--num-gpus {args.num_gpus}: this machine has {torch.cuda.device_count()}")
    run = experiment.load_run(args.exp_dir)
    if args.eval_only and not run:
        raise FileNotFoundError(f"--eval-only: no checkpoint in {args.exp_dir}")
    if run and args.resume:
        experiment.check_resume(args.exp_dir, run, args.pretrained, args.arch)
    elif run and not args.eval_only:
        raise ValueError(f"{args.exp_dir} holds a run; add --resume, or choose another --exp-dir")
    elif not run and not args.pretrained:
        raise ValueError("--pretrained is missing: trained_model.pth, random, imagenet, or a torchvision file")
    with ExitStack() as stack:  # each machine runs this script, on one folder: the first one writes there
        if args.machine_rank == 0:
            stack.enter_context(lock_run_dir(args.exp_dir))
        if args.machine_rank or args.eval_only:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        else:
            folder = args.exp_dir.resolve()
        start(args, folder, run, device)


def start(args, folder, run, device):
    """Prepare data, backbone and configuration, with files in ``folder``, and start the processes of this machine."""
    import torch
    from detectron2.engine import launch

    names = {"train": args.train_json, "val": args.val_json}
    resumed = args.exp_dir if run and args.resume else None
    splits = dataset.prepare_splits(args.data_dir, names, folder, run and run["classes"], resumed)
    cfg, run = configure(args, folder, splits, run, device)
    run |= dataset.report(splits) | {"args": cli.to_serializable(vars(args))}
    processes = args.num_gpus * args.num_machines
    if cfg.SOLVER.IMS_PER_BATCH < 1 or cfg.SOLVER.IMS_PER_BATCH % processes:
        raise ValueError(f"SOLVER.IMS_PER_BATCH {cfg.SOLVER.IMS_PER_BATCH} is not a multiple of {processes} processes")
    machines = (args.num_gpus, args.num_machines, args.machine_rank, args.dist_url)
    if args.machine_rank == 0:
        digests = {f"{name} annotations": files.file_digest(split.json_file)[:16] for name, split in splits.items()}
        provenance.start(args.exp_dir, "CrowdAI detection", torch.device(device), digests)
    try:
        launch(run_process, *machines, (args, cfg, splits, run))
    except torch.multiprocessing.ProcessExitedException as error:  # the process has printed the reason
        sys.exit(error.exit_code or 1)
    provenance.finish()


def configure(args, folder, splits, run, device):
    """Return the configuration and the content of ``run.json``; write the backbone of a new run for Detectron2."""
    from downstream.detectron2_crowdai_detection_task import config

    evaluated = ("train", "val") if args.eval_on == "both" else (args.eval_on,)
    fixed = {"OUTPUT_DIR": str(args.exp_dir), "DATASETS.TEST": tuple(splits[name].dataset_name for name in evaluated)}
    if args.eval_only:
        return config.load_config(args.exp_dir, args.opts, fixed, device), run
    weights = folder / "backbone.pkl"
    fixed |= {"MODEL.ROI_HEADS.NUM_CLASSES": len(splits["train"].classes), "MODEL.WEIGHTS": str(weights)}
    fixed |= {"DATASETS.TRAIN": (splits["train"].dataset_name,), "SEED": args.seed}
    if run:
        cfg = config.build_config(args.config_file, args.opts, run["backbone"], fixed, device)
        config.check_same_model(args.exp_dir, cfg)
        return cfg, run
    backbone, info = load_backbone(args.pretrained, args.arch, seed=args.seed, mean=args.mean, std=args.std)
    cfg = config.build_config(args.config_file, args.opts, info, fixed, device)
    print(info["report"], detectron2.save(weights, backbone, info), sep="\n", flush=True)
    if info["mean"] and info["std"]:
        print(format_normalization(info["mean"], info["std"], info["normalization"] or "of the weights"), flush=True)
    return cfg, {
        "pretrained": args.pretrained,
        "backbone": {key: info[key] for key in ("arch", "in_chans", "mean", "std", "source")},
        "classes": splits["train"].classes,
        "image_size": splits["train"].image_size,
    }


def run_process(args, cfg, splits, run):
    """Train or evaluate in one of the processes."""
    from detectron2.utils import comm

    if comm.get_world_size() == 1:
        return train(args, cfg, splits, run)
    os.environ["LOCAL_RANK"] = str(comm.get_local_rank())  # the first one prints errors
    return cli.run(lambda args: train(args, cfg, splits, run), args)


def train(args, cfg, splits, run):
    """Train, unless ``--eval-only``, evaluate, and write the results."""
    import torch
    from detectron2.engine import default_setup
    from detectron2.utils import comm, logger

    from downstream.detectron2_crowdai_detection_task import experiment, model
    from downstream.detectron2_crowdai_detection_task.trainer import Trainer

    for split in splits.values():
        dataset.register(split)
    if args.eval_only:
        logger.setup_logger(distributed_rank=comm.get_rank())
        detector, step = model.load_model(cfg.MODEL.WEIGHTS or model.find_checkpoint(args.exp_dir), cfg)
        results = Trainer.test(cfg, detector)
    else:
        default_setup(cfg, args)
        if comm.is_main_process():
            files.write_json(args.exp_dir / experiment.RUN_FILE, run)
        bf16 = use_bf16(args.precision, torch.device(cfg.MODEL.DEVICE))
        trainer = Trainer(cfg, bf16, args.tracker, run["args"])
        trainer.resume_or_load(args.resume)
        results, detector = trainer.train(), getattr(trainer.model, "module", trainer.model)
        step = max(trainer.start_iter, trainer.max_iter)  # a finished run that resumes adds 1 to trainer.iter
    if comm.is_main_process():
        names = [name for name, split in splits.items() if split.dataset_name in cfg.DATASETS.TEST]
        experiment.write_results(args.exp_dir, results, names, step, run)
        experiment.save_examples(args.exp_dir / "examples.png", detector, cfg, splits[names[0]])


if __name__ == "__main__":
    cli.run(lambda _: main(cli.parse(get_parser())), None)
