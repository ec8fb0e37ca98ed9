"""What tests share: where the repository and the real data are, scripts as subprocesses, and a tiny SN7 tree."""

import contextlib
import io
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import time
import traceback
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
# name, months, rows: one mosaic is a row short, as some of SpaceNet-7 are; two AOIs are in one country
TINY_AOIS = [
    ("L15-0331E-1257N_1327_3160_13", 4, 32),  # California; has a label file
    ("L15-1014E-1375N_4056_2688_13", 4, 31),  # England
    ("L15-1025E-1366N_4102_2726_13", 4, 32),  # England; no georeference
    ("L15-1669E-1153N_6678_3579_13", 3, 32),  # China, where the nearest place is in Macao
]


def pytest_addoption(parser):
    """Add ``--in-process`` for ``make test-fast``."""
    parser.addoption("--in-process", action="store_true", help="skip tests that start another Python process")


def pytest_configure(config):
    """Let a test under ``--in-process`` skip itself where it starts a Python process or a shell script."""
    if not config.getoption("--in-process"):
        return
    start = subprocess.Popen.__init__

    def skip_python(self, command, *args, **kwargs):
        first = os.path.basename(str(command if isinstance(command, (str, os.PathLike)) else command[0]))
        if first.startswith(("python", "bash", "torchrun", "make")) and "PYTEST_CURRENT_TEST" in os.environ:
            pytest.skip("starts a process; make test runs it")
        start(self, command, *args, **kwargs)

    subprocess.Popen.__init__ = skip_python


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    """Give every test the same random numbers, whichever tests ran before it in its process."""
    import torch

    seed = int(os.environ.get("TEST_SEED", 0))  # another one shows which test is right by luck
    torch.manual_seed(seed)
    np.random.seed(seed)


@pytest.fixture(scope="session")
def repo_root():
    """The repository's root."""
    return ROOT


@pytest.fixture(scope="session")
def real_data():
    """Folder with real images: $CITIES_REAL_DATA, else shared/data beside the repository."""
    folder = Path(os.environ.get("CITIES_REAL_DATA") or ROOT.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"no real images at {folder}; set CITIES_REAL_DATA to their folder")
    return folder


@pytest.fixture(scope="session")
def run_script():
    """Function (path in the repository, arguments, cwd=root) -> CompletedProcess with text output."""

    def run(script, *arguments, cwd=ROOT, timeout=300):
        command = [sys.executable, str(ROOT / script), *map(str, arguments)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}  # as ``fork``: sums depend on how many threads share them
        return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=timeout)

    return run


def call_script(script, *arguments):
    """Run a script as the fixture ``run_script`` does, but in this process, which has imported its libraries."""
    argv, path, handlers = sys.argv, sys.path[:], {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)}
    sys.argv, code, out, printed = [str(ROOT / script), *map(str, arguments)], 0, io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stderr(printed), contextlib.redirect_stdout(out):
            runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as end:
        code = end.code if isinstance(end.code, (int, type(None))) else print(end.code, file=printed) or 1
    except pytest.skip.Exception:  # of ``--in-process``
        raise
    except BaseException:
        code = traceback.print_exc(file=printed) or 1
    finally:
        sys.argv, sys.path[:] = argv, path
        for number, handler in handlers.items():
            signal.signal(number, handler)
    return subprocess.CompletedProcess([script, *arguments], code or 0, out.getvalue(), printed.getvalue())


class Forked:
    """Processes of one run, forked from the fork_server."""

    folder = None  # of a run that leaves a stats.txt

    def __init__(self, ask, out, pids):
        self.out, self.pids = out, pids
        self._ask, self._ended = ask, {}

    def last_step(self):
        """The step of the last whole line of stats.txt; -1 before the first."""
        stats = self.folder / "stats.txt"
        lines = stats.read_text().split("\n")[:-1] if stats.is_file() else []
        return json.loads(lines[-1])["step"] if lines else -1

    def reach(self, step):
        """Wait until a step is logged, or the first process has ended."""
        while self.last_step() < step and self.running(0):
            time.sleep(0.002)

    def kill(self, rank, number=signal.SIGKILL):
        """Send a signal to one process."""
        os.kill(self.pids[rank], number)

    def wait(self, rank):
        """Exit status of one process, negative for a signal."""
        if rank not in self._ended:
            self._ended[rank] = self._ask({"wait": self.pids[rank]})
        return self._ended[rank]

    def text(self, rank):
        """What a process printed."""
        return Path(f"{self.out}.{rank}").read_text()

    def running(self, rank):
        """False once a process has ended, waited for or not."""
        if rank in self._ended:
            return False
        return Path(f"/proc/{self.pids[rank]}/stat").read_text().rpartition(")")[2].split()[0] != "Z"


@pytest.fixture(scope="session")
def fork():
    """Function (code, out, processes=1, launcher="torchrun", **variables) -> Forked, which runs at once (Linux).

    Launchers set what torchrun, srun, or none of them (None) would.
    """
    command = [sys.executable, ROOT / "tests" / "fork_server.py"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    fork_server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
    forked = []

    def ask(request):
        fork_server.stdin.write(json.dumps(request) + "\n")
        fork_server.stdin.flush()
        return json.loads(fork_server.stdout.readline())

    def run(code, out, processes=1, launcher="torchrun", **variables):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
        environments = []
        for rank in range(processes):
            told = {}
            if launcher == "torchrun":
                told = where | {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes}
            elif launcher == "srun":
                told = {"SLURM_PROCID": rank, "SLURM_LOCALID": rank, "SLURM_STEP_NUM_TASKS": processes}
                told |= {"SLURM_STEP_ID": 0, "SLURM_STEP_NODELIST": "node01", "SLURM_JOB_ID": where["MASTER_PORT"]}
            environments.append({key: str(value) for key, value in (told | variables).items()})
        forked.append(Forked(ask, out, ask({"code": code, "environments": environments, "out": str(out)})))
        return forked[-1]

    yield run
    for left in forked:
        for rank in range(len(left.pids)):
            if left.running(rank):
                left.kill(rank)
    fork_server.kill()  # not by the end of its input: loader processes that tests forked may still hold the pipe open
    fork_server.wait()


@pytest.fixture(scope="session")
def train(fork, sn7_prepared):
    """Function (run folder, *more arguments, processes=1, launcher="torchrun", **variables) -> Forked toy pretraining.

    55 steps of 16 in 5 epochs, a line for each step and a checkpoint for every second; a few seconds. What is printed
    goes beside the run folder or to ``out``; ``before`` is code that runs first.
    """

    def run(folder, *more, processes=1, launcher="torchrun", out=None, before="", **variables):
        words = "--arch test_resnet --mlp 16-16 --batch-size 16 --image-size 16 --workers 0 --device cpu --epochs 5 "
        words += "--seed 3 --checkpoint-every 2 --log-freq-time 0 --probe-every 0"
        words = ["--csv-dir", str(sn7_prepared), "--exp-dir", str(folder), *words.split(), *map(str, more)]
        code = f"{before}\nimport sys; from vicreg.common import cli; from vicreg import main_vicreg_sn7 as script\n"
        code += f"sys.argv = ['main_vicreg_sn7.py', *{words}]\n"
        code += "cli.run(script.main, script.get_parser().parse_args())"
        forked = fork(code, out or Path(f"{folder}.out"), processes, launcher, **variables)
        forked.folder = folder
        return forked

    return run


def need_detectron2():
    """Skip the module that calls this where Detectron2 is missing."""
    from downstream.detectron2_crowdai_detection_task import detectron2_setup

    try:
        detectron2_setup.require()
    except ValueError as error:
        pytest.skip(str(error), allow_module_level=True)


def write_tif(path, pixels, bounds=None, gcps=False):
    """Write uint8 (channels, height, width); bounds in EPSG:3857, None for no georeference.

    With ``gcps``, ground control points at the corners take the place of the transform.
    """
    import rasterio

    from vicreg.data.rasters import quiet_georeference

    channels, height, width = pixels.shape
    profile = {"driver": "GTiff", "width": width, "height": height, "count": channels, "dtype": "uint8"}
    if bounds:
        left, bottom, right, top = bounds
        transform = rasterio.Affine((right - left) / width, 0, left, 0, (bottom - top) / height, top)
        profile |= {"crs": "EPSG:3857", "transform": transform}
    if gcps:
        corners = [(0, 0, left, top), (0, width, right, top), (height, 0, left, bottom), (height, width, right, bottom)]
        profile["gcps"] = [rasterio.control.GroundControlPoint(*corner) for corner in corners]
        del profile["transform"]
    path.parent.mkdir(parents=True, exist_ok=True)
    with quiet_georeference(), rasterio.open(path, "w", compress="deflate", **profile) as raster:
        raster.write(pixels)


def write_geojson(path, positions):
    """Write a label file with a small square footprint at every (longitude, latitude)."""
    d = 1e-4
    squares = [[[x - d, y - d], [x + d, y - d], [x + d, y + d], [x - d, y + d], [x - d, y - d]] for x, y in positions]
    features = [
        {"type": "Feature", "properties": {"Id": 0}, "geometry": {"type": "Polygon", "coordinates": [square]}}
        for square in squares
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))


def write_tiny_tree(folder, aois=TINY_AOIS, side=32):
    """Write a tree of small RGB mosaics: each AOI has its own color and each month its own noise."""
    from preprocessing.sn7.geocode import xyz_tile_bounds
    from vicreg.data.sn7_format import parse_aoi_name

    rng = np.random.default_rng(0)
    for aoi, months, rows in aois:
        color = rng.integers(40, 216, (3, 1, 1))
        bounds = None if "1025E" in aoi else xyz_tile_bounds(*parse_aoi_name(aoi))
        for month in range(1, months + 1):
            pixels = np.clip(color + rng.integers(-40, 41, (3, rows, side)), 1, 255).astype(np.uint8)
            write_tif(folder / aoi / "images" / f"global_monthly_2018_{month:02d}_mosaic_{aoi}.tif", pixels, bounds)
    name = f"global_monthly_2018_04_mosaic_{TINY_AOIS[0][0]}_Buildings.geojson"
    write_geojson(folder / TINY_AOIS[0][0] / "labels" / name, [(-121.66, 37.98), (-121.65, 37.97)])
    return folder


@pytest.fixture
def sn7_tree(tmp_path):
    """Path of a fresh tiny SN7 tree: 4 AOIs, 3 countries, 15 mosaics of 32 x 32 (one AOI: 31 rows)."""
    return write_tiny_tree(tmp_path / "SN7" / "train")


@pytest.fixture(scope="session")
def sn7_prepared(tmp_path_factory):
    """Path of a folder prepared from the tiny tree by make_sn7_csv, block split; do not write into it."""
    from preprocessing import make_sn7_csv

    folder = tmp_path_factory.mktemp("sn7_prepared")
    tree, out = write_tiny_tree(folder / "train"), folder / "csv"
    make_sn7_csv.main(make_sn7_csv.get_parser().parse_args(["--data-dir", str(tree), "--out-dir", str(out)]))
    return out


SCENES = {"Forest": (30, 90, 40), "Residential": (150, 140, 130), "SeaLake": (20, 40, 120)}


@pytest.fixture(scope="session")
def eurosat_tree(tmp_path_factory):
    """Path of a tree as EuroSAT comes: 3 classes, each of one color, 10 images of 32 x 32; do not write into it."""
    from PIL import Image

    folder, rng = tmp_path_factory.mktemp("eurosat") / "2750", np.random.default_rng(0)
    for name, color in SCENES.items():
        (folder / name).mkdir(parents=True)
        for number in range(1, 11):
            pixels = np.clip(np.array(color) + rng.integers(-20, 21, (32, 32, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{name}_{number}.jpg", quality=95)
    return folder
