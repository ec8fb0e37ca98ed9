"""The package metadata agrees with requirements.txt, and a built wheel holds the library alone."""

import re
import shutil
import subprocess
import sys
import zipfile

import pytest


def bounds(lines):
    found = (re.match(r"([A-Za-z0-9._-]+)(?:\[.*\])?(>=[0-9.]+)", line) for line in lines)
    return {match[1]: match[2] for match in found if match}


def test_package_dependencies_have_the_bounds_of_requirements(repo_root):
    text = (repo_root / "pyproject.toml").read_text()
    block = re.search(r"^dependencies = \[(.*?)^\]", text, re.S | re.M)[1]
    package = bounds(re.findall(r'"(.*?)"', block))
    required = bounds((repo_root / "requirements.txt").read_text().splitlines())
    assert len(package) >= 10
    assert {name: required.get(name) for name in package} == package


def test_lower_bounds_pins_every_requirement(repo_root):
    ran = subprocess.run([sys.executable, repo_root / ".ci" / "lower_bounds.py"], capture_output=True, text=True)
    required = bounds((repo_root / "requirements.txt").read_text().splitlines())
    assert ran.stdout.splitlines() == [f"{name}{bound.replace('>=', '==')}" for name, bound in required.items()]


@pytest.mark.slow
def test_wheel_holds_the_library_alone(repo_root, tmp_path):
    pytest.importorskip("setuptools", minversion="69")
    source = tmp_path / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(repo_root / name, source)
    for name in ("vicreg", "preprocessing"):
        shutil.copytree(repo_root / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    build = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        tmp_path,
        source,
    ]
    subprocess.run(build, check=True, capture_output=True, timeout=300)
    (wheel,) = tmp_path.glob("vicreg-*.whl")
    names = [name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name]
    assert {name.split("/")[0] for name in names} == {"vicreg"}
    assert {"vicreg/losses/vicreg.py", "vicreg/engine/pretrain.py", "vicreg/main_vicreg_sn7.py"} <= set(names)
