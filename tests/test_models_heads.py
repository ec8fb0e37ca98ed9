"""Linear heads and classifiers."""

import pytest
import torch

from vicreg.models.heads import Classifier, LinearHeads


def test_heads_trained_side_by_side_are_the_heads_trained_alone():
    random = torch.Generator().manual_seed(0)
    x, labels, rates = torch.randn(12, 5, generator=random), torch.arange(12) % 3, (0.1, 1.0)
    heads = LinearHeads(2, 5, 3)
    alone = [torch.nn.Linear(5, 3) for _ in rates]
    for n, linear in enumerate(alone):
        linear.load_state_dict({"weight": heads.weight[n], "bias": heads.bias[n]})
    together = torch.optim.SGD([{"params": heads.of(n), "lr": rate} for n, rate in enumerate(rates)], momentum=0.9)
    apart = [torch.optim.SGD(linear.parameters(), rate, 0.9) for linear, rate in zip(alone, rates, strict=True)]
    for _ in range(5):
        logits = heads(x)
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.repeat_interleave(2))
        losses = [torch.nn.functional.cross_entropy(linear(x), labels) for linear in alone]
        for optimizer, value in zip((together, *apart), (2 * loss, *losses), strict=True):
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
    for n, linear in enumerate(alone):
        torch.testing.assert_close(heads(x)[:, n], linear(x))


@pytest.mark.parametrize("frozen", [True, False])
def test_a_frozen_backbone_stays_in_eval_mode_and_out_of_the_graph(frozen):
    classifier = Classifier(
        torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.BatchNorm1d(5)), LinearHeads(1, 5, 3), frozen
    )
    classifier.train()
    assert classifier.heads.training and classifier.backbone.training is not frozen
    classifier(torch.randn(6, 4)).sum().backward()
    assert all((p.grad is None) is frozen for p in classifier.backbone.parameters())
