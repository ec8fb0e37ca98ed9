"""``torch.hub.load`` from a local clone, in another folder and without the repository on the path."""

import subprocess
import sys

import torch

from vicreg.engine import checkpoint
from vicreg.models.backbones import create_backbone


def test_hub_load_returns_the_backbone_in_eval_mode_with_its_normalization(repo_root, tmp_path):
    torch.manual_seed(0)
    backbone = create_backbone("test_resnet").eval()
    mean, std = [0.1, 0.2, 0.3], [0.4, 0.5, 0.6]
    checkpoint.save_backbone(tmp_path / "trained_model.pth", backbone, "test_resnet", 3, mean, std, "a test")
    code = f"""
import torch
backbone = torch.hub.load({str(repo_root)!r}, "backbone", checkpoint="trained_model.pth", source="local")
images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
with torch.no_grad():
    features = backbone((images - backbone.mean) / backbone.std)
torch.save([backbone.training, backbone.info["arch"], features, list(backbone.state_dict())], "result.pt")
"""
    ran = subprocess.run([sys.executable, "-I", "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    training, arch, features, keys = torch.load(tmp_path / "result.pt", weights_only=True)
    assert (training, arch) == (False, "test_resnet")
    assert keys == list(backbone.state_dict())
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = backbone((images - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None])
    torch.testing.assert_close(features, expected)
