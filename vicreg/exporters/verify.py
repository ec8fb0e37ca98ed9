"""Two libraries, one network: the same images must give the same features."""

import contextlib
import importlib
import warnings

import torch

BOUND = 1e-4  # of the largest difference; float32 sums in another order stay far below


def sample_images(in_chans=3, size=64, count=2, seed=0):
    """Seeded images to compare on: float32 (count, in_chans, size, size), about as large as normalized pixels are."""
    return torch.randn(count, in_chans, size, size, generator=torch.Generator().manual_seed(seed))


def natural_size(backbone, small=64):
    """Side of images to compare on: what a timm network was made for where it cares, ``small`` otherwise."""
    settings = getattr(backbone, "pretrained_cfg", None) or {}
    if settings.get("fixed_input_size") or hasattr(backbone, "set_input_size"):
        return settings["input_size"][-1]
    return small


@contextlib.contextmanager
def evaluating(module):
    """Let a module be in eval mode, without gradients, for a while."""
    was_training = module.training
    module.eval()
    try:
        with torch.no_grad():
            yield module
    finally:
        module.train(was_training)


def pooled(backbone, images):
    """The features that a backbone is used by: list of one tensor (n, F)."""
    with evaluating(backbone):
        return [backbone(images)]


def resnet_stages(backbone, images):
    """What each stage of a ResNet of timm puts out.

    Args:
        backbone: ResNet with ``conv1``, ``bn1``, ``layer1`` to ``layer4``. images: (n, C, H, W).

    Returns:
        list of 6 tensors, from the first convolution (after its ReLU; side H / 2) over the pooled one (H / 4) to
        layer4 (H / 32).
    """
    with evaluating(backbone):
        found = [backbone.act1(backbone.bn1(backbone.conv1(images)))]
        for name in ("maxpool", "layer1", "layer2", "layer3", "layer4"):
            found.append(getattr(backbone, name)(found[-1]))
    return found


def largest_difference(ours, theirs):
    """The largest difference of two lists of features, as a share of the largest feature where that exceeds 1.

    Raises:
        ValueError: they are not of the same shapes.
    """
    shapes = [[tuple(part.shape) for part in parts] for parts in (ours, theirs)]
    if shapes[0] != shapes[1]:
        raise ValueError(f"features have the shapes {shapes[1]}, {shapes[0]} expected")
    found = [(our - their).abs().max() / our.abs().max().clamp(min=1) for our, their in zip(ours, theirs, strict=True)]
    return float(torch.stack(found).max())  # unlike Python's max, nan where one is


def verify(path, library, ours, read):
    """Read a file back with the library it is meant for, and compare features.

    Args:
        path: the file. library: name to import. ours: list of tensors. read: function of the path that gives theirs.

    Returns:
        what was found, in words; that nothing was verified where the library is not installed.

    Raises:
        ValueError: the library cannot read the file, or its features differ by more than ``BOUND``.
    """
    try:
        version = getattr(importlib.import_module(library), "__version__", "")
    except ImportError as error:
        return f"UNVERIFIED: {library} cannot be imported here ({error}); install it and export again to be sure"
    try:
        with warnings.catch_warnings():
            for kind in (DeprecationWarning, FutureWarning):  # of the library's own code
                warnings.simplefilter("ignore", kind)
            theirs = read(path)
        difference = largest_difference(ours, theirs)
    except Exception as error:  # whatever a library lets out of its loader means the same here
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(f"{library} {version} cannot use what was written, so it was removed: {reason}") from error
    if not difference <= BOUND:  # a nan is no agreement
        raise ValueError(
            f"{library} {version} finds other features in what was written, so it was removed: largest difference "
            f"{difference:.2g}, {BOUND:g} allowed"
        )
    maps = ours[0].dim() == 4  # of stages, of the same images; otherwise pooled, of other images each
    what = f"{len(ours)} stages" if maps else f"{ours[0].shape[1]} features"
    images = len(ours[0]) if maps else sum(len(part) for part in ours)
    return f"verified with {library} {version}: {what} on {images} images, largest difference {difference:.1e}"
