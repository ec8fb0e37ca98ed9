"""The stored type of pixels, and the values that become its limits."""

from collections.abc import Sequence

import numpy as np

from vicreg.common.random_streams import rng
from vicreg.data.raster_pack.cut import CutOptions
from vicreg.data.raster_pack.headers import PackOptions
from vicreg.data.raster_pack.reader import SceneReader
from vicreg.data.raster_pack.scenes import Scene
from vicreg.data.rasters import quiet_georeference

_STORED = ("uint8", "uint16")
_SAMPLE_SCENES, _SAMPLE_SIDE = 64, 256  # sample that --scale p2,p98 is estimated on


def cut_options(scenes: Sequence[Scene], options: PackOptions) -> CutOptions:
    """Determine the stored type and the scale.

    Raises:
        ValueError: The type of the pixels needs ``--scale`` or is not scaled, or the scale is malformed.
    """
    dtype = scenes[0].dtype
    if options.scale is None and dtype not in _STORED:
        raise ValueError(f"{scenes[0].path} and the others hold {dtype}; give make_imagery_csv.py the values that "
                         "become 0 and the maximum of 16 bits: --scale LOW HIGH (reflectance: --scale 0 1), or --scale "
                         "p2,p98")  # fmt: skip
    scale = None if options.scale is None else _read_scale(options.scale, scenes, options.seed)
    if scale and dtype == "uint8":  # what reads files later takes 8 bits as they are, and would not scale them
        raise ValueError(f"--scale {' '.join(options.scale or ())}: {scenes[0].path} and the others hold uint8, which "
                         "is stored as it is; leave out --scale")  # fmt: skip
    assert options.patch_size is not None  # chosen by make_plan
    shard_bytes, stored = int(options.shard_size * 2**20), options.dtype if scale else dtype
    return CutOptions(options.patch_size, options.max_nodata, stored, scale, shard_bytes)


def _read_scale(values_given: Sequence[str], scenes: Sequence[Scene], seed: int) -> tuple[tuple[float, float], ...]:
    text, words = f"--scale {' '.join(values_given)}", ",".join(values_given).split(",")
    marked = {word.startswith("p") for word in words}
    try:
        values = [float(word.lstrip("p")) for word in words]
    except ValueError:
        values = []
    if len(values) != 2 or len(marked) > 1:
        raise ValueError(f"{text}: two numbers are needed, or two percentiles such as p2,p98")
    low, high = values
    if not low < high or not np.isfinite(values).all():
        raise ValueError(f"{text}: the lower value comes first")
    if marked == {False}:
        return ((low, high),) * len(scenes[0].bands)
    if not 0 <= low < high <= 100:
        raise ValueError(f"{text}: percentiles are from 0 to 100")
    return _percentiles(scenes, low, high, seed)


def _percentiles(scenes: Sequence[Scene], low: float, high: float, seed: int) -> tuple[tuple[float, float], ...]:
    """Estimate percentiles of each band on one window of each of some scenes."""
    random = rng(seed, "scale_sample")
    chosen = np.sort(random.permutation(len(scenes))[:_SAMPLE_SCENES])
    samples, failure = [], ""
    with quiet_georeference():
        for index in chosen:
            scene = scenes[index]
            width, height = min(scene.width, _SAMPLE_SIDE), min(scene.height, _SAMPLE_SIDE)
            left, top = random.integers(scene.width - width + 1), random.integers(scene.height - height + 1)
            reader = SceneReader(scene)
            try:
                pixels, valid = reader.read(int(left), int(top), width, height)
            except ValueError as error:
                failure = f", {scene.mask or scene.path}: {error}"
                continue  # reported when it is cut
            finally:
                reader.close()
            samples.append(pixels[:, valid])
    values = np.concatenate(samples, axis=1) if samples else np.empty((0, 0))
    if not values.size:
        raise ValueError(f"--scale: the sampled windows hold no data{failure}; give two numbers")
    limits = np.percentile(values, [low, high], axis=1).T
    for band, (lower, upper) in zip(scenes[0].band_names, limits, strict=True):
        if lower >= upper:
            where = f"{len(samples)} scenes, such as {scenes[chosen[0]].path}"
            raise ValueError(f"--scale: both percentiles of band {band} are {lower:g} in {where}; give two numbers")
    return tuple((float(lower), float(upper)) for lower, upper in limits)
