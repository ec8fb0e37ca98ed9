"""Facts about make_sn7_csv.py as a whole: it never leaves half a folder behind, and SpaceNet-7 comes out right."""

import json
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest

from preprocessing import make_sn7_csv
from preprocessing.sn7 import writer
from vicreg.data.sn7 import SN7Patches

SCRIPT = "preprocessing/make_sn7_csv.py"


def prepare(tree, out, *options):
    make_sn7_csv.main(make_sn7_csv.get_parser().parse_args(["--data-dir", str(tree), "--out-dir", str(out), *options]))


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("failure", [RuntimeError, KeyboardInterrupt])
def test_a_failing_run_leaves_the_old_folder_as_it_was(sn7_tree, tmp_path, monkeypatch, failure):
    prepare(sn7_tree, tmp_path / "out")
    before = contents(tmp_path / "out")

    def fail(*_):
        assert any(path.name.startswith(".partial-") for path in (tmp_path / "out").iterdir())
        raise failure

    monkeypatch.setattr(writer, "write_lists", fail)
    with pytest.raises(failure):
        prepare(sn7_tree, tmp_path / "out", "--split", "image")
    assert contents(tmp_path / "out") == before


def killed(code, tree, out, repo_root):
    """Run the script with some of it replaced by ``code`` -> its exit status."""
    program = (
        "import os, signal, sys, time\n"
        "from preprocessing import make_sn7_csv\nfrom preprocessing.sn7 import writer\n"
        f"{code}\n"
        "make_sn7_csv.main(make_sn7_csv.get_parser().parse_args(sys.argv[1:]))\n"
    )
    command = [sys.executable, "-c", program, "--data-dir", str(tree), "--out-dir", str(out), "--split", "image"]
    return subprocess.run(command, cwd=repo_root, capture_output=True, timeout=120).returncode


def test_a_killed_run_leaves_the_old_files_and_the_next_run_tidies_up(sn7_tree, tmp_path, repo_root):
    out = tmp_path / "out"
    prepare(sn7_tree, out)
    before = contents(out)
    kill = "writer.write_lists = lambda *_: os.kill(os.getpid(), signal.SIGKILL)"
    assert killed(kill, sn7_tree, out, repo_root) == -signal.SIGKILL
    left_over = [path for path in out.iterdir() if path.name not in before]
    assert len(left_over) == 1 and left_over[0].name.startswith(".partial-")
    assert {name: (out / name).read_bytes() for name in before} == before
    prepare(sn7_tree, out)
    assert contents(out) == before


def test_a_run_killed_while_it_replaces_files_leaves_a_folder_that_readers_refuse(sn7_tree, tmp_path, repo_root):
    out = tmp_path / "out"
    prepare(sn7_tree, out)
    kill = (
        "replace = os.replace\n"
        "os.replace = lambda a, b: os.kill(os.getpid(), signal.SIGKILL) if 'train' in str(b) else replace(a, b)"
    )
    assert killed(kill, sn7_tree, out, repo_root) == -signal.SIGKILL
    with pytest.raises(FileNotFoundError, match="meta.json"):
        SN7Patches(out / "train.csv")


def test_a_terminated_run_removes_what_it_began(sn7_tree, tmp_path, repo_root):
    """Ended by SIGTERM, as SLURM does, while it waits for a mosaic that never comes."""
    out = tmp_path / "out"
    slow = tmp_path / "slow.py"
    slow.write_text(
        "import runpy, sys, time\n"
        f"sys.path.insert(0, {str(repo_root)!r})\n"
        "from preprocessing.sn7 import writer\n"
        "writer.write_lists = lambda *_: time.sleep(60)\n"
        f"sys.argv[0] = {str(repo_root / SCRIPT)!r}\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')\n"
    )
    process = subprocess.Popen([sys.executable, slow, "--data-dir", sn7_tree, "--out-dir", out], stderr=subprocess.PIPE)
    deadline = time.time() + 60
    while not list(out.glob(".partial-*/patches.npy")) and time.time() < deadline:
        time.sleep(0.05)
    time.sleep(0.5)
    process.terminate()
    assert b"ended by SIGTERM" in process.communicate(timeout=30)[1] and process.returncode == 1
    assert not out.exists()


COUNTRIES = {  # where the tiles of SpaceNet-7's training AOIs are, by hand
    "Algeria": "3911_3441", "Australia": "7394_5018", "Bangladesh": "6154_3539", "Brazil": "2732_4164 3041_4643",
    "Chile": "2528_4620", "Egypt": "4815_3378 4816_3380 4819_3372", "Ghana": "4061_3941",
    "China": "6460_3370 6460_3366 6468_3360 6678_3579 6678_3548 6679_3549 6691_3363 6763_3346 6764_3347 6813_3313 "
             "6864_3345",
    "India": "5753_3655 5759_3655 5916_3785 5927_3715", "Jamaica": "2345_3680", "Kuwait": "5184_3399",
    "Libya": "4553_3325", "Mexico": "1831_3648", "Netherlands": "4196_2710", "Panama": "2287_3888",
    "Peru": "2459_4406", "Philippines": "6838_3742", "Romania": "4688_2967", "Russia": "5193_2903",
    "Saudi Arabia": "5156_3514", "Senegal": "3699_3757", "South Africa": "4802_4803", "South Korea": "6993_3202",
    "Sudan": "4838_3737", "Uganda": "4840_4088", "United Arab Emirates": "5342_3524",
    "United Kingdom": "4056_2688 4102_2726", "Uzbekistan": "5557_3054", "Yemen": "5105_3761", "Zambia": "4742_4450",
    "United States": "1327_3160 1429_3296 1433_3310 1446_2989 1474_3210 1549_3087 1736_3318 1950_3207 2027_3374 "
                     "2176_3279 2265_3451 2309_3217 2383_3079",
}  # fmt: skip


@pytest.mark.real_data
@pytest.mark.slow
def test_the_whole_of_spacenet_7_is_prepared_with_every_country_right(real_data, repo_root, tmp_path):
    tree = real_data / "sn7_128" / "train"
    if not tree.is_dir():
        pytest.skip(f"no SN7 tree at {tree}")
    # A small process in between: Linux counts what a parent holds when it forks as its child's memory.
    measure = (
        "import resource, subprocess, sys, time\n"
        "started = time.perf_counter()\n"
        "subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)\n"
        "print(time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024)\n"
    )
    script = [sys.executable, str(repo_root / SCRIPT)]

    def seconds_and_megabytes(*options):
        command = [sys.executable, "-c", measure, *script, *options]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        return map(float, done.stdout.split())

    _, imports = seconds_and_megabytes("--help")  # 0.6 to 0.9 GB, most of it PyTorch's libraries
    seconds, megabytes = seconds_and_megabytes("--data-dir", str(tree), "--out-dir", str(tmp_path / "out"))
    print(f"\n{seconds:.1f} s, {megabytes:.0f} MB resident, {imports:.0f} MB of them to start")
    assert megabytes - imports < 384
    meta = json.loads((tmp_path / "out" / "meta.json").read_text())
    table = pd.read_csv(tmp_path / "out" / "all.csv", keep_default_na=False)
    counts = meta["counts"]
    assert (counts["aois"], counts["mosaics"], len(table), len(meta["classes"])) == (60, 1423, 22768, 31)
    expected = {tile: country for country, tiles in COUNTRIES.items() for tile in tiles.split()}
    assert (table.groupby("aoi").country.nunique() == 1).all()
    aois = table.groupby("aoi").country.first().items()
    found = {aoi.split("_", 1)[1].removesuffix("_13"): country for aoi, country in aois}
    assert len(expected) == 60 and found == expected
    assert len(np.load(tmp_path / "out" / "patches.npy", mmap_mode="r")) == 22768
