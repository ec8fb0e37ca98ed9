"""Random patches in the format of make_sn7_csv.py, for benchmarks of whole runs."""

import json
from pathlib import Path

import numpy as np
import pandas as pd

from vicreg.data.sn7_format import COLUMNS


def write_pack(folder: Path, patches: int, side: int) -> None:
    """Write random patches with a list of them, as make_sn7_csv.py does."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    store = np.lib.format.open_memmap(folder / "patches.npy", "w+", np.uint8, (patches, 3, side, side))
    for start in range(0, patches, 1024):
        store[start : start + 1024] = rng.integers(256, size=store[start : start + 1024].shape, dtype=np.uint8)
    store.flush()
    rows = np.arange(patches)
    table = pd.DataFrame({"row": rows, "patch": rows % 16, "year": 2018 + rows // 16 % 2, "month": rows // 32 % 12 + 1})
    aois = [f"L15-{number:04d}E-0000N_{number}_0_13" for number in rows // 384]
    table = table.assign(aoi=aois, image_id="image", city="", state="", country="", label=rows % 31, split="train")
    table[COLUMNS].to_csv(folder / "train.csv", index=False)
    meta = {"format": 1, "rows": patches, "patch_size": side, "counts": {"train": patches}, "grid": 4}
    meta |= {"classes": [str(label) for label in range(31)], "mean": [0.5] * 3, "std": [0.29] * 3}
    (folder / "meta.json").write_text(json.dumps(meta))
