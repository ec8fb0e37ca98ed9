#!/usr/bin/env python3
"""Record the loss trajectories of the training scripts at toy size, or compare them with a record.

    python tests/golden_trajectories.py record tests/golden/trajectories.json
    python tests/golden_trajectories.py compare tests/golden/trajectories.json --only vicreg_sn7_same

Each run is a subprocess: 30 steps on the CPU, float32, one thread, a fixed seed, a log line per step. A record holds
every term of every log line and a digest of the final weights, because the log rounds to six decimals. ``compare``
prints ``same bits`` or the first step that differs for each run, and exits with status 1 if a run differs. It demands
equal bits where the CPU, PyTorch, and NumPy are those of the record; elsewhere the first steps must agree within a
tolerance. A run is not compared where a library that prepares its images computes something else (``LIBRARIES``). Only
command lines and file names of run folders are used here, nothing of the code under test.
"""

import argparse
import hashlib
import importlib.metadata
import json
import math
import os
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[1]
STEPS = 30
TOLERANCE, TOLERANCE_STEPS = 1e-4, 10  # on other machines: relative difference of the loss, and in how many steps

# The one place to adapt after an option is renamed.
OPTIONS = {
    "accumulate": "--accumulate",
    "arch": "--arch",
    "batch_size": "--batch-size",
    "crop": "--crop",
    "csv_dir": "--csv-dir",
    "data_dir": "--data-dir",
    "device": "--device",
    "epochs": "--epochs",
    "exp_dir": "--exp-dir",
    "image_size": "--image-size",
    "log_freq_time": "--log-freq-time",
    "lr": "--lr",
    "max_steps": "--max-steps",
    "mlp": "--mlp",
    "out_dir": "--out-dir",
    "overlap": "--overlap",
    "positives": "--positives",
    "precision": "--precision",
    "pretrained": "--pretrained",
    "probe_every": "--probe-every",
    "seed": "--seed",
    "task": "--task",
    "weights": "--weights",
    "workers": "--workers",
}
PREPARE_SN7 = "preprocessing/make_sn7_csv.py"
VICREG_SN7 = "vicreg/main_vicreg_sn7.py"

COMMON = {"device": "cpu", "precision": "fp32", "workers": 0, "log_freq_time": 0, "seed": 3, "max_steps": STEPS}
SN7 = {"csv_dir": "{data}/sn7", "image_size": 16, "batch_size": 16, "epochs": 8, "arch": "test_resnet"}
PRETRAIN = SN7 | {"mlp": "32-32", "probe_every": 0}
IMAGES = {key: value for key, value in PRETRAIN.items() if key != "csv_dir"} | {"data_dir": "{data}/images"}
EUROSAT = {"data_dir": "{data}/images/train", "pretrained": "random", "arch": "test_resnet", "weights": "finetune"}
FLOODNET = {"data_dir": "{data}/floodnet", "pretrained": "random", "arch": "resnet18", "task": "floodnet"}

# name: (script, processes, options). Batches, crops, and learning rates are such that rounding differences stay small:
# float32 sums in another order (two threads, AVX2 in place of AVX-512) change the loss of the first 10 steps by < 1e-4.
RUNS = {
    "vicreg_sn7_same": (VICREG_SN7, 1, PRETRAIN | {"positives": "same"}),
    "vicreg_sn7_temporal": (VICREG_SN7, 1, PRETRAIN | {"positives": "temporal"}),
    "vicreg_sn7_accumulate": (VICREG_SN7, 1, PRETRAIN | {"positives": "same", "accumulate": 2}),
    "vicreg_sn7_two_processes": (VICREG_SN7, 2, PRETRAIN | {"positives": "same"}),
    "vicreg_image_folder": ("vicreg/main_vicreg_unchanged.py", 1, IMAGES),
    "supervised_sn7": ("supervised/main_supervised_sn7.py", 1, SN7 | {"batch_size": 32}),
    "eurosat_finetune": (
        "downstream/eurosat_landcover_clsf_task/train_eurosat.py", 1, EUROSAT | {"batch_size": 8, "epochs": 8},
    ),
    "floodnet": (
        "downstream/FloodNet_segmentation_task/train_floodnet.py", 1,
        FLOODNET | {"batch_size": 2, "epochs": 8, "crop": 64, "overlap": 0, "lr": 3e-5},
    ),
}  # fmt: skip

# Runs whose images depend on the release of a library: torch.multinomial, by which RandomChoice draws, and bilinear
# resizing of uint8 differ between PyTorch 2.6 and 2.14, the bicubic filter between Pillow 12 and 13.
LIBRARIES = {"vicreg_image_folder": ("pillow_resize",), "floodnet": ("torch_choice", "torch_resize")}

AOIS = (
    "L15-0331E-1257N_1327_3160_13",
    "L15-1014E-1375N_4056_2688_13",
    "L15-1025E-1366N_4102_2726_13",
    "L15-1669E-1153N_6678_3579_13",
)


def make_data(folder):
    """Write the inputs of all runs: an SN7 tree and its patch list, an image folder, and a tiny FloodNet.

    Every file is lossless, so that decoders of other versions read the same pixels.

    Args:
        folder: empty folder.

    Returns:
        The folder.
    """
    import rasterio
    from PIL import Image

    rng = np.random.default_rng(0)

    def textured(side, color):
        coarse = rng.integers(-60, 61, (side // 8, side // 8, 3)).repeat(8, 0).repeat(8, 1)
        return np.clip(color + coarse + rng.integers(-20, 21, (side, side, 3)), 1, 255).astype(np.uint8)

    for aoi in AOIS:
        images, color = folder / "SN7" / aoi / "images", rng.integers(60, 196, 3)
        images.mkdir(parents=True)
        for month in range(1, 5):
            path = images / f"global_monthly_2018_{month:02d}_mosaic_{aoi}.tif"
            shape = {"width": 64, "height": 64, "count": 3, "dtype": "uint8"}
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
                with rasterio.open(path, "w", driver="GTiff", **shape) as raster:
                    raster.write(textured(64, color).transpose(2, 0, 1))
    for part, count in (("train", 24), ("val", 4)):
        for label in ("forest", "river", "town"):
            place, color = folder / "images" / part / label, rng.integers(60, 196, 3)
            place.mkdir(parents=True)
            for number in range(count):
                Image.fromarray(textured(32, color)).save(place / f"{label}_{number}.png")
    for part, count in (("train", 32), ("val", 2)):
        images, masks = folder / "floodnet" / part / f"{part}-org-img", folder / "floodnet" / part / f"{part}-label-img"
        images.mkdir(parents=True)
        masks.mkdir(parents=True)
        for number in range(count):
            labels = rng.integers(0, 10, (8, 8)).astype(np.uint8).repeat(8, 0).repeat(8, 1)
            Image.fromarray(textured(64, 100) // 2 + labels[..., None] * 12).save(images / f"{number}.png")
            Image.fromarray(labels).save(masks / f"{number}_lab.png")
    _start(PREPARE_SN7, 1, {"data_dir": folder / "SN7", "out_dir": folder / "sn7", "workers": 1})
    return folder


def run(name, data, exp_dir, threads=1):
    """Run a script and read what it leaves.

    Args:
        name: of ``RUNS``.
        data: folder written by ``make_data``.
        exp_dir: new folder for the run.
        threads: of PyTorch in each process.

    Returns:
        dict with ``terms`` (a list with one float per step for each log key) and ``weights`` (hexadecimal digest).

    Raises:
        RuntimeError: the script fails, or its log lacks a step.
    """
    script, processes, options = RUNS[name]
    options = {key: str(value).format(data=data) for key, value in (COMMON | options).items()}
    _start(script, processes, options | {"exp_dir": exp_dir}, threads)
    lines = [json.loads(line) for line in (exp_dir / "stats.txt").read_text().splitlines()]
    lines = [line for line in lines if "loss" in line]
    if [line["step"] for line in lines] != list(range(1, STEPS + 1)):
        raise RuntimeError(f"{name}: stats.txt does not hold one line with a loss for each of {STEPS} steps")
    keys = [key for key in lines[0] if all(isinstance(line.get(key), float) for line in lines)]
    timings = [key for key in keys if key.endswith("_per_second") or key.startswith("data_")]
    terms = {key: [line[key] for line in lines] for key in keys if key not in timings}
    return {"terms": terms, "weights": weights_digest(exp_dir)}


def _start(script, processes, options, threads=1):
    command = [sys.executable]
    if processes > 1:
        command += ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    command += [ROOT / script, *(word for key, value in options.items() for word in (OPTIONS[key], value))]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    ran = subprocess.run(list(map(str, command)), cwd=ROOT, env=environment, capture_output=True, text=True)
    if ran.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))}\nexit status {ran.returncode}\n{ran.stdout}\n{ran.stderr}")


def weights_digest(exp_dir):
    """Compute SHA-256 over a run's final weights: its backbone's, or all where it leaves no trained_model.pth.

    Names and order of the tensors have no influence.
    """
    path = exp_dir / "trained_model.pth"
    if path.is_file():
        state = torch.load(path, weights_only=True)["state_dict"]
    else:
        state = torch.load(exp_dir / "model.pth", weights_only=True)["model"]
    tensors = [(str(value.dtype), tuple(value.shape), value.contiguous().numpy().tobytes()) for value in state.values()]
    digests = sorted(hashlib.sha256(f"{kind} {shape}".encode() + data).hexdigest() for kind, shape, data in tensors)
    return hashlib.sha256("".join(digests).encode()).hexdigest()


def machine():
    """Describe what bits depend on: the CPU and the versions of PyTorch and NumPy."""
    info = Path("/proc/cpuinfo")
    names = [line for line in info.read_text().splitlines() if line.startswith("model name")] if info.is_file() else []
    cpu = names[0].partition(":")[2].strip() if names else "unknown"
    versions = {package: importlib.metadata.version(package) for package in ("torch", "numpy")}
    return {"cpu": cpu, "capability": torch.backends.cpu.get_cpu_capability(), **versions}


def library_digests():
    """Compute a digest of what each library of ``LIBRARIES`` makes of a fixed image or seed."""
    from PIL import Image
    from torchvision.transforms.v2.functional import resize

    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    generator = torch.Generator().manual_seed(0)
    results = {
        "pillow_resize": np.asarray(Image.fromarray(pixels[:24, :12]).resize((16, 16), Image.Resampling.BICUBIC)),
        "torch_choice": np.array([torch.ones(4).multinomial(1, generator=generator).item() for _ in range(32)]),
        "torch_resize": resize(torch.tensor(pixels.transpose(2, 0, 1)), [40, 40], antialias=True).numpy(),
    }
    return {name: hashlib.sha256(result.tobytes()).hexdigest()[:16] for name, result in results.items()}


def other_libraries(name, record):
    """List what run ``name`` depends on that the installed libraries compute differently than those of the record."""
    digests = library_digests()
    return [library for library in LIBRARIES.get(name, ()) if digests[library] != record["libraries"][library]]


def difference(recorded, found, exact):
    """Describe the first difference of two runs.

    Args:
        recorded: run of a record.
        found: run to compare, see ``run``.
        exact: True to demand equal bits of all terms that both have, and of the final weights. False to demand that
            ``loss`` agrees within ``TOLERANCE`` in the first ``TOLERANCE_STEPS`` steps.

    Returns:
        A line of text, or None where the two agree.
    """
    steps, keys = TOLERANCE_STEPS, {"loss"}
    if exact:
        steps, keys = STEPS, keys | (recorded["terms"].keys() & found["terms"].keys())
    for step in range(steps):
        for key in sorted(keys):
            old, new = recorded["terms"][key][step], found["terms"][key][step]
            if not (old == new if exact else math.isclose(old, new, rel_tol=TOLERANCE)):
                return f"step {step + 1}: {key} {new!r}, recorded {old!r}"
    if exact and recorded["weights"] != found["weights"]:
        return f"step {STEPS}: the final weights differ; all logged terms agree to six decimals"
    return None


def main(args):
    """Record or compare; returns the exit status."""
    new = {"machine": machine(), "libraries": library_digests(), "runs": {}}
    record = new if args.command == "record" else json.loads(args.file.read_text())
    exact, status = record["machine"] == machine() and args.threads == 1, 0
    with tempfile.TemporaryDirectory() as folder:
        data = make_data(Path(folder) / "data")
        for name in args.only or RUNS:
            if args.command == "compare" and (others := other_libraries(name, record)):
                print(f"{name:26} not compared: {', '.join(others)} differ from the record's")
                continue
            found = run(name, data, Path(folder) / name, args.threads)
            if args.command == "record":
                losses = found["terms"]["loss"]
                record["runs"][name], answer = found, f"loss {losses[0]} to {losses[-1]}"
            else:
                problem = difference(record["runs"][name], found, exact)
                agree = "same bits" if exact else f"{TOLERANCE_STEPS} steps within {TOLERANCE:g}"
                status, answer = (1, problem) if problem else (status, agree)
            print(f"{name:26} {answer}", flush=True)
    if args.command == "record":
        runs = ",\n".join(f"{json.dumps(name)}: {json.dumps(found)}" for name, found in record["runs"].items())
        head = ",\n".join(f'"{key}": {json.dumps(record[key])}' for key in ("machine", "libraries"))
        text = f'{{{head},\n"runs": {{\n{runs}\n}}}}\n'
        partial = args.file.with_name(f".{args.file.name}.partial")
        partial.write_text(text)
        os.replace(partial, args.file)
    return status


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["record", "compare"])
    parser.add_argument("file", type=Path, help="the record, a JSON file")
    parser.add_argument("--only", choices=list(RUNS), nargs="+", help="these runs instead of all")
    parser.add_argument("--threads", type=int, default=1, help="of each process; bits are compared with 1 only")
    sys.exit(main(parser.parse_args()))
