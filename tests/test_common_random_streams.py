"""Named random streams depend on seed, name and counters only."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from vicreg.common.random_streams import rng, stream_seed, torch_rng


def test_rng_gives_the_same_numbers_for_the_same_arguments():
    np.testing.assert_array_equal(rng(3, "order", 5).random(8), rng(3, "order", 5).random(8))
    assert torch.equal(torch.rand(8, generator=torch_rng(3, "a", 1)), torch.rand(8, generator=torch_rng(3, "a", 1)))


def test_rng_does_not_depend_on_global_generators_or_the_process(repo_root):
    np.random.seed(7)
    torch.manual_seed(7)
    here = stream_seed(3, "order", 5)
    code = "from vicreg.common.random_streams import stream_seed; print(stream_seed(3, 'order', 5))"
    ran = subprocess.run([sys.executable, "-c", code], cwd=repo_root, capture_output=True, text=True)
    assert int(ran.stdout) == here, ran.stderr


@pytest.mark.parametrize(
    "other", [(4, "order", 5), (3, "ordes", 5), (3, "order", 6), (3, "order"), (3, "order", 5, 0), (3, "order", 0, 5)]
)
def test_rng_differs_with_seed_name_and_counters(other):
    assert stream_seed(3, "order", 5) != stream_seed(*other)
    correlation = np.corrcoef(rng(3, "order", 5).standard_normal(10_000), rng(*other).standard_normal(10_000))
    assert abs(correlation[0, 1]) < 0.05


def test_rng_keeps_its_values_between_versions():
    assert rng(0, "label_subset").integers(0, 1000, 4).tolist() == [364, 278, 433, 278]
    assert 0 <= stream_seed(2**40, "augmentation", 10**9) < 2**63
