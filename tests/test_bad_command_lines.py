"""Every script ends every wrong command line with one line that names the mistake, and a non-zero exit code.

The cases follow from each script's parser and from its smallest command line in ``command_lines.py``: wrong values for
every option, wrong files and folders in place of every input, and damaged files in every input folder.
"""

import argparse
import importlib
import re
import shutil
from pathlib import Path

import pytest

from tests.command_lines import CONTRADICTIONS, MORE, VALID, fill, run_script, write_inputs
from tests.conftest import ROOT

FOLDERS = ("vicreg", "supervised", "preprocessing", "downstream/*", "exp", "benchmarks")
SCRIPTS = sorted(
    str(path.relative_to(ROOT))
    for folder in FOLDERS
    for path in ROOT.glob(f"{folder}/*.py")
    if '__name__ == "__main__"' in path.read_text(encoding="utf-8")
)

# numeric options for which the value is right; all others refuse it
ZERO = {
    "--seed", "--split-seed", "--workers", "--weight-decay", "--wd", "--wd-head", "--grad-clip", "--ema-decay",
    "make_harvey_patches --val-fraction", "make_harvey_patches --val-percent", "--log-freq-time", "--probe-every",
    "--label-smoothing", "--lr-backbone", "--views", "--local-rank", "--sim-coeff", "--std-coeff", "--cov-coeff",
    "--redundancy-coeff", "--max-months-apart", "--momentum", "--warmup-epochs", "--overlap", "--examples",
    "--cross-entropy",
    "--max-bits", "--min-contrast", "--max-overlap", "--map-samples", "--machine-rank", "--threshold", "--mean",
    "--levels", "--components", "--tsne", "--max-nodata", "--snap-tolerance", "--buffer",
}  # fmt: skip
NEGATIVE = {"--mean", "--levels"}
TEXTS = {  # wrong values of options that take text, besides paths
    "--arch": [
        "resnet81"], "--mlp": ["8,8", "8-0", "8--8", "-8"], "--aug-override": ["nonsense=1", "scale", "scale=nan,1",
    ],
    "--augment-set": ["nonsense=1"], "--splits": ["nonsense", "train train"], "--parts": ["train nonsense"],
    "--columns": ["nonsense"], "--location-pattern": ["("], "--dist-url": ["nonsense --num-machines 2"],
    "--store": ["nonsense"], "--init-from": [], "--pretrained": ["nonsense"], "--json": [], "--config-file": [],
    "--train-json": [], "--val-json": [], "--license": [], "--push": [],
    "--asset": [], "--label-column": [], "--cloud-mask": [], "--labels": ["nonsense"], "--crs": ["nonsense"],
    "--date-pattern": ["("], "--shard": ["nonsense", "2/2", "-1/2"],
    "make_imagery_csv --scale": ["nonsense", "1", "2 1", "nan 1"],
    "make_imagery_csv --bands": [], "--dask": [], "--recipes": ["a:b:c d"], "--options": [],
    "--settings": ["resnet18,64,256", "resnet81,64,4,8", "resnet18,64,0,8"],
    "--knn": ["nonsense", "-1"],
}  # fmt: skip
CONTEXT = {"--redundancy-coeff": ["--loss", "barlow_twins"]}  # words with which an option has an effect
LONGEST = 500  # characters of a message
TEXT_SUFFIXES = (".csv", ".json", ".npy", ".txt", ".yaml", ".geojson")
BROKEN = {"empty": b"", "text": b"not what you expect\n", "binary": bytes(range(256)) * 4}


def spellings(parser, action):
    """All flags of an option and of its former spellings."""
    return [flag for other in parser._actions if other.dest == action.dest for flag in other.option_strings]


def is_number(action):
    return action.nargs != 0 and action.choices is None and action.type not in (None, Path) and action.option_strings


def wrong_values(parser):
    """Yield (words, names of which the message has one) for every option that is not a path."""
    for action in parser._actions:
        if not action.option_strings or action.nargs == 0 or action.type is Path:
            continue
        flag = action.option_strings[0]
        texts = TEXTS.get(f"{parser.prog.removesuffix('.py')} {flag}", TEXTS.get(flag))
        if texts is not None:
            for value in texts:
                yield [flag, *value.split()], [*spellings(parser, action), *value.split()]
        elif action.choices is not None:
            yield [flag, "nonsense"], [flag]
        else:
            assert action.type is not None, f"{flag}: no wrong values in TEXTS"
            try:
                values = ["x", "nan", "inf"] if action.type("1.5") else []
            except (ValueError, argparse.ArgumentTypeError):
                values = ["x", "9" * 30]
            values += [] if flag in NEGATIVE else ["-1"]
            values += [] if {flag, f"{parser.prog.removesuffix('.py')} {flag}"} & ZERO else ["0"]
            for value in values:
                count = action.nargs if isinstance(action.nargs, int) else 1
                yield [*CONTEXT.get(flag, []), flag, *[value] * count], spellings(parser, action)


def wrong_paths(line, more, inputs, tmp_path):
    """Yield (words, names) with each path of ``more`` in turn, or of ``line`` without it, replaced by a wrong one."""
    alone = more.startswith("= ")  # a whole command line
    words = more.split()[1:] if alone else line.split() + more.split()
    start = len(line.split()) if more and not alone else 0
    for position in range(start, len(words)):
        name = re.fullmatch(r"\{(.*)\}", words[position])
        if not name:
            continue
        for wrong in (
            wrong_outputs(name[1], tmp_path) if name[1].startswith("out") else wrong_inputs(inputs / name[1], tmp_path)
        ):
            filled = fill(
                " ".join(words[:position] + ["{out.replaced}"] + words[position + 1 :]), inputs, tmp_path / "out"
            )
            filled[position] = str(wrong)
            names = [
                wrong.name,
                str(wrong.parent),
                *re.findall(r"--[\w-]+", " ".join(words[max(0, position - 2) : position])),
            ]
            yield filled, names


def wrong_outputs(name, tmp_path):
    """Yield paths that cannot be written."""
    file = tmp_path / "a_file"
    file.write_bytes(b"")
    yield file / "below"
    if name == "out":
        yield file
    else:
        folder = tmp_path / f"a_folder{Path(name).suffix}"
        folder.mkdir(exist_ok=True)
        yield folder


def wrong_inputs(right, tmp_path):
    """Yield paths that are not what an input must be."""
    yield tmp_path / f"missing{right.suffix}"
    for kind, content in BROKEN.items():
        file = tmp_path / f"{kind}{right.suffix}"
        file.write_bytes(content)
        yield file
    if right.is_dir():
        folder = tmp_path / "empty_folder"
        folder.mkdir(exist_ok=True)
        yield folder
        return
    folder = tmp_path / f"folder{right.suffix}"
    folder.mkdir(exist_ok=True)
    yield folder
    if right.suffix in (".jpg", ".tif", ".pth"):
        file = tmp_path / f"truncated{right.suffix}"
        file.write_bytes(right.read_bytes()[: right.stat().st_size // 2])
        yield file


def damaged_folders(line, inputs, tmp_path):
    """Yield (words, names) with one file in an input folder missing, empty or replaced."""
    for number, name in enumerate(re.findall(r"{(\w+)}", line)):
        right = inputs / name
        if not right.is_dir():
            continue
        found = sorted(path.relative_to(right) for path in right.rglob("*") if path.suffix in TEXT_SUFFIXES)
        for file in found if len(found) <= 6 else found[:1]:
            for kind, content in {"missing": None, **BROKEN}.items():
                folder = tmp_path / f"damaged{number}_{name}"
                shutil.rmtree(folder, ignore_errors=True)
                shutil.copytree(right, folder)
                (folder / file).unlink() if content is None else (folder / file).write_bytes(content)
                words = fill(line.replace(f"{{{name}}}", "{replaced}"), inputs, tmp_path / "out")
                yield [word.replace(str(inputs / "replaced"), str(folder)) for word in words], f"{file} {kind}"


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """Folder of valid inputs."""
    folder = tmp_path_factory.mktemp("inputs")
    write_inputs(folder)
    return folder


def refusal(script, words, names, out):
    """Run a wrong command line and return what is wrong with how it ends, None if nothing is."""
    for path in out.parent.glob("out*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    code, printed = run_script(script, words)
    start = printed.rfind(f"{Path(script).stem}")
    message = re.split(rf"(?:^|\n){Path(script).stem}(?:\.py)?: ", printed)[-1].strip()
    if "Traceback" in printed:
        return f"traceback: {message[-200:]}"
    if code == 0:
        return "exit code 0" if names else None
    if start < 0 or len(message.replace(str(out.parents[1]), "")) > LONGEST or message.count("\n") > 3:
        return f"not one line: {message}"
    return None if not names or any(name in message for name in names) else f"names none of {names}: {message}"


def check(script, cases, tmp_path):
    """Assert that all cases end as they should; list those that do not."""
    wrong = {}
    for words, names in cases:
        if (reason := refusal(script, words, names, tmp_path / "out")) is not None:
            wrong[" ".join(words)] = reason
    assert not wrong, "\n".join(f"{words}\n    {reason}" for words, reason in wrong.items())


def test_every_script_has_a_command_line():
    assert set(VALID) == set(SCRIPTS) and {*MORE, *CONTRADICTIONS} <= set(VALID)


def parser_of(script):
    parser = importlib.import_module(script.removesuffix(".py").replace("/", ".")).get_parser()
    parser.prog = Path(script).name
    return parser


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_path_option_is_tried(script):
    named = " ".join([VALID[script], *MORE.get(script, [])])
    tried = {word for word, value in zip(named.split(), named.split()[1:], strict=False) if value.startswith("{")}
    paths = [action for action in parser_of(script)._actions if action.type is Path and action.option_strings]
    assert [action.dest for action in paths if not tried & set(action.option_strings)] == []


@pytest.mark.parametrize("script", SCRIPTS)
def test_wrong_values_of_every_option_are_refused_by_name(script, inputs, tmp_path):
    line = fill(VALID[script], inputs, tmp_path / "out")
    check(script, [([*line, *words], names) for words, names in wrong_values(parser_of(script))], tmp_path)


@pytest.mark.parametrize("script", SCRIPTS)
def test_wrong_files_and_folders_are_refused_by_name(script, inputs, tmp_path):
    lines = ["", *MORE.get(script, [])]
    check(script, [case for more in lines for case in wrong_paths(VALID[script], more, inputs, tmp_path)], tmp_path)


@pytest.mark.parametrize("script", CONTRADICTIONS)
def test_contradicting_options_are_refused(script, inputs, tmp_path):
    cases = [
        (fill(f"{VALID[script]} {more}", inputs, tmp_path / "out"), [word]) for more, word in CONTRADICTIONS[script]
    ]
    check(script, cases, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("script", [script for script in SCRIPTS if not script.startswith("benchmarks")])
def test_damaged_files_in_a_folder_end_without_a_traceback(script, inputs, tmp_path):
    for words, kind in damaged_folders(VALID[script], inputs, tmp_path):
        reason = refusal(script, words, [], tmp_path / "out")
        assert reason is None, f"{' '.join(words)} with {kind}: {reason}"
