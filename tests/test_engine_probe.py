"""The kNN probe of pretraining: its neighbors are training samples, its accuracy is that of the validation samples."""

import importlib

import pytest
import torch

from tests.command_lines import VALID, fill, write_inputs
from tests.test_engine_pretrain import Stripes
from vicreg.common import cli
from vicreg.data.base import InputSpec
from vicreg.engine.pretrain import knn_probe
from vicreg.models.backbones import create_backbone


class Mislabeled(Stripes):
    """Rows, then columns, with the labels exchanged in the first quarter."""

    def __init__(self, count):
        super().__init__(count)
        self.true = torch.arange(count) // (count // 2)
        self.labels = torch.where(torch.arange(count) < count // 4, 1 - self.true, self.true)

    def images(self, indices):
        given, self.labels = self.labels, self.true
        try:
            return super().images(indices)
        finally:
            self.labels = given


def test_the_probe_scores_the_validation_samples_by_the_training_labels():
    torch.manual_seed(0)
    sets = Stripes(80), Mislabeled(20)
    probe = knn_probe(create_backbone("test_resnet"), sets, InputSpec(32, [0.5] * 3, [0.5] * 3), torch.device("cpu"))
    assert probe == {"knn20_top1": 0.75}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inputs")
    write_inputs(folder)
    return folder


@pytest.mark.parametrize("name", ["sn7", "fmow", "unchanged", "imagery"])
def test_every_script_probes_the_validation_part(inputs, tmp_path, monkeypatch, name):
    module, found = importlib.import_module(f"vicreg.main_vicreg_{name}"), []
    monkeypatch.setattr(module, "pretrain", lambda config, dataset, probe_sets, source: found.append(probe_sets))
    line = VALID[f"vicreg/main_vicreg_{name}.py"].replace("--probe-every 0", "--probe-every 1")
    module.main(cli.parse(module.get_parser(), fill(line, inputs, tmp_path / "out")))
    ((train, val),) = found
    assert len(train) > len(val) > 0 and list(train.names()) != list(val.names())
    assert train is not val and list(train.classes) == list(val.classes)
