"""A loss under DistributedDataParallel in several processes: each takes its rows of one batch through a linear layer.

    torchrun --nproc_per_node=2 tests/loss_workers.py vicreg 8 20 /tmp/out

writes what rank n finds to ``/tmp/out.n``, and the threads that it has when Python exits to ``/tmp/out.n.threads``.
"""

import atexit
import json
import os
import subprocess
import sys
from pathlib import Path

import torch


def layer_and_batch(rows, dim):
    """Return the layer, and both views of the batch: the same in all processes."""
    torch.manual_seed(0)
    x1 = torch.randn(rows, 6) + 1
    x2 = x1 + 0.5 * torch.randn(rows, 6)
    return torch.nn.Linear(6, dim), x1, x2


def run(tmp_path, processes, loss, rows, dim):
    """Run the processes, and return what each found."""
    out = tmp_path / f"out_{processes}"
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    command = [*launch, __file__, loss, str(rows), str(dim), out]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stderr
    found = [json.loads(Path(f"{out}.{rank}").read_text()) for rank in range(processes)]
    for rank in range(processes):  # a thread that is at work when Python exits would abort the process
        assert "gloo" not in Path(f"{out}.{rank}.threads").read_text()
    return found


def write_threads(path):
    """Write the names of this process's threads."""
    Path(path).write_text(" ".join(name.read_text().strip() for name in Path("/proc/self/task").glob("*/comm")))


def main(name, rows, dim, out):
    """Compute the loss and its gradient, and try the collectives."""
    from torch.nn.parallel import DistributedDataParallel

    from vicreg import distributed
    from vicreg.losses.barlow_twins import barlow_twins_loss
    from vicreg.losses.vicreg import vicreg_loss

    atexit.register(write_threads, f"{out}.{os.environ['RANK']}.threads")
    distributed.init("cpu")
    layer, x1, x2 = layer_and_batch(rows, dim)
    parallel = DistributedDataParallel(layer) if distributed.world_size() > 1 else layer
    share = rows // distributed.world_size()
    mine = slice(distributed.rank() * share, (distributed.rank() + 1) * share)
    z1, z2 = parallel(x1[mine]), parallel(x2[mine])
    losses = vicreg_loss(z1, z2) if name == "vicreg" else barlow_twins_loss(z1, z2, 0.1)
    losses["loss"].backward()
    norm = torch.nn.BatchNorm1d(2)
    norm.running_mean.fill_(distributed.rank() + 5.0)
    distributed.broadcast_buffers(norm)
    gathered = distributed.all_gather_cat(torch.full((distributed.rank() + 1, 2), float(distributed.rank())))
    result = {key: value.item() for key, value in losses.items()}
    result |= {"grad": layer.weight.grad.tolist(), "gathered": gathered[:, 0].tolist()}
    result["running_mean"] = norm.running_mean.tolist()
    Path(f"{out}.{distributed.rank()}").write_text(json.dumps(result))
    distributed.destroy()


if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
