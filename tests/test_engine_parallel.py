"""Models keep their activations and parameters when they are placed and converted."""

import os
import subprocess
import sys

import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from vicreg import distributed
from vicreg.engine import parallel
from vicreg.engine.pretrain_config import build_config, get_parser
from vicreg.models.backbones import create_backbone


def test_sync_batchnorm_keeps_activations_of_fused_norm_layers_and_all_parameters():
    backbone = create_backbone("test_efficientnet").eval()
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    before = backbone(images)
    parameters = list(backbone.parameters())
    converted = parallel.convert_sync_batchnorm(backbone)
    assert any(isinstance(module, torch.nn.SyncBatchNorm) for module in converted.modules())
    torch.testing.assert_close(converted(images), before)
    assert all(one is other for one, other in zip(parameters, converted.parameters(), strict=True))


class MovesInputs(DistributedDataParallel):
    """DistributedDataParallel of a CPU module that moves inputs to ``device_ids``, as for modules on a GPU."""

    def __init__(self, module, device_ids=None, **settings):
        super().__init__(module, **settings)
        self.device_ids = device_ids and [torch.device(device).index for device in device_ids]


def test_wrapped_model_takes_its_warm_up_without_inputs_and_then_inputs_also_on_gpus(monkeypatch):
    monkeypatch.setattr(parallel, "DistributedDataParallel", MovesInputs)
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        with monkeypatch.context() as patch:
            patch.setattr(distributed, "world_size", lambda: 2)
            model = torch.nn.Bilinear(3, 3, 2)
            wrapped = parallel.wrap_ddp(model)
        assert wrapped.device_ids is None and all(p.grad is None for p in model.parameters())
        views = torch.ones(4, 3), torch.ones(4, 3)
        assert torch.equal(wrapped(*views), model(*views))
    finally:
        dist.destroy_process_group()


PAGE_FAULTS = """
import resource, sys, torch
from vicreg.engine.parallel import reuse_freed_memory
taken = reuse_freed_memory() if sys.argv[1] == "reuse" else None
faults = []
for _ in range(4):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(2**24) + torch.ones(2**24)  # three blocks of 64 MiB: 49,152 pages of 4 KiB
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(taken, faults[-1])
"""


def _page_faults(mode, **environment):
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("MALLOC_", "GLIBC_", "THP_"))}
    done = subprocess.run(
        [sys.executable, "-c", PAGE_FAULTS, mode], env=clean | environment, capture_output=True, text=True, check=True
    )
    taken, faults = done.stdout.split()
    return taken, int(faults)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="mallopt is glibc's")
def test_freed_memory_is_reused_without_page_faults():
    taken, faults = _page_faults("reuse")
    if taken == "False":
        pytest.skip("not glibc")
    default = _page_faults("default")[1]  # 49,152, or 96 with huge pages of 2 MiB
    assert default >= 64 and faults < default / 2


def test_allocator_settings_of_the_environment_take_precedence():
    assert _page_faults("reuse", MALLOC_TRIM_THRESHOLD_="1000000")[0] == "False"


@pytest.mark.parametrize("name", ["cpu", "cuda"])
def test_freed_memory_is_kept_only_for_training_on_a_cpu(monkeypatch, tmp_path, name):
    calls = []
    monkeypatch.setattr(parallel, "reuse_freed_memory", lambda: calls.append("cpu"))
    monkeypatch.setattr(distributed, "init", lambda *_: torch.device(name))
    parallel.init_device(build_config(get_parser("a test").parse_args(["--exp-dir", str(tmp_path)])))
    assert calls == ["cpu"] * (name == "cpu")
