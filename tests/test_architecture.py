"""The house rules that code can check: who imports whom, and what importing costs."""

import ast
import re
import subprocess
import sys

import pytest

LAYERS = {"vicreg": 0, "preprocessing": 1, "supervised": 1, "downstream": 1, "exp": 1, "benchmarks": 1}
SCRIPT = re.compile(r"main_|train_|evaluate|make_|predict_|convert_|audit_|bench_|export$|embed$|report$")
HEAVY = {"rasterio", "geopandas", "detectron2", "segmentation_models_pytorch", "matplotlib", "onnx"}


def python_files(root):
    return [path for layer in LAYERS for path in sorted((root / layer).rglob("*.py"))]


def imports(tree):
    """(module, line) of every import of a file; ``from a import b`` counts as ``a.b``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((name.name, node.lineno) for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative import"
            yield from ((f"{node.module}.{name.name}", node.lineno) for name in node.names)


def test_imports_go_from_preprocessing_to_vicreg_to_the_rest_and_never_to_scripts(repo_root):
    files = python_files(repo_root)
    assert files
    for path in files:
        inside = path.relative_to(repo_root)
        mine = inside.parts[0]
        for module, line in imports(ast.parse(path.read_text())):
            head, *rest = module.split(".")
            if head not in LAYERS:
                continue
            where = f"{inside}:{line} imports {module}"
            assert LAYERS[head] < LAYERS[mine] or head == mine, where
            assert not (rest and SCRIPT.match(rest[0])), f"{where}, a script"
            if head == mine == "downstream":
                assert rest[0] == inside.parts[1], f"{where}, of another task"


def test_every_file_that_is_executed_finds_the_root_by_itself(repo_root):
    texts = {path: path.read_text() for path in python_files(repo_root)}
    scripts = [path for path, text in texts.items() if "cli.run(" in text]
    assert len(scripts) > 20
    for path in scripts:
        root = f"Path(__file__).resolve().parents[{len(path.relative_to(repo_root).parts) - 1}]"
        assert "sys.path[0] = str(" in texts[path] and root in texts[path], path


def test_weights_are_only_ever_read_with_weights_only(repo_root):
    for path in python_files(repo_root):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
                assert any(k.arg == "weights_only" and ast.unparse(k.value) == "True" for k in node.keywords), path


@pytest.mark.parametrize(
    "script",
    [f"vicreg.{kind}" for kind in ("main_vicreg_sn7", "evaluate_sn7", "main_vicreg_unchanged", "evaluate")]
    + ["vicreg.main_vicreg_fmow", "vicreg.evaluate_fmow", "vicreg.evaluate_embeddings"]
    + ["vicreg.export", "vicreg.embed"],
)
def test_pretraining_and_probing_need_no_geodata_libraries(repo_root, script):
    code = f"import sys, timm, torchvision; theirs = set(sys.modules); import {script}; "  # some of theirs import onnx
    code += f"print(*{HEAVY!r}.intersection(sys.modules) - theirs)"
    ran = subprocess.run([sys.executable, "-c", code], cwd=repo_root, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.strip() == ""


def test_importing_a_module_prints_and_writes_nothing(repo_root, tmp_path):
    names = [
        ".".join(path.relative_to(repo_root).with_suffix("").parts)
        for path in python_files(repo_root)
        if path.name != "__init__.py"
        and path.parts[-2] in ("preprocessing", "vicreg", "supervised", "exp", "benchmarks")
    ]
    code = f"import sys; sys.path.insert(0, {str(repo_root)!r})\nimport importlib\n"
    code += f"for name in {names!r}: importlib.import_module(name)"
    ran = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout == ""
    assert list(tmp_path.iterdir()) == []
