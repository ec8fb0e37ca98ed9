"""Several processes compute what one process computes; how they connect."""

from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
from torch._subclasses import FakeTensorMode

from tests import loss_workers
from vicreg import distributed
from vicreg.distributed import process_group, rendezvous
from vicreg.losses.barlow_twins import barlow_twins_loss
from vicreg.losses.vicreg import vicreg_loss


def expected_loss_and_gradient(rows, dim):
    """Compute loss and gradient of the same layer on the whole batch, by the D x D formula in float64."""
    layer, x1, x2 = loss_workers.layer_and_batch(rows, dim)
    layer = layer.double()
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


@pytest.mark.parametrize(("rows", "dim"), [(8, 20), (40, 12)], ids=["N < D", "N > D"])
def test_vicreg_loss_has_the_gradient_of_the_whole_batch_with_1_2_and_4_processes(tmp_path, rows, dim):
    loss, gradient = expected_loss_and_gradient(rows, dim)
    for processes in (1, 2, 4):
        for found in loss_workers.run(tmp_path, processes, "vicreg", rows, dim):
            assert found["loss"] == pytest.approx(loss, rel=1e-5)
            difference = torch.tensor(found["grad"]).double() - gradient
            assert difference.norm() <= 1e-5 * gradient.norm()
            expected = [float(rank) for rank in range(processes) for _ in range(rank + 1)]
            assert found["gathered"] == expected
            assert found["running_mean"] == [5.0, 5.0]  # of rank 0


@pytest.mark.parametrize("dim", [9, 3], ids=["N < D", "N > D"])
@pytest.mark.parametrize("loss", [vicreg_loss, barlow_twins_loss])
def test_losses_of_two_processes_gather_once_and_read_nothing_back(monkeypatch, loss, dim):
    gathered = []
    for name, value in {"is_initialized": True, "get_world_size": 2, "get_rank": 1, "all_reduce": None}.items():
        monkeypatch.setattr(dist, name, lambda *_, value=value, **__: value)
    monkeypatch.setattr(dist, "all_gather", lambda parts, part: gathered.append(part.numel()))
    with FakeTensorMode():  # its tensors have no values to read
        z1, z2 = torch.ones(2, 4, dim, requires_grad=True)
        loss(z1, z2)["loss"].backward()
    assert gathered == [2 * 4 * dim]


def test_single_process_needs_no_process_group():
    z = torch.randn(4, 3)
    assert torch.isfinite(vicreg_loss(z, z)["loss"])
    assert not torch.distributed.is_initialized()


@pytest.mark.parametrize("minutes", [0, -1, float("nan"), float("inf")])
def test_init_refuses_a_timeout_that_is_not_positive(minutes):
    with pytest.raises(ValueError, match="--timeout-minutes .*: must be positive"):
        distributed.init("cpu", timeout_minutes=minutes)


STORE_WORKER = """
import os
from vicreg import distributed
distributed.init("cpu")
port = f"{int(os.environ['MASTER_PORT']):04X}"
for name in ("tcp", "tcp6"):
    for line in open(f"/proc/net/{name}").readlines()[1:]:
        _, local, _, state, *_ = line.split()
        if local.endswith(":" + port) and state == "0A":  # listening
            print(name, local.split(":")[0])
distributed.all_reduce(__import__("torch").ones(1))
distributed.destroy()
"""


def test_store_listens_on_the_rendezvous_address_only(fork, tmp_path):
    run = fork(STORE_WORKER, tmp_path / "out", 2)
    assert [run.wait(0), run.wait(1)] == [0, 0], run.text(0)
    assert run.text(0).split() == ["tcp", "0100007F"]  # 127.0.0.1


def test_store_leaves_the_interface_to_torch_where_others_may_use_another_address(monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "0")
    with rendezvous._listen("127.0.0.1", 0) as listener:
        assert listener.getsockname()[0] == "127.0.0.1"
    assert rendezvous._listen("203.0.113.1", 0) is None  # not an address of this machine
    monkeypatch.delenv("LOCAL_RANK")
    assert rendezvous._listen("127.0.0.1", 0) is None  # perhaps one process per container


class Event:
    """A CUDA event that completes at its third query, or never."""

    def __init__(self, completes):
        self.completes, self.queries = completes, 0

    def query(self):
        self.queries += 1
        return self.completes and self.queries == 3


def test_synchronize_waits_for_an_event_and_raises_a_collective_error_after_the_timeout(monkeypatch):
    monkeypatch.setattr(process_group, "_timeout", timedelta(seconds=0.1))
    event = Event(completes=True)
    distributed.synchronize(event)
    assert event.queries == 3
    with pytest.raises(RuntimeError) as error:
        distributed.synchronize(Event(completes=False))
    assert "timed out" in distributed.collective_error(error.value)


def test_collective_error_is_the_first_line_of_an_error_of_gloo_and_none_for_others():
    gloo = RuntimeError("[../third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by peer.\nframe #0: f")
    assert distributed.collective_error(gloo) == "Connection closed by peer"
    assert distributed.collective_error(RuntimeError("shapes do not match")) is None
    assert distributed.collective_error(ValueError("gloo")) is None
