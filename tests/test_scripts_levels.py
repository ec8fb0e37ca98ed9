"""Image folders of deeper pixels from pretraining to evaluation: the levels of the checkpoint are used."""

import json

import numpy as np
import pytest
import rasterio
import torch

from vicreg import evaluate, evaluate_embeddings, main_vicreg_unchanged
from vicreg.data.rasters import quiet_georeference

TOY = ["--image-size", "16", "--device", "cpu"]
TINY = [*TOY, *"--workers 0 --epochs 1 --batch-size 8 --arch test_resnet --mlp 16-16 --probe-every 0".split()]


def start(script, *more):
    script.main(script.get_parser().parse_args(list(map(str, more))))


@pytest.fixture(scope="module")
def deep(tmp_path_factory):
    """A folder of uint16 TIFFs, 0 to 3000, with split folders ``Train`` and ``Validation``."""
    root, random = tmp_path_factory.mktemp("deep"), np.random.default_rng(0)
    profile = {"driver": "GTiff", "count": 3, "height": 16, "width": 16, "dtype": "uint16"}
    for part, count in (("Train", 8), ("Validation", 3)):
        for label, name in enumerate(("forest", "water")):
            (root / part / name).mkdir(parents=True)
            for n in range(count):
                pixels = random.integers(1, 900, (3, 16, 16)) + 2000 * label
                with quiet_georeference(), rasterio.open(root / part / name / f"{n}.tif", "w", **profile) as raster:
                    raster.write(pixels.astype(np.uint16))
    return root


@pytest.fixture(scope="module")
def trained(deep, tmp_path_factory):
    """trained_model.pth of a run with ``--levels 0 3000``."""
    folder = tmp_path_factory.mktemp("trained")
    start(main_vicreg_unchanged, "--data-dir", deep, "--exp-dir", folder, "--levels", 0, 3000, *TINY)
    return folder / "trained_model.pth"


def test_pretraining_refuses_deeper_images_without_levels(deep, tmp_path):
    for more in ([], ["--no-check"]):
        with pytest.raises(ValueError, match="holds uint16, not 8-bit colors; .*--levels LOW HIGH"):
            start(main_vicreg_unchanged, "--data-dir", deep, "--exp-dir", tmp_path / "run", *TINY, *more)


def test_levels_of_a_run_cannot_change(deep, trained):
    assert torch.load(trained, weights_only=True)["levels"] == [0, 3000]
    assert json.loads((trained.parent / "config.json").read_text())["config"]["levels"] == [0, 3000]
    with pytest.raises(ValueError, match="--levels"):
        start(main_vicreg_unchanged, "--data-dir", deep, "--exp-dir", trained.parent, "--levels", 0, 9, *TINY)


def test_evaluation_uses_the_levels_of_the_checkpoint(deep, trained, tmp_path, monkeypatch):
    used, load_folder = [], evaluate.image_folder.load_folder
    spy = lambda *args, **options: used.append(options["levels"]) or load_folder(*args, **options)  # noqa: E731
    monkeypatch.setattr(evaluate.image_folder, "load_folder", spy)
    words = ["--data-dir", deep, "--exp-dir", tmp_path, "--pretrained", trained, *TOY, "--epochs", 1]
    start(evaluate, *words, "--workers", 0)
    start(evaluate, *words, "--workers", 0, "--levels", 0, 4000)
    start(evaluate_embeddings, *words, "--knn", 1, "--map-samples", 0, "--resamples", 10)
    assert used == [(0, 3000), [0, 4000], (0, 3000)]
    with pytest.raises(ValueError, match="holds uint16"):
        start(evaluate, *words[:4], "--pretrained", "stats", *TOY)


def test_results_are_not_written_among_the_images(deep, trained):
    for script, more in (
        (main_vicreg_unchanged, TINY), (evaluate, [*TOY, "--pretrained", trained]),
        (evaluate_embeddings, [*TOY, "--pretrained", trained]),
    ):  # fmt: skip
        with pytest.raises(ValueError, match="--exp-dir .* is in the folder of images"):
            start(script, "--data-dir", deep, "--exp-dir", deep / "Train" / "forest" / "run", *more)
