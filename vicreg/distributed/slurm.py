"""Translate the variables of a SLURM step into those that torchrun sets, for processes that ``srun`` starts."""

import math
import re
from collections.abc import Mapping
from itertools import product

SRUN_TASK = "VICREG_SRUN_TASK"  # set in a process that srun started without torchrun
_HOST = r"(?:[^,\[\]\s]|\[[^\[\]\s]+\])+"  # such as node[01-04,07]
_FIRST_SPECIAL_STEP = 0xFFFFFFF0  # step ids from here on are the batch script, an interactive shell and so on


def expand_hostlist(hostlist: str) -> list[str]:
    """Expand a SLURM hostlist expression, as ``scontrol show hostnames`` does.

    Args:
        hostlist: Such as ``node[01-04,07],gpu-a3`` or ``rack[1-2]n[0-9]``.

    Returns:
        Host names in SLURM's order.

    Raises:
        ValueError: The text is not a hostlist expression.

    Example:
        >>> expand_hostlist("node[01-02],gpu-a3")
        ['node01', 'node02', 'gpu-a3']
    """
    if not re.fullmatch(f"{_HOST}(,{_HOST})*", hostlist):
        raise ValueError(f"{hostlist!r} is not a SLURM hostlist such as node[01-04,07],gpu-a3")
    names: list[str] = []
    for item in re.findall(_HOST, hostlist):
        pieces = re.split(r"\[(.+?)\]", item)  # literals at even, bracketed ranges at odd positions
        choices = [_expand_ranges(piece, hostlist) if index % 2 else [piece] for index, piece in enumerate(pieces)]
        names += ["".join(choice) for choice in product(*choices)]
    return names


def _expand_ranges(ranges: str, hostlist: str) -> list[str]:
    """Expand ``01-03,7`` to 01, 02, 03, 7; numbers are zero-padded to the width of the first of their range."""
    numbers: list[str] = []
    for item in ranges.split(","):
        first, _, last = item.partition("-")
        last = last or first
        if not (first.isdecimal() and last.isdecimal() and int(first) <= int(last)):
            raise ValueError(f"{hostlist!r} is not a SLURM hostlist: {item!r} is not a range of numbers")
        numbers += [str(number).zfill(len(first)) for number in range(int(first), int(last) + 1)]
    return numbers


def launch_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that torchrun would set, for one of several tasks of a step that ``srun`` started.

    A plain ``python`` in a batch script is not such a task: SLURM describes several tasks there too, but only one
    process runs. Only steps of ``srun`` have a step id and a task count of their own.

    Args:
        environ: Such as ``os.environ``. MASTER_ADDR and MASTER_PORT are kept if set; otherwise they are the first host
            of the step and a port computed from the ids of job and step.

    Returns:
        RANK, LOCAL_RANK, WORLD_SIZE, LOCAL_WORLD_SIZE, MASTER_ADDR, MASTER_PORT and ``SRUN_TASK``. Empty outside such a
        step, in a step of one task, and if torchrun has set RANK.

    Raises:
        ValueError: SLURM's list of hosts cannot be parsed.
    """
    step = environ.get("SLURM_STEP_ID", environ.get("SLURM_STEPID", ""))
    in_step = "SLURM_STEP_NUM_TASKS" in environ or step.isdecimal()
    if "RANK" in environ or not in_step or (step.isdecimal() and int(step) >= _FIRST_SPECIAL_STEP):
        return {}
    tasks = int(environ.get("SLURM_STEP_NUM_TASKS") or environ.get("SLURM_NTASKS") or 1)
    if tasks == 1 or "SLURM_PROCID" not in environ:
        return {}
    hostlist = environ.get("SLURM_STEP_NODELIST") or environ.get("SLURM_JOB_NODELIST")
    hosts = expand_hostlist(hostlist or environ.get("SLURM_NODELIST") or "localhost")
    job = re.sub(r"\D", "", environ.get("SLURM_JOB_ID", environ.get("SLURM_JOBID", ""))) or "0"
    # below the ephemeral ports; another step of the same job gets another port
    port = 12000 + (int(job) + 1009 * int(step or 0)) % 20000
    return {
        "RANK": environ["SLURM_PROCID"],
        "LOCAL_RANK": environ.get("SLURM_LOCALID", "0"),
        "WORLD_SIZE": str(tasks),
        "LOCAL_WORLD_SIZE": str(_local_tasks(environ, math.ceil(tasks / len(hosts)))),
        "MASTER_ADDR": environ.get("MASTER_ADDR") or (hosts[0] if len(hosts) > 1 else "127.0.0.1"),
        "MASTER_PORT": environ.get("MASTER_PORT") or str(port),
        SRUN_TASK: "1",
    }


def _local_tasks(environ: Mapping[str, str], default: int) -> int:
    """Return the number of tasks on this host: SLURM_NODEID is an index into counts such as ``4(x2),3``."""
    counts: list[int] = []
    for count, times in re.findall(r"(\d+)(?:\(x(\d+)\))?", environ.get("SLURM_STEP_TASKS_PER_NODE", "")):
        counts += [int(count)] * int(times or 1)
    node = environ.get("SLURM_NODEID", "")
    return counts[int(node)] if node.isdecimal() and int(node) < len(counts) else default
