"""Augmentations of the two views of an image: parameters, presets by name, and overrides of single parameters."""

import dataclasses
from collections.abc import Sequence
from typing import Any


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """Parameters of the augmentation of one view.

    Attributes:
        crop: "resized" (random area and aspect ratio, as torchvision's ``RandomResizedCrop``), "fixed" (a square of one
            size at a random position) or "center" (a square in the center).
        scale: For "resized", minimum and maximum fraction of the image's area.
        ratio: For "resized", minimum and maximum width / height.
        fraction: For "fixed" and "center", side of the crop as a fraction of the image's short side.
        flip: Probability of a horizontal flip.
        vertical_flip: Probability of a vertical flip.
        jitter: Maximum change of brightness, contrast, saturation (factors in 1 +- x) and hue (shift in +- x of the
            color circle).
        jitter_p: Probability of color jitter.
        gray_p: Probability of conversion to grayscale.
        blur_p: Probability of a Gaussian blur.
        blur_sigma: Minimum and maximum standard deviation of the Gaussian in pixels of the view.
        blur_kernel: Number of taps of the blur; 0 covers the whole Gaussian.
        solarize_p: Probability of solarization.
        quarter_turns_p: Probability of a rotation by 90, 180 or 270 degrees, each as likely; 0.75 makes all four
            orientations equally likely.
        band_jitter: Maximum change of brightness and contrast of each band by itself (factors in 1 +- x).
        band_jitter_p: Probability of the jitter of single bands.
        band_drop_p: Probability of each band to be set to 0; one band is always kept.
        rgb: Whether images of three bands are RGB. Saturation, hue and solarization apply to RGB alone, and the
            grayscale of other images is the mean of their bands.
    """

    crop: str = "resized"
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    fraction: float = 0.875  # 224 of 256 pixels
    flip: float = 0.5
    vertical_flip: float = 0.0
    jitter: tuple[float, float, float, float] = (0.4, 0.4, 0.2, 0.1)
    jitter_p: float = 0.8
    gray_p: float = 0.2
    blur_p: float = 1.0
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    blur_kernel: int = 0
    solarize_p: float = 0.0
    quarter_turns_p: float = 0.0
    band_jitter: tuple[float, float] = (0.1, 0.1)
    band_jitter_p: float = 0.0
    band_drop_p: float = 0.0
    rgb: bool = True


_VICREG = Augmentation()
_SN7 = Augmentation(crop="fixed", jitter=(0.6, 0.6, 0.4, 0.2), gray_p=0.3, blur_kernel=3)
_TEMPORAL = Augmentation(crop="fixed", jitter=(0.4, 0.4, 0.4, 0.1), blur_p=0.5, blur_kernel=3)
_WEAK = dataclasses.replace(
    _TEMPORAL, crop="resized", scale=(0.3, 1.0), vertical_flip=0.5, jitter=(0.1, 0.1, 0.1, 0.0), gray_p=0.0, blur_p=0.0
)
_MEDIUM = dataclasses.replace(_WEAK, jitter=(0.2, 0.2, 0.2, 0.05), gray_p=0.1)
_STRONG = dataclasses.replace(_WEAK, scale=(0.2, 1.0), jitter=(0.4, 0.4, 0.2, 0.1), gray_p=0.2)
_FMOW = Augmentation(scale=(0.2, 1.0), jitter=(0.4, 0.4, 0.4, 0.1), blur_p=0.5)
_OVERHEAD = Augmentation(scale=(0.2, 1.0), vertical_flip=0.5, quarter_turns_p=0.75)
_MULTISPECTRAL = dataclasses.replace(
    _OVERHEAD, jitter=(0.4, 0.4, 0.0, 0.0), band_jitter_p=0.8, band_drop_p=0.05, blur_p=0.5, rgb=False
)
PLAIN = Augmentation(crop="center", flip=0.0, jitter_p=0.0, gray_p=0.0, blur_p=0.0)
# Training view of the reference protocol for linear probes and finetuning: random resized crop and flip.
PROBE_VIEW = dataclasses.replace(PLAIN, crop="resized", flip=0.5)
PRESETS = {
    # Bardes, Ponce, LeCun 2022, appendix C.1.
    "vicreg": (_VICREG, dataclasses.replace(_VICREG, blur_p=0.1, solarize_p=0.2)),
    # A crop without resizing keeps the ground sampling distance; strong color jitter.
    "sn7": (_SN7, dataclasses.replace(_SN7, gray_p=0.2, blur_p=0.1, solarize_p=0.3)),
    # Two months differ already: milder, no solarization.
    "temporal": (_TEMPORAL, dataclasses.replace(_TEMPORAL, jitter_p=0.4, gray_p=0.1, blur_p=0.1)),
    # For small patches, which a blur would spoil, with color jitter of three strengths: weak where colors identify
    # locations, stronger where a network shall learn shapes (exp/sn7_transfer.sh).
    "patch_weak": (_WEAK, dataclasses.replace(_WEAK, jitter_p=0.4)),
    "patch_medium": (_MEDIUM, dataclasses.replace(_MEDIUM, jitter_p=0.4)),
    "patch_strong": (_STRONG, _STRONG),
    # MoCo v2's, as in "Geography-Aware Self-Supervised Learning" (Ayush et al. 2021).
    "fmow": (_FMOW, _FMOW),
    # RGB images seen from above have no preferred orientation.
    "overhead": (_OVERHEAD, dataclasses.replace(_OVERHEAD, blur_p=0.1, solarize_p=0.2)),
    # Any bands: the intensities change in common and band by band; no operation mixes colors but the mean of the bands.
    "multispectral": (_MULTISPECTRAL, dataclasses.replace(_MULTISPECTRAL, blur_p=0.1)),
    "crop": (PROBE_VIEW, PROBE_VIEW),
    "none": (PLAIN, PLAIN),
}


def without_crop(view: Augmentation) -> Augmentation:
    """Return the augmentation that remains after the loader has cropped and resized the image."""
    return dataclasses.replace(view, crop="center", fraction=1.0)


def get_augmentation(name: str, overrides: Sequence[str] = ()) -> tuple[Augmentation, Augmentation]:
    """Return the augmentations of the two views of a preset, with single parameters changed.

    Args:
        name: One of ``PRESETS``.
        overrides: Strings such as ``scale=0.3,1`` (both views) or ``2.blur_p=0`` (second view).

    Raises:
        ValueError: There is no such preset or parameter, or the value is not valid.
    """
    if name not in PRESETS:
        raise ValueError(f"no augmentation preset {name!r}; choose from {', '.join(PRESETS)}")
    views = list(PRESETS[name])
    fields = {field.name: field for field in dataclasses.fields(Augmentation)}
    for override in overrides:
        key, _, value = override.partition("=")
        number, _, parameter = key.rpartition(".")
        if parameter not in fields or not value or number not in ("", "1", "2"):
            raise ValueError(f"cannot read {override!r}: PARAMETER=VALUE with PARAMETER one of {', '.join(fields)}")
        changed = {parameter: _parse(value, fields[parameter].default, override)}
        for index in (0, 1) if not number else (int(number) - 1,):
            views[index] = dataclasses.replace(views[index], **changed)
            _check(views[index], override)
    return views[0], views[1]


def _check(view: Augmentation, override: str) -> None:
    """Raise ValueError if a parameter of a view is out of range."""
    probabilities = (
        view.flip, view.vertical_flip, view.jitter_p, view.gray_p, view.blur_p, view.solarize_p, view.quarter_turns_p,
        view.band_jitter_p, view.band_drop_p,
    )  # fmt: skip
    for valid, requirement in (
        (view.crop in ("resized", "fixed", "center"), "crop must be resized, fixed or center"),
        (0 < view.scale[0] <= view.scale[1] <= 1, "scale must be two fractions of the area, the smaller first"),
        (0 < view.ratio[0] <= view.ratio[1], "ratio must be two positive numbers, the smaller first"),
        (0 < view.fraction <= 1, "fraction must be above 0 and at most 1"),
        (all(0 <= probability <= 1 for probability in probabilities), "probabilities must be from 0 to 1"),
        (min(view.jitter) >= 0 and view.jitter[3] <= 0.5, "jitter must not be negative, and its hue at most 0.5"),
        (min(view.band_jitter) >= 0, "band_jitter must not be negative"),
        (0 < view.blur_sigma[0] <= view.blur_sigma[1], "blur_sigma must be two positive numbers, the smaller first"),
        (view.blur_kernel >= 0, "blur_kernel must not be negative"),
    ):
        if not valid:
            raise ValueError(f"cannot use {override!r}: {requirement}")


def _parse(text: str, default: Any, override: str) -> Any:
    """Read a value of the type of ``default``."""
    if isinstance(default, str):
        return text
    if isinstance(default, bool):
        if text.lower() not in ("true", "false"):
            raise ValueError(f"cannot read {override!r}: true or false expected")
        return text.lower() == "true"
    try:
        values = tuple(float(value) for value in text.split(","))
    except ValueError as error:
        raise ValueError(f"cannot read {override!r}: numbers expected after '='") from error
    count = len(default) if isinstance(default, tuple) else 1
    if len(values) != count:
        raise ValueError(f"cannot read {override!r}: {count} number(s) expected")
    return values if isinstance(default, tuple) else type(default)(values[0])
