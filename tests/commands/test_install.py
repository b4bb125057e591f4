"""``repurpose_hpc`` and its ``kernels`` are importable however the checkout is used."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

from helpers import ROOT

# Imports the kernels and the paths of the bundled files, and prints where they are.
PROBE = """
import repurpose_hpc, repurpose_hpc.kernels.jit as jit
from repurpose_hpc import bundled
assert bundled.MODEL.is_file() and bundled.CALIBRATION.is_file() and bundled.TEST.is_file()
assert (bundled.LANGUAGE / "model.safetensors").is_file() and bundled.LANGUAGE_TEST.is_file()
assert bundled.LANGUAGE_CALIBRATION.is_file()
print(repurpose_hpc.__version__, repurpose_hpc.__file__, jit.__file__, sep="\\n")
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of the checkout, so that no build product lands in the real one."""
    unwanted = shutil.ignore_patterns(".*", "build", "dist", "*.egg-info", "__pycache__")
    return Path(shutil.copytree(ROOT, tmp_path / "checkout", ignore=unwanted))


@pytest.fixture
def python(tmp_path: Path) -> Path:
    """The Python of a fresh environment that sees what is installed in this one, offline."""
    environment = tmp_path / "environment"
    venv.create(environment, symlinks=True)
    paths = {"base": str(environment), "platbase": str(environment)}
    site_packages = Path(sysconfig.get_path("purelib", "venv", vars=paths))
    # A path given by a .pth file is not searched for .pth files: an editable install of the
    # package in this environment stays invisible.
    (site_packages / "outer.pth").write_text(sysconfig.get_path("purelib"))
    return environment / "bin" / "python"


def run(*command: object, cwd: Path) -> str:
    """Run ``command`` and return its output; no PYTHONPATH that could hide a missing package.

    Nor what makes warnings errors: those of pip are not ours.
    """
    env = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONWARNINGS")}
    done = subprocess.run([*map(str, command)], cwd=cwd, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def pip_install(python: Path, *arguments: object, cwd: Path) -> None:
    """``pip install`` of the package alone, without the network."""
    pip = (sys.executable, "-m", "pip", "--python", python, "install")
    run(*pip, "--quiet", "--ignore-installed", "--no-deps", "--no-build-isolation", *arguments, cwd=cwd)


def probe(python: Path, cwd: Path) -> tuple[Path, Path]:
    """Where ``repurpose_hpc`` and ``repurpose_hpc.kernels.jit`` are imported from."""
    version, package, jit = run(python, "-c", PROBE, cwd=cwd).split()
    source = (ROOT / "repurpose_hpc/__init__.py").read_text()
    assert version == re.search(r'__version__ = "(.+)"', source)[1]
    return Path(package), Path(jit)


def test_bare_checkout(checkout, python):
    package, jit = probe(python, cwd=checkout)
    assert package == checkout / "repurpose_hpc/__init__.py"
    assert jit == checkout / "kernels/jit.py"


@pytest.mark.parametrize("place", ["root", "elsewhere"])
def test_editable_install(checkout, python, tmp_path, place):
    pip_install(python, "--editable", checkout, cwd=tmp_path)
    package, jit = probe(python, cwd=checkout if place == "root" else tmp_path)
    assert package == checkout / "repurpose_hpc/__init__.py"
    assert jit == checkout / "kernels/jit.py"


def test_regular_install_elsewhere(checkout, python, tmp_path):
    pip_install(python, checkout, cwd=tmp_path)
    shutil.rmtree(checkout)
    package, jit = probe(python, cwd=tmp_path)
    assert package.is_relative_to(tmp_path / "environment")
    assert jit == package.parent / "kernels/jit.py"


def test_the_program_is_installed(checkout, python, tmp_path):
    pip_install(python, checkout, cwd=tmp_path)
    program = python.parent / "repurpose-hpc"
    assert "usage: repurpose-hpc COMMAND" in run(program, cwd=tmp_path)
    assert "example:" in run(program, "inspect", "--help", cwd=tmp_path)


def test_regular_install_from_the_checkout_root(checkout, python):
    pip_install(python, ".", cwd=checkout)
    package, jit = probe(python, cwd=checkout)
    assert package == checkout / "repurpose_hpc/__init__.py"
    assert jit == checkout / "kernels/jit.py"
