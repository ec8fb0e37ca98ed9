"""Translate the variables of a SLURM step into those that torchrun sets, for processes that ``srun`` starts."""

import math
import re
from collections.abc import Mapping

SRUN_TASK = "VICREG_SRUN_TASK"  # set in a process that srun started without torchrun
_FIRST_SPECIAL_STEP = 0xFFFFFFF0  # step ids from here on are the batch script, an interactive shell and so on


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
    hosts = hostlist or environ.get("SLURM_NODELIST") or "localhost"
    first = re.sub(r"\[(\d+)[^\]]*\]", r"\1", hosts).split(",")[0]  # of node[01-04,07],gpu-a3: node01
    nodes = int(environ.get("SLURM_STEP_NUM_NODES") or (1 if first == hosts else 2))
    job = re.sub(r"\D", "", environ.get("SLURM_JOB_ID", environ.get("SLURM_JOBID", ""))) or "0"
    # below the ephemeral ports; another step of the same job gets another port
    port = 12000 + (int(job) + 1009 * int(step or 0)) % 20000
    return {
        "RANK": environ["SLURM_PROCID"],
        "LOCAL_RANK": environ.get("SLURM_LOCALID", "0"),
        "WORLD_SIZE": str(tasks),
        "LOCAL_WORLD_SIZE": str(math.ceil(tasks / nodes)),
        "MASTER_ADDR": environ.get("MASTER_ADDR") or (first if nodes > 1 else "127.0.0.1"),
        "MASTER_PORT": environ.get("MASTER_PORT") or str(port),
        SRUN_TASK: "1",
    }
