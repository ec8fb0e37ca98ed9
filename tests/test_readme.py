"""Every command that the README or a script's docstring prints is one that the script takes."""

import ast
import importlib
import re
import shlex

import pytest

ROOMS = ("preprocessing", "vicreg", "supervised", "downstream", "exp", "benchmarks")
COMMAND = re.compile(r"(?:python\S* |torchrun )[^\n]*?([\w./]+\.py)( [^\n]*)?")


def commands(text):
    """(script, words) of each command in a text; continued lines are joined, ``a && b`` and comments cut off."""
    for line in text.replace("\\\n", " ").splitlines():
        for part in line.split("&&"):
            if found := COMMAND.search(part):
                yield found[1], shlex.split(found[2] or "", comments=True)


def blocks(markdown):
    return "\n".join(re.findall(r"^```\n(.*?)^```", markdown, flags=re.M | re.S))


def refused(root, script, words, capsys):
    """What is wrong with a command, or None; commands that leave something out (…) are taken as they are."""
    paths = [path for room in ROOMS for path in (root / room).rglob(script.rsplit("/", 1)[-1])]
    if len(paths) != 1:
        return f"{script}: {len(paths)} files of this name"
    parser = importlib.import_module(".".join(paths[0].relative_to(root).with_suffix("").parts)).get_parser()
    if any("…" in word for word in words):
        return None
    try:
        parser.parse_args(words)
    except SystemExit:
        return f"{script} {' '.join(words)}: {capsys.readouterr().err.splitlines()[-1]}"


def test_scripts_take_the_commands_of_the_readme(repo_root, capsys):
    found = list(commands(blocks((repo_root / "README.md").read_text())))
    assert len({script.rsplit("/", 1)[-1] for script, _ in found}) > 15  # the page is read as meant
    assert [why for command in found if (why := refused(repo_root, *command, capsys))] == []


def test_scripts_take_the_commands_of_their_docstrings(repo_root, capsys):
    begins = "get_parser().parse_args()"
    scripts = [path for room in ROOMS for path in (repo_root / room).rglob("*.py") if begins in path.read_text()]
    pages = [ast.get_docstring(ast.parse(path.read_text())) for path in scripts]
    found = [(path.name, list(commands(page))) for path, page in zip(scripts, pages, strict=True)]
    assert [name for name, lines in found if not lines] == []  # each shows how it is started
    wrong = [why for _, lines in found for line in lines if (why := refused(repo_root, *line, capsys))]
    assert wrong == []


@pytest.mark.parametrize(("command", "complaint"), [
    ("python vicreg/export.py --pretrained a.pth --too timm --out b.pth", "--to"),
    ("torchrun --nproc_per_node=2 main_vicreg_sn7.py --exp-dir a --epochs ten", "invalid int"),
    ("cd vicreg && python no_such_script.py", "0 files"),
])  # fmt: skip
def test_a_command_that_would_fail_is_noticed(repo_root, capsys, command, complaint):
    ((script, words),) = commands(command)
    assert complaint in refused(repo_root, script, words, capsys)
