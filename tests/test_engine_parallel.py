"""Models keep their activations and parameters when they are placed and converted."""

import torch

from vicreg.engine import parallel
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
