"""Training of Mask R-CNN from a given backbone, in one process or in many."""

import os
import sys
import time

import torch
from detectron2.solver import build_lr_scheduler, build_optimizer
from detectron2.utils.events import EventStorage

from downstream.detectron2_crowdai_detection_task import coco, config, detectron2_setup, experiment
from downstream.detectron2_crowdai_detection_task import model as detection_model
from downstream.detectron2_crowdai_detection_task.dataset import training_batches
from vicreg import distributed
from vicreg.augmentations.batch import seed_step
from vicreg.common.logger import MetricLogger, format_eta, lock_run_dir, log
from vicreg.engine import checkpoint
from vicreg.engine.config import use_bf16
from vicreg.engine.parallel import wrap_ddp
from vicreg.engine.preemption import PreemptionGuard, clear_preempted_marker, write_preempted_marker
from vicreg.models.backbones import load_backbone

LOG_EVERY = 20  # steps between lines


def train(args):
    """Train, or go on where the run in ``args.exp_dir`` was cut off, and judge; to be called by each process.

    Args:
        args: of train_crowdai.py.

    Raises:
        ValueError, OSError: what is wrong with data, settings, weights or the folder's earlier run.
        FloatingPointError: the loss is not finite; the last good checkpoint is kept.
    """
    detectron2_setup.need()
    device = distributed.init(args.device, int(os.environ.get("LOCAL_RANK", 0)))
    lock = lock_run_dir(args.exp_dir) if distributed.is_main() else None
    clear_preempted_marker(args.exp_dir)
    splits = read_splits(args)
    if args.eval_only:
        judge_only(args, splits, device)
        return
    detectron2_setup.keep_log(args.exp_dir / f"log{distributed.rank() or ''}.txt")
    earlier, _ = checkpoint.load_latest(args.exp_dir, device)
    if args.resume and not earlier:
        raise ValueError(f"--resume: {args.exp_dir} holds no run to go on with")
    if earlier:
        backbone, info = None, earlier.get("backbone")
    else:
        backbone, info = load_backbone(args.pretrained, args.arch, seed=args.seed)
    if not info:
        raise ValueError(f"{args.exp_dir} holds a run of another kind; choose another --exp-dir")
    cfg, remarks = config.read(args.config_file, args.changes)
    config.fit(cfg, info, len(splits["train"].categories), device, distributed.world_size())
    if earlier:
        experiment.check_same(earlier, cfg, splits["train"].categories, args)
    model = detection_model.build(cfg, args.seed)
    if not earlier:
        remarks = [info["report"], detection_model.take_backbone(model, backbone, info), *remarks]
    model = model.to(device)
    optimizer = build_optimizer(cfg, model)
    scheduler = build_lr_scheduler(cfg, optimizer)
    begin = 0
    if earlier:
        model.load_state_dict(earlier["model"])
        decays = [group["weight_decay"] for group in optimizer.param_groups]
        optimizer.load_state_dict(earlier["optimizer"])
        take_up(scheduler, earlier["scheduler"], optimizer, decays)
        begin = earlier["step"]
    del backbone, earlier
    bf16, concluded = use_bf16(args.precision, device), experiment.concluded(args.exp_dir, begin, device)
    run = experiment.Run(args, cfg, splits, info, model, optimizer, scheduler)
    run.announce(remarks, begin, device, bf16)
    if begin < cfg.SOLVER.MAX_ITER:
        loop(run, begin, device, bf16)
    if begin < cfg.SOLVER.MAX_ITER or not concluded:  # it may have been cut off while it was judged
        run.conclude(device)
    else:
        log(f"done already; --eval-only computes the figures anew ({args.exp_dir / 'result.json'})")
    if lock:
        lock.close()
    distributed.destroy()


def take_up(scheduler, earlier, optimizer, decays):
    """Go on with an earlier run's schedule where it stood, at today's rates and weight decay.

    Args:
        scheduler: of today's settings, new. earlier: state of the other. optimizer: loaded. decays: of its groups, new.
    """
    rates = scheduler.base_lrs
    scheduler.load_state_dict(earlier)
    scheduler.base_lrs = rates
    for group, rate, base, decay in zip(optimizer.param_groups, scheduler.get_lr(), rates, decays, strict=True):
        group.update(lr=rate, initial_lr=base, weight_decay=decay)


def loop(run, begin, device, bf16):
    """The steps from ``begin`` to the last one.

    Args:
        run: record.Run. device: of this process. bf16: whether to autocast.
    """
    cfg, model = run.cfg, run.model
    steps, processes = cfg.SOLVER.MAX_ITER, distributed.world_size()
    parallel = wrap_ddp(model.train(), device)
    watch = PreemptionGuard(device, "SOLVER.BASE_LR", run.args.exp_dir)
    records = run.splits["train"].records
    batches = iter(training_batches(records, cfg, run.args.seed, begin, distributed.rank(), processes, device))
    metric_logger = MetricLogger(run.args.exp_dir, begin, steps)
    with EventStorage(begin) as storage:  # Detectron2's heads count into it
        for step in range(begin, steps):
            interrupted = watch.check()  # what the step before showed
            if interrupted:
                run.keep(step)
                distributed.all_reduce(torch.zeros(1, device=device))  # nobody ends before the checkpoint is written
                log(f"{interrupted.name}: saved at step {step}; the same command goes on from here")
                sys.exit(write_preempted_marker(run.args.exp_dir, interrupted, step))
            tick = time.perf_counter()
            batch = next(batches)
            waited = time.perf_counter() - tick
            seed_step(run.args.seed, step)
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                losses = parallel(batch)
            loss = sum(losses.values())
            run.optimizer.zero_grad()
            loss.backward()
            seen = torch.stack([loss.detach(), *(part.detach() for part in losses.values())]).float()
            seen = distributed.all_reduce(seen) / processes
            watch.put(step, seen[0])
            run.optimizer.step()
            run.scheduler.step()
            storage.step()

            done = step + 1
            metric_logger.add(dict(zip(["loss", *losses], seen, strict=True)), waited)
            if done % LOG_EVERY == 0 or done == steps:
                left = format_eta(metric_logger.seconds_a_step * (steps - done))
                line = {"step": done, "lr": run.optimizer.param_groups[0]["lr"]}
                metric_logger.write(
                    {**line, **metric_logger.averages(cfg.SOLVER.IMS_PER_BATCH, "images"), "left": left}
                )
            if done % cfg.SOLVER.CHECKPOINT_PERIOD == 0 or done == steps:
                watch.check()  # never keep weights of a loss that is not finite
                run.keep(done)
            if cfg.TEST.EVAL_PERIOD and done % cfg.TEST.EVAL_PERIOD == 0 and done < steps:
                figures = run.judge(device)
                metric_logger.write({"step": done, **experiment.flatten(figures)}, show=False)
                metric_logger.restart_clock()
    watch.close()
    metric_logger.close()


def read_splits(args):
    """Both parts of the data, checked, as dict name -> ``coco.Split``.

    Raises:
        ValueError: they do not have the same classes.
    """
    names = {"train": args.train_json, "val": args.val_json}
    splits = {name: coco.read_split(args.data_dir / name, json) for name, json in names.items()}
    found = {name: [category["id"] for category in split.categories] for name, split in splits.items()}
    if found["train"] != found["val"]:
        raise ValueError(f"training has the categories {found['train']}, validation {found['val']}; they must agree")
    return splits


def judge_only(args, splits, device):
    """Figures of the checkpoint in ``args.exp_dir``."""
    model, cfg, state = detection_model.load(args.exp_dir, device, args.changes)
    detectron2_setup.keep_log(args.exp_dir / f"log{distributed.rank() or ''}.txt")
    if state["categories"] != splits["val"].categories:
        raise ValueError(f"{args.exp_dir} knows the categories {state['categories']}, the data others")
    run = experiment.Run(args, cfg, splits, state["backbone"], model)
    run.conclude(device, step=state["step"])
    distributed.destroy()
