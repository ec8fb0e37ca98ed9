"""A plan is judged before its first step, and a collapse is named."""

import argparse

import pytest
import torch

from vicreg import memory
from vicreg.common.logger import format_eta
from vicreg.engine.config import local_batch_size
from vicreg.eval.metrics import ADVICE, check_collapse


def test_weights_and_kept_activations_are_counted_without_computing():
    pair, weights = memory.bytes_of_one_pair("test_resnet", 3, 32, [8])
    wider, heavier = memory.bytes_of_one_pair("test_resnet", 3, 32, [16])
    from vicreg.models.backbones import create_backbone

    backbone = create_backbone("test_resnet")
    assert weights == 4 * (sum(p.numel() for p in backbone.parameters()) + 8 * backbone.num_features)
    assert heavier - weights == 4 * 8 * backbone.num_features
    assert pair > 2 * 4 * 3 * 32 * 32  # at least the two views are kept
    assert wider == pair  # a linear layer keeps its input, not its output


def test_four_times_the_pixels_keep_about_four_times_the_activations():
    small, _ = memory.bytes_of_one_pair("test_resnet", 3, 32, [8])
    large, _ = memory.bytes_of_one_pair("test_resnet", 3, 64, [8])
    assert 3.5 < large / small < 4.1
    assert memory.bytes_of_one_pair("test_resnet", 3, 32, [8], bf16=True)[0] == small / 2


def test_the_estimate_covers_what_autograd_really_keeps():
    from vicreg.models.backbones import create_backbone
    from vicreg.models.vicreg import VICReg

    kept, network = {}, VICReg(create_backbone("test_resnet"), [32, 32])
    parameters = {p.data_ptr() for p in network.parameters()}

    def note(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = storage
        return tensor

    views = torch.randn(2, 8, 3, 48, 48)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        outputs = network(*views)
    real = sum(storage.nbytes() for storage in kept.values()) / 8
    assert outputs is not None
    assert memory.bytes_of_one_pair("test_resnet", 3, 48, [32, 32])[0] == pytest.approx(real, rel=0.2)


def test_an_architecture_that_cannot_take_the_views_is_refused_with_the_flag():
    with pytest.raises(ValueError, match="swin_tiny_patch4_window7_224 cannot take views of 40 pixels.*--image-size"):
        memory.bytes_of_one_pair("swin_tiny_patch4_window7_224", 3, 40, [8])


def test_a_network_that_reads_numbers_as_it_is_built_is_estimated_all_the_same(monkeypatch):
    expected, create = memory.bytes_of_one_pair("test_resnet", 3, 32, [8]), memory.create_backbone

    def reading(*args):
        if torch.get_default_device().type == "meta":
            raise NotImplementedError("Cannot copy out of meta tensor; no data!")
        return create(*args)

    monkeypatch.setattr(memory, "create_backbone", reading)
    assert memory.bytes_of_one_pair("test_resnet", 3, 32, [8]) == expected


NUMBERS = {"pair": 1e6, "weights": 1e8, "batch_size": 1024, "dim": 100, "processes": 1}


def test_a_plan_that_fits_passes_and_one_that_cannot_names_the_micro_batches_that_would():
    need = memory.estimate(share=1024, accumulate=1, **NUMBERS)
    assert 1.4e9 < need < 1.5e9  # 4 x 0.1 GB of weights, 1024 pairs, and a little
    memory.check_fits(need, 1.5e9, NUMBERS, 1, 1024)
    with pytest.raises(ValueError, match=r"about 1.4 GB and 1.0 GB are free; --accumulate 4 would need 0.7 GB"):
        memory.check_fits(need, 1.0e9, NUMBERS, 1, 1024)
    with pytest.raises(ValueError, match="lower --batch-size"):
        memory.check_fits(need, 0.1e9, NUMBERS, 1, 1024)


def test_free_memory_is_a_real_figure_and_is_shared_by_the_processes_of_a_machine(monkeypatch):
    alone = memory.available(torch.device("cpu"))
    assert 1e7 < alone < 1e15
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert memory.available(torch.device("cpu")) == pytest.approx(alone / 4, rel=0.2)


@pytest.mark.parametrize(
    ("limit", "used", "stat", "cache"),
    [
        ("memory.max", "memory.current", "memory.stat", "inactive_file"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat", "total_inactive_file"),
    ],
)
def test_files_that_a_container_has_read_are_no_memory_that_is_taken(tmp_path, monkeypatch, limit, used, stat, cache):
    (tmp_path / "memory").mkdir()
    for name, text in ((limit, "800000"), (used, "790000"), (stat, f"anon 90000\n{cache} 700000\n")):
        (tmp_path / name).write_text(text + "\n")
    monkeypatch.setattr(memory, "_CGROUP", str(tmp_path))
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    assert memory.available(torch.device("cpu")) == 710000


def test_a_collapse_is_named_with_advice_and_a_healthy_run_is_not():
    assert check_collapse(0.5, 80.0, 256, 512) is None
    assert "hardly differ" in check_collapse(0.01, 80.0, 256, 512)
    assert "1.5 effective dimensions (below 2.6)" in check_collapse(0.5, 1.5, 256, 512)
    assert ADVICE in check_collapse(0.5, 1.5, 256, 512) and "--base-lr" in ADVICE


def asked(batch_size):
    return argparse.Namespace(batch_size=batch_size, exp_dir="exp/run")


def test_other_processes_go_on_with_the_batch_that_the_run_began_with():
    assert local_batch_size(asked(512), 3, None) == 170
    assert local_batch_size(asked(512), 2, 510) == 255  # begun by three: 510 stays, not 512
    assert local_batch_size(asked(512), 3, 510) == 170
    with pytest.raises(ValueError, match="batch of 510, which 4 processes cannot share"):
        local_batch_size(asked(512), 4, 510)


@pytest.mark.parametrize(("seconds", "words"), [(42, "42 s"), (600, "0 h 10 min"), (7500, "2 h 05 min")])
def test_durations_are_told_in_words(seconds, words):
    assert format_eta(seconds).startswith(f"{words} (until 20")
