#!/usr/bin/env python3
"""Train Mask R-CNN on the buildings of the CrowdAI mapping challenge, starting from a pretrained backbone.

    python train_crowdai.py --data-dir ../../data/crowdai --pretrained ../../exp/sn7/trained_model.pth \
        --exp-dir ../../exp/crowdai --num-gpus 4

prints what the data holds and what was loaded, then losses and the time left, then box and mask AP, AP50, AP75 on the
validation images; leaves ``result.json``, ``examples.png``, ``stats.txt``, ``tensorboard/``, ``model.pth`` and
``config.yaml`` in ``--exp-dir``. Start it again on the same folder to go on. Settings of Detectron2 can be changed at
the end: ``… SOLVER.IMS_PER_BATCH 8 SOLVER.MAX_ITER 30000``. Needs Detectron2: ``bash install_detectron2.sh``.
"""

import argparse
import os
import signal
import sys
from pathlib import Path

if __name__ == "__main__":  # import from the repo root, wherever we are launched
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from downstream.detectron2_crowdai_detection_task import detectron2_setup
from vicreg.common import cli

HERE = Path(__file__).resolve().parent


def get_parser():
    """Arguments of the script."""
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    run = parser.add_argument_group("run")
    run.add_argument("--exp-dir", type=Path, required=True, help="folder of the run; started again on it, it resumes")
    run.add_argument("--seed", type=int, default=0, help="settles new weights, order and augmentation")
    run.add_argument("--resume", action="store_true", help="insist on going on: an error where there is no run")
    run.add_argument("--eval-only", action="store_true", help="figures of the run's checkpoint, no training")
    run.add_argument("--eval-on", choices=["val", "train", "both"], default="val", help="splits to compute figures on")
    model = parser.add_argument_group("model")
    model.add_argument("--pretrained", help="trained_model.pth, random, imagenet, or a torchvision file")
    model.add_argument("--arch", help="resnet18, 34, 50 or 101, where --pretrained does not say it")
    data = parser.add_argument_group("data")
    data.add_argument(
        "--data-dir", type=Path, default=HERE.parents[1] / "data" / "crowdai", help="holds train/ and val/"
    )
    for name in ("train", "val"):
        text = f"name in {name}/, or a path (annotation-small.json is the challenge's short list)"
        data.add_argument(f"--{name}-json", default="annotation.json", help=text)
    machine = parser.add_argument_group("settings and machines")
    machine.add_argument("--config-file", type=Path, default=HERE / "configs" / "train_config.yaml", help="the recipe")
    machine.add_argument(
        "--device", choices=["auto", "cuda", "cpu"], default="auto", help="auto: GPUs if there are any"
    )
    machine.add_argument("--precision", choices=["auto", "bf16", "fp32"], default="fp32", help="auto: bf16 on GPUs")
    machine.add_argument("--num-gpus", type=int, default=1, help="processes on each machine")
    machine.add_argument("--num-machines", type=int, default=1, help="each starts this command")
    machine.add_argument("--machine-rank", type=int, default=0, help="number of this machine, from 0")
    machine.add_argument("--dist-url", default="auto", help="where processes meet: tcp://first-machine:port")
    parser.add_argument(
        "changes", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="changes of Detectron2's settings"
    )
    return parser


def main(args):
    """Start the processes."""
    if not args.eval_only and not args.pretrained:
        raise ValueError("--pretrained is missing: trained_model.pth, random, imagenet, or a torchvision file")
    if args.num_machines > 1 and args.dist_url == "auto":
        raise ValueError("several machines need --dist-url tcp://first-machine:port, the same on all")
    detectron2_setup.need()
    if args.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # launch would take GPUs for its messages
    import torch
    from detectron2.engine import launch

    gpus = torch.cuda.device_count()
    if gpus and args.num_gpus > gpus:
        raise ValueError(f"--num-gpus {args.num_gpus}: {gpus} visible on this machine")
    if args.num_gpus > 1:
        pass_on_signals()
    try:
        launch(one_process, args.num_gpus, args.num_machines, args.machine_rank, args.dist_url, (args,))
    except torch.multiprocessing.ProcessExitedException as error:  # which has said why
        sys.exit(error.exit_code or 1)


def pass_on_signals():
    """Hand what a scheduler sends to this process, which only waits, on to those that train and can save."""
    import multiprocessing

    def pass_on(number, frame):
        for child in multiprocessing.active_children():
            os.kill(child.pid, number)

    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, pass_on)


def one_process(args):
    """Train in one of the processes."""
    from detectron2.utils import comm

    from downstream.detectron2_crowdai_detection_task import trainer

    if comm.get_world_size() > 1:
        os.environ["LOCAL_RANK"] = str(comm.get_local_rank())
    cli.run(trainer.train, args)


if __name__ == "__main__":
    cli.run(main, get_parser().parse_args())
