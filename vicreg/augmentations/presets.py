"""Two views of a batch: regimes by name, drawn from a counted seed, made in batches on the device that trains.

Random numbers are drawn on the CPU for the *whole* batch from (seed, step), and each process takes its own rows. So
the views do not depend on the device, on how many processes share the batch, or on what ran before.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """Every number of one view's augmentation.

    Attributes:
        crop: "resized" (random area and aspect ratio), "fixed" (random place, one size) or "center".
        scale: for "resized", least and largest share of the image's area.
        ratio: for "resized", least and largest width / height.
        fraction: for "fixed" and "center", the side of the crop as a share of the image's (224 of 256 pixels).
        flip, vertical_flip: probabilities.
        jitter: brightness, contrast, saturation (factors within 1 +- x) and hue (turns within +- x).
        jitter_p, gray_p, blur_p, solarize_p: probabilities.
        blur_sigma: range of the Gaussian, in pixels of the view. blur_kernel: taps; 0 is the whole Gaussian.
    """

    crop: str = "resized"
    scale: tuple = (0.08, 1.0)
    ratio: tuple = (3 / 4, 4 / 3)
    fraction: float = 0.875
    flip: float = 0.5
    vertical_flip: float = 0.0
    jitter: tuple = (0.4, 0.4, 0.2, 0.1)
    jitter_p: float = 0.8
    gray_p: float = 0.2
    blur_p: float = 1.0
    blur_sigma: tuple = (0.1, 2.0)
    blur_kernel: int = 0
    solarize_p: float = 0.0


_PAPER = Augmentation()
_SN7 = Augmentation(crop="fixed", jitter=(0.6, 0.6, 0.4, 0.2), gray_p=0.3, blur_kernel=3)
_TEMPORAL = Augmentation(crop="fixed", jitter=(0.4, 0.4, 0.4, 0.1), blur_p=0.5, blur_kernel=3)
_FMOW = Augmentation(scale=(0.2, 1.0), jitter=(0.4, 0.4, 0.4, 0.1), blur_p=0.5)
PLAIN = Augmentation(crop="center", flip=0.0, jitter_p=0.0, gray_p=0.0, blur_p=0.0)
# the reference protocol's training view for linear probes and finetuning: random resized crop and flip
PROBE_VIEW = dataclasses.replace(PLAIN, crop="resized", flip=0.5)
PRESETS = {
    # Bardes et al. 2022, appendix C.1
    "vicreg": (_PAPER, dataclasses.replace(_PAPER, blur_p=0.1, solarize_p=0.2)),
    # a crop without resize keeps the ground sampling distance; strong color jitter
    "sn7": (_SN7, dataclasses.replace(_SN7, gray_p=0.2, blur_p=0.1, solarize_p=0.3)),
    # two months differ by themselves: milder, no solarization
    "temporal": (_TEMPORAL, dataclasses.replace(_TEMPORAL, jitter_p=0.4, gray_p=0.1, blur_p=0.1)),
    # MoCo v2's, as "Geography-Aware Self-Supervised Learning" (Ayush et al. 2021) took them to fMoW
    "fmow": (_FMOW, _FMOW),
    "crop": (PROBE_VIEW, PROBE_VIEW),
    "none": (PLAIN, PLAIN),
}


def without_crop(view):
    """What is left of a view for the device where the loader has cut and resized its crop: all but the crop."""
    return dataclasses.replace(view, crop="center", fraction=1.0)


def get_augmentation(name, changes=()):
    """A regime's two views, with single numbers changed.

    Args:
        name: one of ``PRESETS``.
        changes: strings such as ``scale=0.3,1`` (both views) or ``2.blur_p=0`` (second view).

    Raises:
        ValueError: no such regime or number; says what there is.
    """
    if name not in PRESETS:
        raise ValueError(f"no augmentation regime {name!r}; there are {', '.join(PRESETS)}")
    views = list(PRESETS[name])
    for change in changes:
        key, _, value = change.partition("=")
        number, _, field = key.rpartition(".")
        known = {item.name: item for item in dataclasses.fields(Augmentation)}
        if field not in known or not value or number not in ("", "1", "2"):
            raise ValueError(f"cannot read {change!r}: NUMBER=VALUE with NUMBER one of {', '.join(known)}")
        for which in (0, 1) if not number else (int(number) - 1,):
            views[which] = dataclasses.replace(views[which], **{field: _parse(value, known[field].default, change)})
            _check(views[which], change)
    return tuple(views)


def _check(view, change):
    """Raise ValueError where a view's numbers mean nothing."""
    shares = (view.flip, view.vertical_flip, view.jitter_p, view.gray_p, view.blur_p, view.solarize_p)
    for right, needed in (
        (view.crop in ("resized", "fixed", "center"), "crop is resized, fixed or center"),
        (0 < view.scale[0] <= view.scale[1] <= 1, "scale is two shares of the area, the smaller first"),
        (0 < view.ratio[0] <= view.ratio[1], "ratio is two positive numbers, the smaller first"),
        (0 < view.fraction <= 1, "fraction is above 0 and 1 at most"),
        (all(0 <= share <= 1 for share in shares), "probabilities are from 0 to 1"),
        (min(view.jitter) >= 0 and view.jitter[3] <= 0.5, "jitter is not negative, and its hue 0.5 at most"),
        (0 < view.blur_sigma[0] <= view.blur_sigma[1], "blur_sigma is two positive numbers, the smaller first"),
        (view.blur_kernel >= 0, "blur_kernel is not negative"),
    ):
        if not right:
            raise ValueError(f"cannot use {change!r}: {needed}")


def _parse(text, like, change):
    """Read a value of the same type as ``like``."""
    if isinstance(like, str):
        return text
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise ValueError(f"cannot read {change!r}: numbers expected after '='") from error
    if len(values) != (len(like) if isinstance(like, tuple) else 1):
        raise ValueError(f"cannot read {change!r}: {len(like) if isinstance(like, tuple) else 1} number(s) expected")
    return values if isinstance(like, tuple) else type(like)(values[0])
