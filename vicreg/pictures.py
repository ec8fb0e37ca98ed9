"""Pictures that a run leaves in its folder."""

import os
from pathlib import Path

import numpy as np
from PIL import Image


def save_view_pairs(path, view1, view2, most=12, side=112):
    """Write the two views of some samples, one above the other, as a PNG.

    Args:
        path: where. view1, view2: (n, C, S, S) in [0, 1], before normalisation; the first three channels are shown.
        most: pairs to show. side: at least this many pixels for each view.
    """
    enlarge = max(1, side // view1.shape[-1])
    rows = []
    for views in (view1[:most], view2[:most]):
        tiles = [np.kron(tile, np.ones((enlarge, enlarge, 1))) for tile in _as_rgb(views)]
        rows.append(np.concatenate([np.pad(tile, ((2, 2), (2, 2), (0, 0)), constant_values=1) for tile in tiles], 1))
    picture = Image.fromarray((np.concatenate(rows) * 255).round().astype(np.uint8))
    path = Path(path)
    beside = path.with_name(f".{path.stem}.{os.getpid()}.partial.png")
    picture.save(beside)
    os.replace(beside, path)


def _as_rgb(views):
    colours = views[:, :3] if views.shape[1] >= 3 else views[:, :1].expand(-1, 3, -1, -1)
    return colours.clamp(0, 1).permute(0, 2, 3, 1).cpu().numpy()
