"""Processes that ``srun`` starts without torchrun: SLURM's variables, told in the words that PyTorch reads."""

import math
import re
from itertools import product

HOST = r"(?:[^,\[\]\s]|\[[^\[\]\s]+\])+"  # such as node[01-04,07]
TASK = "VICREG_SRUN_TASK"  # set in a process that srun started by itself, without torchrun
NOT_OF_SRUN = 0xFFFFFFF0  # step numbers from here on are the batch script, an interactive shell and the like


def hosts(text):
    """Expand a list of hosts as SLURM writes it.

    Args:
        text: such as ``node[01-04,07],gpu-a3`` or ``rack[1-2]n[0-9]``.

    Returns:
        list of names, in SLURM's order.

    Raises:
        ValueError: brackets or numbers that do not fit, or nothing at all.
    """
    if not re.fullmatch(f"{HOST}(,{HOST})*", text):
        raise ValueError(f"{text!r} is no list of hosts as SLURM writes it, such as node[01-04,07],gpu-a3")
    names = []
    for item in re.findall(HOST, text):
        parts = re.split(r"\[(.+?)\]", item)  # words and brackets take turns
        choices = [_numbers(part, text) if place % 2 else [part] for place, part in enumerate(parts)]
        names += ["".join(choice) for choice in product(*choices)]
    return names


def _numbers(ranges, text):
    """``01-03,7`` -> 01 02 03 7: a range is as wide as its first number is written."""
    found = []
    for part in ranges.split(","):
        first, _, last = part.partition("-")
        last = last or first
        if not (first.isdigit() and last.isdigit() and int(first) <= int(last)):
            raise ValueError(f"{text!r} is no list of hosts as SLURM writes it: {part!r} is no range of numbers")
        found += [str(number).zfill(len(first)) for number in range(int(first), int(last) + 1)]
    return found


def process(environment):
    """What torchrun would have set, for one of several tasks of a step that ``srun`` started.

    A plain ``python`` in a batch script is no such task: SLURM names several tasks there too, but only one process
    runs, and it must not wait for others. Only steps of ``srun`` have a number and a count of their own.

    Args:
        environment: such as ``os.environ``. MASTER_ADDR and MASTER_PORT are kept where they are set; else the first
            host of the step, and a port that follows from the numbers of job and step.

    Returns:
        dict of str ``RANK, LOCAL_RANK, WORLD_SIZE, LOCAL_WORLD_SIZE, MASTER_ADDR, MASTER_PORT`` and ``TASK``; empty
        where there is no such step, it has one task only, or torchrun has set RANK already.

    Raises:
        ValueError: a list of hosts that cannot be read.
    """
    step = environment.get("SLURM_STEP_ID", environment.get("SLURM_STEPID", ""))
    of_srun = "SLURM_STEP_NUM_TASKS" in environment or step.isdigit()
    if "RANK" in environment or not of_srun or (step.isdigit() and int(step) >= NOT_OF_SRUN):
        return {}
    tasks = int(environment.get("SLURM_STEP_NUM_TASKS") or environment.get("SLURM_NTASKS") or 1)
    if tasks == 1 or "SLURM_PROCID" not in environment:
        return {}
    nodes = environment.get("SLURM_STEP_NODELIST") or environment.get("SLURM_JOB_NODELIST")
    nodes = hosts(nodes or environment.get("SLURM_NODELIST") or "localhost")
    job = re.sub(r"\D", "", environment.get("SLURM_JOB_ID", environment.get("SLURM_JOBID", ""))) or "0"
    # below the ports that systems hand out by themselves; a second step of the job takes another one
    port = 12000 + (int(job) + 1009 * int(step or 0)) % 20000
    return {
        "RANK": environment["SLURM_PROCID"],
        "LOCAL_RANK": environment.get("SLURM_LOCALID", "0"),
        "WORLD_SIZE": str(tasks),
        "MASTER_ADDR": environment.get("MASTER_ADDR") or (nodes[0] if len(nodes) > 1 else "127.0.0.1"),
        "LOCAL_WORLD_SIZE": str(_tasks_here(environment, math.ceil(tasks / len(nodes)))),
        TASK: "1",
        "MASTER_PORT": environment.get("MASTER_PORT") or str(port),
    }


def _tasks_here(environment, share):
    """Tasks of the step on this host: of ``4(x2),3`` on three hosts, SLURM_NODEID says which; else ``share``."""
    counts = []
    for count, times in re.findall(r"(\d+)(?:\(x(\d+)\))?", environment.get("SLURM_STEP_TASKS_PER_NODE", "")):
        counts += [int(count)] * int(times or 1)
    here = environment.get("SLURM_NODEID", "")
    return counts[int(here)] if here.isdigit() and int(here) < len(counts) else share
