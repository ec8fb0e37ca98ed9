"""Metrics counted by hand, and an encoder that is our backbone."""

import numpy as np
import pytest
import torch

from downstream.FloodNet_segmentation_task import metrics
from downstream.FloodNet_segmentation_task.model import DECODERS, SegmentationLoss, Segmenter, load_encoder, predictor
from vicreg.models.backbones import create_backbone

ABC = ["a", "b", "c"]


def test_iou_and_dice_are_those_counted_by_hand():
    truth = np.array([[0, 0, 0, 1], [1, 1, 0, 0]])
    guess = np.array([[0, 0, 1, 1], [1, 0, 0, 0]])
    counts = metrics.confusion(truth, guess, 3)
    assert counts.tolist() == [[4, 1, 0], [1, 2, 0], [0, 0, 0]]
    found = metrics.segmentation_metrics(counts, ABC)
    assert found["iou"] == {"a": pytest.approx(4 / 6, abs=1e-6), "b": 0.5, "c": None}
    assert found["dice"] == {"a": 0.8, "b": pytest.approx(4 / 6, abs=1e-6), "c": None}
    assert found["mean_iou"] == pytest.approx((4 / 6 + 0.5) / 2, abs=1e-6)
    assert found["accuracy"] == 0.75


def test_a_class_that_is_only_guessed_has_an_iou_of_nought_and_does_not_count_in_the_mean():
    found = metrics.segmentation_metrics(metrics.confusion([0, 0, 1, 1], [0, 2, 1, 1], 3), ABC)
    assert found["iou"]["c"] == 0.0
    assert found["mean_iou"] == 0.75


def test_of_two_classes_the_second_alone_counts():
    found = metrics.segmentation_metrics(metrics.confusion([0, 0, 0, 1], [0, 0, 1, 1], 2), ABC[:2])
    assert found["mean_iou"] == 0.5
    assert metrics.segmentation_metrics(metrics.confusion([0, 0], [0, 0], 2), ABC[:2])["mean_iou"] is None


def test_the_constant_guess_is_the_commonest_class_of_the_training_masks():
    counts = metrics.confusion([0, 1, 1, 2, 2, 2], [0, 1, 2, 0, 2, 2], 3)
    found = metrics.constant_prediction_metrics(np.array([5, 9, 1]), counts, ABC)
    assert (found["class"], found["mean_iou"]) == ("b", pytest.approx(2 / 6 / 3, abs=1e-6))
    binary = metrics.confusion([0, 0, 0, 1], [0, 0, 1, 1], 2)
    assert (
        metrics.constant_prediction_metrics(np.array([9, 1]), binary, ABC[:2])["mean_iou"] == 0.25
    )  # all of it: better than none


@pytest.mark.parametrize("arch", ["resnet18", "resnet34", "resnet50", "resnet101"])
def test_every_weight_of_the_encoder_comes_from_the_backbone_and_its_stages_see_the_same(arch):
    torch.manual_seed(1)
    backbone = create_backbone(arch).eval()
    for key, value in backbone.state_dict().items():  # timm begins the last norm of each block at zero: hides the rest
        if value.ndim == 1:
            value.uniform_(0.4, 0.8) if "running_mean" not in key else value.normal_(0, 0.1)
    model = Segmenter(arch, "unet", 10).eval()
    words = load_encoder(model, backbone)
    tensors = len(model.network.encoder.state_dict())
    assert f"{tensors} of {tensors} tensors" in words
    assert tensors == len(backbone.state_dict())
    images = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        stages = model.network.encoder(images)[1:]
        theirs = backbone.forward_intermediates(images, intermediates_only=True)
        assert torch.allclose(stages[-1].mean((2, 3)), backbone(images), atol=1e-4)
    for mine, other in zip(stages, theirs, strict=True):
        assert mine.shape == other.shape
        assert torch.allclose(mine, other, atol=1e-4)


def test_a_backbone_that_does_not_fit_changes_nothing():
    model = Segmenter("resnet18", "unet", 10)
    before = model.network.encoder.conv1.weight.clone()
    with pytest.raises(ValueError, match=r"does not fit the encoder: 0 of 120 tensors missing, 96 unused"):
        load_encoder(model, create_backbone("resnet34"))
    backbone = create_backbone("resnet18")
    del backbone.layer4[1]
    with pytest.raises(ValueError, match=r"12 of 120 tensors missing"):
        load_encoder(model, backbone)
    with pytest.raises(ValueError, match=r"0 unused, 1 of another shape \(conv1.weight"):
        load_encoder(model, create_backbone("resnet18", in_chans=4))
    assert torch.equal(model.network.encoder.conv1.weight, before)


@pytest.mark.parametrize("decoder", list(DECODERS))
def test_every_decoder_gives_a_logit_for_every_pixel_over_the_same_encoder(decoder):
    backbone = create_backbone("resnet18")
    model = Segmenter("resnet18", decoder, 10)
    load_encoder(model, backbone)
    assert torch.equal(model.network.encoder.layer4[1].conv2.weight, backbone.layer4[1].conv2.weight)
    predict = predictor(model, torch.device("cpu"))
    found = predict(torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8))
    assert found.shape == (2, 10, 64, 64)
    assert torch.allclose(found.sum(1), torch.ones(2, 64, 64), atol=1e-5)


def test_architectures_without_an_encoder_are_refused():
    with pytest.raises(ValueError, match="no U-Net over convnext_tiny; backbones for segmentation are resnet18"):
        Segmenter("convnext_tiny", "unet", 10)


def test_the_threshold_of_two_classes_is_a_half():
    model = Segmenter("resnet18", "unet", 2)
    model.forward = lambda images: torch.tensor([-0.1, 0.1]).repeat(1, 1, 8, 4)
    assert predictor(model, torch.device("cpu"))(torch.zeros(1)).argmax(1)[0, 0].tolist() == [0, 1] * 4


def test_the_losses_are_dice_and_cross_entropy_by_their_formulas():
    torch.manual_seed(0)
    logits, labels = torch.randn(2, 3, 4, 4), torch.randint(0, 3, (2, 4, 4))
    losses = SegmentationLoss(3, cross_entropy=0.5)(logits, labels)
    p, t = logits.softmax(1), torch.nn.functional.one_hot(labels, 3).permute(0, 3, 1, 2)
    dice = 1 - (2 * (p * t).sum((0, 2, 3)) / (p + t).sum((0, 2, 3))).mean()
    entropy = -(p.log() * t).sum(1).mean()
    assert losses["dice_loss"] == pytest.approx(dice.item(), rel=1e-5)
    assert losses["loss"] == pytest.approx((dice + 0.5 * entropy).item(), rel=1e-5)
    one, binary = logits[:, :1], (labels > 1).long()
    losses = SegmentationLoss(2)(one, binary)
    p = one.sigmoid()[:, 0]
    assert losses["loss"] == pytest.approx((1 - 2 * (p * binary).sum() / (p.sum() + binary.sum())).item(), rel=1e-5)
    assert list(losses) == ["loss", "dice_loss"]


def test_one_image_has_no_interval():
    found = metrics.bootstrap_intervals(np.array([[[3, 1], [0, 2]]]), ("a", "b"))
    assert found == {"intervals": {}, "intervals_of": "none: one image"}


def test_resamples_without_the_second_class_do_not_count():
    counts = np.array([[[1, 0], [0, 1]]] * 2 + [[[2, 0], [0, 0]]] * 18)  # all right, buildings in two of 20 images
    ends = metrics.bootstrap_intervals(counts, ABC[:2])["intervals"]
    assert ends == {"mean_iou": [1.0, 1.0], "mean_dice": [1.0, 1.0], "accuracy": [1.0, 1.0]}
    assert metrics.bootstrap_intervals(counts[2:], ABC[:2])["intervals"] == {"accuracy": [1.0, 1.0]}


def test_intervals_replace_the_counts_of_images():
    counts = np.array([[[3, 1], [0, 2]], [[2, 2], [1, 1]]])
    result = {"mean_iou": 0.5, "image_confusion": counts.tolist()}
    with_intervals = metrics.with_intervals(result, ("a", "b"))
    assert with_intervals == {"mean_iou": 0.5, **metrics.bootstrap_intervals(counts, ("a", "b"))}
    assert metrics.with_intervals(with_intervals, ("a", "b")) == with_intervals  # as in checkpoints of earlier versions
