"""Processes that were started with different options, data or jobs end with one line that names the difference."""

import json
import shutil

import pytest

from vicreg import distributed

PRETRAIN = """
import os, sys
from vicreg.common import cli
from vicreg import main_vicreg_sn7 as script
words = {words!r}
if os.environ["RANK"] == "1":
    words += {more!r}
sys.argv = ["main_vicreg_sn7.py", *words]
cli.run(script.main, script.get_parser().parse_args())
"""
TOY = (
    "--arch test_resnet --mlp 16-16 --batch-size 16 --image-size 16 --workers 0 --device cpu --epochs 1 --probe-every 0"
)


@pytest.fixture
def pretrain(fork, sn7_prepared, tmp_path):
    """Function (further words of rank 1) -> exit codes and the line of rank 0."""

    def run(*more, **variables):
        words = ["--csv-dir", str(sn7_prepared), "--exp-dir", str(tmp_path / "run"), *TOY.split()]
        code = PRETRAIN.format(words=words, more=list(map(str, more)))
        forked = fork(code, tmp_path / "out", 2, **variables)
        codes = [forked.wait(0), forked.wait(1)]
        return codes, forked.text(0)

    return run


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ("--seed 9", "--seed is 0 on rank 0 and 9 on rank 1"),
        (
            "--base-lr 0.2 --augment crop",
            "--lr is 0.3 on rank 0 and 0.2 on rank 1; --augment is sn7 on rank 0 and crop",
        ),
        ("--sim-coeff 3", "--sim-coeff is 25.0 on rank 0 and 3.0 on rank 1"),
        ("--optimizer adamw --precision bf16", "--optimizer is lars on rank 0 and adamw on rank 1"),
        ("--positives temporal", "--positives is same on rank 0 and temporal on rank 1"),
    ],
)
def test_another_option_on_one_rank_ends_all_with_its_name(pretrain, more, expected):
    codes, text = pretrain(*more.split(), LOCAL_RANK=0)
    assert codes == [1, 1] and len(text.splitlines()) == 1
    assert text.startswith("main_vicreg_sn7: the processes were started with different options: ") and expected in text


def test_another_list_of_the_same_size_on_one_rank_ends_all(pretrain, sn7_prepared, tmp_path):
    other = shutil.copytree(sn7_prepared, tmp_path / "other")
    lines = (other / "train.csv").read_text().splitlines()
    (other / "train.csv").write_text("\n".join([lines[0], *lines[:0:-1]]) + "\n")
    codes, text = pretrain("--csv-dir", other, LOCAL_RANK=0)
    assert codes == [1, 1] and "different data: samples is " in text and len(text.splitlines()) == 1


def test_workers_may_differ_and_the_run_trains(pretrain, tmp_path):
    codes, text = pretrain("--workers", 1)
    assert codes == [0, 0] and (tmp_path / "run/trained_model.pth").is_file(), text


JOB = """
import os
os.environ["SLURM_JOB_ID"] = {jobs!r}[int(os.environ["RANK"])]
from vicreg import distributed
from vicreg.common import cli
cli.run(lambda _: (distributed.init("cpu", timeout_minutes={minutes}), distributed.destroy()), None)
"""


@pytest.mark.parametrize(("jobs", "codes"), [(["7", "8"], [1, 1]), (["7", "7"], [0, 0]), (["7", ""], [0, 0])])
def test_processes_of_another_job_at_the_same_port_are_refused(fork, tmp_path, jobs, codes):
    run = fork(JOB.format(jobs=jobs, minutes=0.1 if any(codes) else 2), tmp_path / "out", 2, LOCAL_RANK=0)
    assert [run.wait(0), run.wait(1)] == codes, run.text(0) + run.text(1)
    assert ("job 7 listens there" in run.text(1) or "job 7 uses this address" in run.text(1)) == (codes == [1, 1])


def test_one_process_has_nothing_to_compare():
    distributed.check_same_across_ranks({"--seed": 1})


METRICS = """
import json, os, torch
from vicreg import distributed
from vicreg.engine.pretrain import effective_rank_of_all
from vicreg.eval.metrics import embedding_std
distributed.init("cpu")
rows = torch.randn(12, 5, generator=torch.Generator().manual_seed(0)) * torch.arange(5)
local = rows.chunk(distributed.world_size())[distributed.rank()]
found = [embedding_std(local).item(), effective_rank_of_all(local)]
print(json.dumps(found))
distributed.destroy()
"""


def test_two_processes_compute_embedding_std_and_effective_rank_of_the_whole_batch(fork, tmp_path):
    found = []
    for processes in (1, 2, 3):
        run = fork(METRICS, tmp_path / "out", processes)
        assert [run.wait(rank) for rank in range(processes)] == [0] * processes, run.text(0)
        found += [json.loads(run.text(rank)) for rank in range(processes)]
    import torch

    rows = torch.randn(12, 5, generator=torch.Generator().manual_seed(0)) * torch.arange(5)
    assert found[0][0] == pytest.approx(rows.std(0).mean().item(), rel=1e-6)
    assert all(values == pytest.approx(found[0], rel=1e-5) for values in found)


FILES = """
import contextlib, json, sys
from vicreg import distributed
from vicreg.data import broken_files, image_io
from vicreg.data.raster_pack.headers import PackOptions, list_sources, read_scenes
distributed.init("cpu")
opened, check = [], broken_files.check_regular
broken_files.check_regular = lambda path: (opened.append(path), check(path))
sources = list_sources({folder!r})
scenes, problems = read_scenes(sources, PackOptions(4), 1, lambda items, total: items)
found = [[scene.name for scene in scenes], [problem.path for problem in problems]]
paths = [source.path for source in sources]
found += [broken_files.find_broken(paths[:-1])]
with contextlib.suppress(image_io.UnsupportedImage):
    broken_files.find_broken(paths)
    found += ["no error"]
print(json.dumps([found, len(opened)]))
distributed.destroy()
"""


def test_processes_share_the_check_of_files_and_have_the_same_results(fork, tmp_path):
    from PIL import Image

    (tmp_path / "in").mkdir()
    for number in range(7):
        Image.new("I;16" if number == 6 else "L", (8, 8)).save(tmp_path / "in" / f"{number}.png")
    (tmp_path / "in" / "3.png").write_bytes(b"broken")
    found, opened = [], []
    for processes in (1, 2, 3):
        run = fork(FILES.format(folder=str(tmp_path / "in")), tmp_path / "out", processes)
        assert [run.wait(rank) for rank in range(processes)] == [0] * processes, run.text(0)
        results = [json.loads(run.text(rank)) for rank in range(processes)]
        found, opened = found + [result for result, _ in results], [*opened, sum(count for _, count in results)]
    assert len(found[0]) == 3 and len(found[0][0]) == 5 and list(found[0][2]) == ["3"]
    assert all(result == found[0] for result in found) and len(set(opened)) == 1
