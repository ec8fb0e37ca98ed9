"""Commands, links, file names and Python snippets in the README, the documentation and the docstrings of scripts."""

import ast
import importlib
import re
import shlex
from pathlib import Path

import pytest

FOLDERS = ("preprocessing", "vicreg", "supervised", "downstream", "exp", "benchmarks")
README_BYTES = 12_288
COMMAND = re.compile(r"(?:(?:python\S* |torchrun )[^\n]*?|^\s*)([\w./]+\.py)( [^\n]*)?")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", flags=re.M | re.S)
LINK = re.compile(r"\]\(([^)\s]+)\)")
SOURCE_FILE = re.compile(rf"`((?:{'|'.join((*FOLDERS, 'tests', 'docs'))})/[\w./]+\.(?:py|sh|sbatch|md|csv))`")


def pages(root):
    """Return the Markdown pages that users read, the README first."""
    named = [root / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "exp/README.md")]
    return [*named, *sorted((root / "docs").rglob("*.md"))]


def blocks(markdown, *languages):
    """Return the fenced code blocks of the given languages ("" is a fence without one)."""
    return [text for language, text in FENCE.findall(markdown) if language in languages]


def commands(text):
    """Yield (script, arguments) of each command.

    Continued lines are joined, ``a && b`` is split, comments and redirections are cut.
    """
    for line in text.replace("\\\n", " ").splitlines():
        for part in line.split("&&"):
            if found := COMMAND.search(part.partition(" > ")[0]):
                yield found[1], shlex.split(found[2] or "", comments=True)


def find_error(root, script, arguments, capsys):
    """Return what is wrong with a command, or None. Commands with an ellipsis are not parsed."""
    paths = [path for folder in FOLDERS for path in (root / folder).rglob(script.rsplit("/", 1)[-1])]
    if len(paths) != 1:
        return f"{script}: {len(paths)} files of this name"
    module = importlib.import_module(".".join(paths[0].relative_to(root).with_suffix("").parts))
    try:
        parser = module.get_parser()
    except ValueError as error:
        return None if "install_detectron2.sh" in str(error) else str(error)
    if any("…" in argument for argument in arguments):
        return None
    try:
        given = [argument for argument in arguments if argument != "$@"]
        parser.parse_args([re.sub(r"^\$\w+$", "0", argument) for argument in given])  # variables of the shell
    except SystemExit:
        return f"{script} {' '.join(arguments)}: {capsys.readouterr().err.splitlines()[-1]}"


def anchors(markdown):
    """Return the anchors of a page's headings, as GitHub and Python-Markdown form them."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", markdown), flags=re.M)
    return {re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower()) for heading in headings}


def broken_links(page, text):
    """Return the relative links of a page that lead nowhere."""
    broken = []
    for link in LINK.findall(re.sub(r"`[^`]*`", "", FENCE.sub("", text))):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if re.match(r"[a-z]+:", link):
            continue
        if not target.exists() or (anchor and anchor not in anchors(target.read_text(encoding="utf-8"))):
            broken.append(f"{page.name}: {link}")
    return broken


def unresolved_imports(code):
    """Return the imports from vicreg in a snippet that do not resolve."""
    missing = []
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] == "vicreg":
            try:
                module = importlib.import_module(node.module)
            except ImportError:
                missing.append(node.module)
                continue
            missing += [f"{node.module}.{name.name}" for name in node.names if not hasattr(module, name.name)]
    return missing


def test_pages_commands_are_accepted_by_their_parsers(repo_root, capsys):
    found = [
        (page.name, command)
        for page in pages(repo_root)
        for block in blocks(page.read_text(encoding="utf-8"), "", "bash")
        for command in commands(block)
    ]
    assert len({Path(script).name for _, (script, _) in found}) > 20  # the pages are read as intended
    errors = [(page, error) for page, command in found if (error := find_error(repo_root, *command, capsys))]
    assert errors == []


def test_docstrings_commands_are_accepted_by_their_parsers(repo_root, capsys):
    entry = "cli.parse(get_parser())"
    scripts = [path for folder in FOLDERS for path in (repo_root / folder).rglob("*.py") if entry in path.read_text()]
    docstrings = [ast.get_docstring(ast.parse(path.read_text())) for path in scripts]
    found = [(path.name, list(commands(text))) for path, text in zip(scripts, docstrings, strict=True)]
    assert len(found) > 20
    assert [name for name, lines in found if not lines] == []  # each shows how it is started
    errors = [error for _, lines in found for line in lines if (error := find_error(repo_root, *line, capsys))]
    assert errors == []


def test_pages_make_targets_exist(repo_root):
    targets = set(re.findall(r"^([a-z-]+):", (repo_root / "Makefile").read_text(), flags=re.M))
    text = "\n".join(page.read_text(encoding="utf-8") for page in pages(repo_root))
    printed = set(re.findall(r"(?:^|`)make(?: [A-Z]\w*=\S*)* ([a-z-]+)", text, flags=re.M))
    assert {"quickstart", "test"} <= printed
    assert printed - targets == set()


def test_pages_links_resolve(repo_root):
    assert [link for page in pages(repo_root) for link in broken_links(page, page.read_text(encoding="utf-8"))] == []


def test_pages_source_files_exist(repo_root):
    text = "\n".join(page.read_text(encoding="utf-8") for page in pages(repo_root))
    paths = set(SOURCE_FILE.findall(text))
    assert len(paths) > 10
    assert sorted(path for path in paths if not (repo_root / path).is_file()) == []


def test_pages_python_imports_resolve(repo_root):
    snippets = [code for page in pages(repo_root) for code in blocks(page.read_text(encoding="utf-8"), "python")]
    assert snippets
    assert [name for code in snippets for name in unresolved_imports(code)] == []


def test_readme_is_at_most_12_kib(repo_root):
    assert (repo_root / "README.md").stat().st_size <= README_BYTES


@pytest.mark.parametrize(("command", "error"), [
    ("python vicreg/export.py --pretrained a.pth --too timm --out b.pth", "--to"),
    ("torchrun --nproc_per_node=2 main_vicreg_sn7.py --exp-dir a --epochs ten", "invalid int"),
    ("cd vicreg && python no_such_script.py", "0 files"),
])  # fmt: skip
def test_find_error_reports_command_that_would_fail(repo_root, capsys, command, error):
    ((script, arguments),) = commands(command)
    assert error in find_error(repo_root, script, arguments, capsys)


def test_broken_links_reports_missing_file_and_anchor(tmp_path):
    page = tmp_path / "page.md"
    text = "# A heading\n[a](#a-heading) [b](#no-heading) [c](missing.md) [d](https://example.org) `[e](code.md)`\n"
    page.write_text(text)
    assert broken_links(page, text) == ["page.md: #no-heading", "page.md: missing.md"]


def test_unresolved_imports_reports_missing_names():
    code = "from vicreg import nothing_of_this_name\nfrom vicreg.no_module import a\nimport os\n"
    assert unresolved_imports(code) == ["vicreg.nothing_of_this_name", "vicreg.no_module"]
