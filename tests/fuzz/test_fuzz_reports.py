"""The report names damaged files of a run, of an evaluation and of a map, and shows the others."""

import functools
import json
import tempfile
from pathlib import Path

import pytest
from PIL import Image

from exp.reporting import collect, figures, html, terminal
from exp.reporting.tables import build_tables
from tests import report_fixtures
from tests.fuzz import mutations
from tests.fuzz.harness import check_reader


@functools.cache
def report_files():
    """Return the files of a run with an evaluation and a map, by name; the pictures are tiny."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        report_fixtures.write_training(folder, steps=2)
        report_fixtures.write_benchmark(folder, ".", samples=3)
        report_fixtures.write_provenance(folder, "pretraining")
        for path in (*folder.glob("*.png"), *folder.glob("*.jpg")):
            Image.open(path).resize((4, 4)).save(path)
        return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def read_report(path):
    """Report on a run, an evaluation with a map and what is damaged, which is listed: the tables and the page."""
    for name, content in report_files().items():
        if name != path.name and not (path.parent / name).exists():
            (path.parent / name).write_bytes(content)
    runs, problems = collect.collect([path.parent])
    tables = build_tables(runs)
    assert html.render("a test", runs, tables, problems).encode()
    assert terminal.format_runs(runs) and terminal.format_csv(tables)


READERS = {
    "stats.txt": (
        "stats.txt",
        mutations.damaged_lines([json.loads(line) for line in report_files()["stats.txt"].splitlines()]),
        read_report,
    ),
    **{
        name: (name, mutations.damaged_json(json.loads(report_files()[name])), read_report)
        for name in ("result.json", "config.json", "provenance.json", "views.json", "embedding_map.json")
    },
}


@pytest.mark.parametrize("reader", READERS)
def test_report_reads_damaged_files(reader, tmp_path_factory, tmp_path, monkeypatch):
    monkeypatch.setattr("plotly.offline.get_plotlyjs", lambda: "")  # 4 MB, the same for every page
    (tmp_path / "land.json").write_text('{"lines": []}')
    monkeypatch.setattr(figures, "LAND", tmp_path / "land.json")
    check_reader(READERS[reader], tmp_path_factory.mktemp("fuzz"), keep=report_files())
