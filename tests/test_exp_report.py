"""The report reads runs of every task, state and version, compares them, and names what it cannot read."""

import csv
import json
import subprocess
import sys

import pytest

from exp.reporting import collect, compare, tables, terminal, watch
from tests.conftest import call_script
from tests.report_fixtures import HOSTILE, write_evaluation, write_example, write_json, write_tasks, write_training


@pytest.fixture(scope="module")
def example(tmp_path_factory):
    """A folder with runs of every kind and state; do not write into it."""
    return write_example(tmp_path_factory.mktemp("example") / "runs")


def build(folder):
    runs, _ = collect.collect([folder])
    return {table.key: table for table in tables.build_tables(runs)}


def test_every_state_of_a_run_is_told_apart_and_the_rest_is_named(example):
    runs, problems = collect.collect([example])
    states = {run.name: (run.status, run.reason.partition(",")[0]) for run in runs}
    assert states["vicreg"] == ("finished", "")
    assert states["interrupted"] == ("stopped", "SIGTERM")
    assert states["crashed"] == ("failed", "out of GPU memory")
    assert states["killed"][0] == "killed"
    assert states["old"] == ("unknown", "no record of its end")
    named = {problem.path.relative_to(example).as_posix(): problem.reason for problem in problems}
    assert named["newer/result.json"].startswith("written by another version (schema 99")
    assert "cannot be read" in named["damaged/result.json"] and named["pictures"] == "no run in it"
    assert named["notes.txt"] == "not a run" and "damaged" not in states and "newer" in states
    (problem,) = collect.collect([example / "notes.txt"])[1]
    assert problem.reason == "not a run folder but a file"


def test_a_run_whose_lock_is_held_is_running_and_watched(example, tmp_path, monkeypatch, capsys):
    folder = write_training(tmp_path / "runs" / "now", steps=10_000, lines=30, status="running")
    code = (
        "import sys; from vicreg.common.logger import lock_run_dir\nlock = lock_run_dir(sys.argv[1])\nprint(flush=True)"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", f"{code}\nsys.stdin.read()", folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    holder.stdout.readline()
    (run,) = collect.collect([tmp_path / "runs"])[0]
    assert run.status == "running" and run.step == 30 and 0 < run.remaining_seconds < 10_000 * 64 / 690

    def end(_):
        holder.communicate()

    monkeypatch.setattr(watch.time, "sleep", end)
    watch.watch([tmp_path / "runs"])
    first, last = capsys.readouterr().out.strip().split("\n")
    assert first.startswith("now: step 30 of 10000, epoch 2, loss ") and "pairs/s" in first and " left" in first
    assert last.startswith("now: step 30 of 10000") and "killed" in last


def test_watch_ends_on_ctrl_c_and_if_nothing_runs(example, monkeypatch, capsys):
    watch.watch([example])
    assert capsys.readouterr().out == "no running job\n"
    run = collect.Run(example, "a", status="running")
    monkeypatch.setattr(watch, "collect", lambda _: ([run], []))

    def interrupt(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(watch.time, "sleep", interrupt)
    watch.watch([example])
    assert "a: no log line yet" in capsys.readouterr().out


def test_results_of_every_task_are_rows_beside_the_published_figures(example):
    found = build(example)
    assert list(found) == ["classification", "retrieval", "eurosat", "crowdai", "floods"]
    group = found["classification"].groups[0]
    assert group.title == "SN7, 300 validation samples, 0% show a training location, 0% equal a training image"
    row = group.rows[0]
    assert (row.name, row.detail, row.kind) == ("vicreg", HOSTILE, "pretrained") and row.cells["linear_top1"].best
    assert tables.format_cell(row.cells["linear_top1"]) == "0.620 [0.590, 0.650]"
    published = found["classification"].groups[-1]
    assert published.published and published.rows[0].cells["linear_top1"].value == 0.7674
    assert found["crowdai"].groups[0].rows[0].cells["mask_AP75"].value == 0.6
    assert found["retrieval"].groups[0].rows[1].cells["p2_knn20_top1"].value == 0.6
    for table in found.values():
        assert all(column.title and column.help for column in table.columns), table.key


def test_what_was_selected_on_validation_is_marked_and_never_best(example):
    found = build(example)
    random, vicreg = found["eurosat"].groups[0].rows[::-1]
    assert vicreg.cells["best_top1"].selected and not vicreg.cells["best_top1"].best and vicreg.cells["top1"].best
    assert tables.format_cell(vicreg.cells["best_top1"]) == "0.910 †" and random.kind == "baseline"
    flood, constant = found["floods"].groups[0].rows
    assert (flood.cells["mean_iou"].value, flood.cells["best_iou"].value) == (0.39, 0.41)  # last and best epoch
    assert flood.cells["best_iou"].selected and not flood.cells["mean_iou"].selected and constant.kind == "constant"


def test_different_samples_are_not_compared(tmp_path):
    write_evaluation(tmp_path / "a", "random", "random", 0.3)
    write_evaluation(tmp_path / "b", "stats", "stats", 0.4, val_samples=301)
    ours = [group for group in build(tmp_path)["classification"].groups if not group.published]
    assert [len(group.rows) for group in ours] == [1, 1] and not ours[0].rows[0].cells["linear_top1"].best
    claims = compare.compare(build(tmp_path).values())
    assert claims == [] and compare.summarize(claims).startswith("Nothing to compare yet")


@pytest.mark.parametrize(
    ("top1", "half", "verdict", "summary"),
    [
        (0.6, 0.03, "Better, beyond the intervals", "The pretrained backbone is better than random weights"),
        (0.52, 0.03, "Ahead, within the intervals", "No difference to random weights and statistics"),
        (
            0.4,
            0.03,
            "Worse, beyond the intervals",
            "Against random weights and statistics, the pretrained backbone is worse in 2 of 2",
        ),
        (0.6, None, "Ahead, without intervals", "No difference to random weights and statistics"),
    ],
)
def test_a_sentence_says_whether_the_intervals_separate(tmp_path, top1, half, verdict, summary):
    more = {"intervals": {}} if half is None else {}
    write_evaluation(tmp_path / "a", "stats", "stats", 0.5, half or 0.03, **more)
    write_evaluation(tmp_path / "b", "exp/vicreg/trained_model.pth", "VICReg", top1, half or 0.03, **more)
    claims = compare.compare(build(tmp_path).values())
    assert [claim.verdict for claim in claims] == [verdict] * 2  # linear probe and kNN
    assert compare.summarize(claims).startswith(summary)
    assert f"vicreg {top1:.3f}" in claims[0].text and "Color statistics 0.500" in claims[0].text


def test_supervised_networks_are_compared_apart_from_baselines(tmp_path):
    write_evaluation(tmp_path / "a", "stats", "stats", 0.4)
    write_evaluation(tmp_path / "b", "exp/supervised/trained_model.pth", "supervised, resnet18", 0.7)
    write_evaluation(tmp_path / "c", "exp/vicreg/trained_model.pth", "VICReg", 0.6)
    write_evaluation(tmp_path / "d", "exp/other/trained_model.pth", "VICReg", 0.5)
    claims = compare.compare(build(tmp_path).values())
    assert [claim.against for claim in claims] == ["baseline", "supervised"] * 2
    assert all("vicreg 0.6" in claim.text or "vicreg 0.58" in claim.text for claim in claims)
    assert compare.summarize(claims) == (
        "The pretrained backbone is better than random weights and statistics in all 2 comparisons, beyond the "
        "intervals. Against the supervised network, the pretrained backbone is worse in 2 of 2 comparisons, by the "
        "intervals."
    )


def test_recipes_beside_the_runs_are_not_named(tmp_path, monkeypatch):
    write_training(tmp_path / "run", lines=3)
    (tmp_path / "slurm").mkdir()
    (tmp_path / "recipe.sh").write_text("echo")
    assert {problem.path.name for problem in collect.collect([tmp_path])[1]} == {"slurm", "recipe.sh"}
    monkeypatch.setattr(collect, "RECIPES", tmp_path)
    assert collect.collect([tmp_path])[1] == []


def test_nothing_is_said_of_a_pretrained_backbone_where_there_is_none(tmp_path):
    write_evaluation(tmp_path / "a", "stats", "stats", 0.5)
    write_evaluation(tmp_path / "b", "random", "random", 0.3)
    write_evaluation(tmp_path / "c", "exp/supervised/trained_model.pth", "supervised, resnet18", 0.7)
    claims = compare.compare(build(tmp_path).values())
    assert claims == [] and "better" not in compare.summarize(claims)


@pytest.mark.parametrize(
    ("pretrained", "source", "kind"),
    [
        ("/home/me/self-supervised/exp/vicreg/trained_model.pth", "VICReg, resnet18", "pretrained"),
        ("unsupervised/trained_model.pth", "self-supervised", "pretrained"),
        ("exp/supervised_sn7/trained_model.pth", "", "supervised"),
        ("exp/a/trained_model.pth", "supervised, resnet18, SN7", "supervised"),
    ],
)
def test_the_kind_of_a_backbone_is_that_of_its_folder_or_source(tmp_path, pretrained, source, kind):
    write_evaluation(tmp_path / "a", pretrained, source, 0.5)
    assert build(tmp_path)["classification"].groups[0].rows[0].kind == kind


def test_an_evaluation_without_a_record_of_its_own_does_not_take_that_of_the_training_above_it(tmp_path):
    write_training(tmp_path / "sn7", lines=3, status="failed", message="out of memory")
    write_evaluation(tmp_path / "sn7" / "freeze_100", "random", "random", 0.3)
    (tmp_path / "sn7" / "freeze_100" / "provenance.json").unlink()
    runs, _ = collect.collect([tmp_path])
    (evaluation,) = (run for run in runs if run.result)
    assert (evaluation.kind, evaluation.status, evaluation.sessions) == ("evaluation", "finished", [])


def test_results_of_several_evaluations_of_a_backbone_share_a_row(tmp_path):
    write_evaluation(tmp_path / "freeze_100", "random", "random", 0.3)
    write_evaluation(tmp_path / "finetune_10", "random", "random", 0.2, protocol="finetune_10", knn20_top1=None)
    (row,) = build(tmp_path)["classification"].groups[0].rows
    assert (row.cells["linear_top1"].value, row.cells["label10_top1"].value) == (0.3, 0.2) and len(row.runs) == 2


def test_seeds_of_one_evaluation_are_one_row_with_their_mean(tmp_path):
    for seed in (0, 1):
        write_evaluation(tmp_path / "freeze_10" / f"seed_{seed}", "random", "random", 0.3, protocol="freeze_10")
    mean = {"protocol": "freeze_10", "seeds": 2, "top1_std": 0.01}
    write_evaluation(tmp_path / "freeze_10", "random", "random", 0.31, **mean)
    (row,) = build(tmp_path)["classification"].groups[0].rows
    assert (row.cells["frozen10_top1"].seeds, row.cells["frozen10_top1"].std) == (2, 0.01)


def test_results_of_older_versions_are_read(tmp_path):
    write_json(tmp_path / "eurosat" / "result.json", {"protocol": "EuroSAT linear", "source": "VICReg", "top1": 0.5})
    write_json(tmp_path / "flood" / "result.json", {"source": "VICReg", "task": "floodnet", "mean_iou": 0.25})
    crowdai = {"backbone": {"source": "random"}, "val": {"box": {"AP": 0.125}}}
    write_json(tmp_path / "crowdai" / "result.json", crowdai)
    found = build(tmp_path)
    assert found["eurosat"].groups[0].rows[0].cells["top1"].value == 0.5
    assert found["floods"].groups[0].rows[0].cells["best_iou"].value == 0.25
    assert found["crowdai"].groups[0].rows[0].cells["box_AP"].value == 0.125


@pytest.mark.parametrize(
    "bad", [None, "x", "a\0b", "\ud800", [], {}, [1], float("nan"), True, {"box": 3}, 10**400], ids=ascii
)
def test_values_of_a_wrong_type_are_left_out(tmp_path, bad):
    write_training(tmp_path / "run", lines=3)
    (tmp_path / "run" / "config.json").write_text(json.dumps({"plan": bad, "config": bad, "kind": bad}))
    (tmp_path / "run" / "provenance.json").write_text(json.dumps({"sessions": bad, "kind": bad}))
    names = (
        "top1 knn20_top1 intervals overlap val_samples args locations confusion class_names pretrained source config"
    )
    for name in [*names.split(), "protocol", "selected_on_validation", "seeds", "val", "last", "protocol2", "constant"]:
        write_json(tmp_path / name / "result.json", {"top1": 0.5, "source": "a", name: bad})
        write_json(tmp_path / f"flood_{name}" / "result.json", {"mean_iou": 0.5, "source": "a", name: bad})
    write_json(tmp_path / "pretrained" / "provenance.json", {"sessions": [{"directory": bad}]})
    runs, problems = collect.collect([tmp_path])
    terminal.print_report(runs, tables.build_tables(runs), problems)


def test_the_script_prints_tables_and_runs_and_names_the_rest(example, tmp_path):
    ran = call_script("exp/report.py", example, "--out", tmp_path / "page.html")
    assert ran.returncode == 0 and "Traceback" not in ran.stderr, ran.stderr
    assert "vicreg" in ran.stdout and "0.620 [0.590, 0.650] *" in ran.stdout and (tmp_path / "page.html").is_file()
    assert f"note: {example / 'damaged' / 'result.json'}: cannot be read" in ran.stderr
    ran = call_script("exp/report.py", example, "--out", example / "vicreg" / "stats.txt")
    assert ran.returncode == 1 and "use .html" in ran.stderr
    ran = call_script("exp/report.py", example, "--csv")
    rows = list(csv.DictReader(ran.stdout.splitlines()))
    (row,) = [row for row in rows if row["row"] == "vicreg" and row["metric"] == "linear top-1"]
    assert (row["value"], row["low"], row["published"], row["runs"]) == ("0.62", "0.59", "0", "eval/vicreg/freeze_100")


def test_a_folder_without_runs_is_refused(tmp_path):
    ran = call_script("exp/report.py", tmp_path)
    assert ran.returncode == 1 and ran.stderr.count("\n") == 1 and "no runs in" in ran.stderr
    ran = call_script("exp/report.py", tmp_path / "missing")
    assert ran.returncode == 1 and ran.stderr.count("\n") == 1 and "no folder" in ran.stderr


def test_downstream_tasks_are_compared_where_labels_and_training_agree(tmp_path):
    write_tasks(tmp_path)
    (claim,) = compare.compare(build(tmp_path).values())
    assert claim.text.startswith("top-1, 10 % of the labels, finetuned on EuroSAT 2750: vicreg 0.900")
