"""Several processes on one machine give what one process gives."""

import json
import subprocess
import sys

import pytest
import torch

from vicreg.losses.vicreg import vicreg_loss

# Each process takes its rows of one joined batch through a linear layer under DistributedDataParallel.
WORKER = """
import json, sys, torch
from torch.nn.parallel import DistributedDataParallel
from vicreg import distributed
from vicreg.losses.vicreg import vicreg_loss

rows, dim, out = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
distributed.init("cpu")
torch.manual_seed(0)
x1 = torch.randn(rows, 6) + 1
x2 = x1 + 0.5 * torch.randn(rows, 6)
layer = torch.nn.Linear(6, dim)
parallel = DistributedDataParallel(layer) if distributed.world_size() > 1 else layer
share = rows // distributed.world_size()
mine = slice(distributed.rank() * share, (distributed.rank() + 1) * share)
losses = vicreg_loss(parallel(x1[mine]), parallel(x2[mine]))
losses["loss"].backward()
norm = torch.nn.BatchNorm1d(2)
norm.running_mean.fill_(distributed.rank() + 5.0)
distributed.broadcast_buffers(norm)
gathered = distributed.all_gather_cat(torch.full((distributed.rank() + 1, 2), float(distributed.rank())))
result = {key: value.item() for key, value in losses.items()}
result |= {"grad": layer.weight.grad.tolist(), "gathered": gathered[:, 0].tolist()}
result["running_mean"] = norm.running_mean.tolist()
open(f"{out}.{distributed.rank()}", "w").write(json.dumps(result))
distributed.destroy()
"""


def run_workers(repo_root, tmp_path, processes, rows, dim):
    script = tmp_path / "worker.py"
    script.write_text(f"import sys; sys.path.insert(0, {str(repo_root)!r})\n{WORKER}")
    out = tmp_path / f"out_{processes}"
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    ran = subprocess.run([*launch, script, str(rows), str(dim), out], capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stderr
    return [json.loads((tmp_path / f"out_{processes}.{rank}").read_text()) for rank in range(processes)]


def formula(rows, dim):
    """Loss and gradient of the same layer on the whole batch, by the D x D formula in float64."""
    torch.manual_seed(0)
    x1 = torch.randn(rows, 6) + 1
    x2 = x1 + 0.5 * torch.randn(rows, 6)
    layer = torch.nn.Linear(6, dim).double()
    z1, z2 = layer(x1.double()), layer(x2.double())
    terms = []
    for z in (z1, z2):
        centered = z - z.mean(0)
        covariance = centered.T @ centered / (rows - 1)
        off_diagonal = covariance - torch.diag(covariance.diagonal())
        hinge = torch.relu(1 - torch.sqrt(covariance.diagonal() + 1e-4)).mean()
        terms.append((hinge, off_diagonal.square().sum() / dim))
    loss = 25 * (z1 - z2).square().mean() + 25 * (terms[0][0] + terms[1][0]) / 2 + terms[0][1] + terms[1][1]
    loss.backward()
    return loss.item(), layer.weight.grad


@pytest.mark.parametrize(("rows", "dim"), [(8, 20), (40, 12)], ids=["batch narrower", "batch wider"])
def test_two_and_four_processes_give_the_gradient_of_the_whole_batch(repo_root, tmp_path, rows, dim):
    loss, gradient = formula(rows, dim)
    for processes in (1, 2, 4):
        for found in run_workers(repo_root, tmp_path, processes, rows, dim):
            assert found["loss"] == pytest.approx(loss, rel=1e-5)
            difference = torch.tensor(found["grad"]).double() - gradient
            assert difference.norm() <= 1e-5 * gradient.norm()
            expected = [float(rank) for rank in range(processes) for _ in range(rank + 1)]
            assert found["gathered"] == expected
            assert found["running_mean"] == [5.0, 5.0]  # the first process's


def test_one_process_needs_no_group_and_no_launcher():
    z = torch.randn(4, 3)
    assert torch.isfinite(vicreg_loss(z, z)["loss"])
    assert not torch.distributed.is_initialized()
