"""What others build from the checkout: distributions, containers, a citation."""

import re
import runpy
import shlex
import subprocess
from pathlib import Path

import pytest
import setuptools

import repurpose_hpc

ROOT = Path(__file__).resolve().parents[3]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
APPTAINER = (ROOT / "slurm/apptainer.def").read_text()


@pytest.fixture
def metadata(monkeypatch) -> dict:
    """What setup.py hands to setuptools."""
    arguments: dict = {}
    monkeypatch.setattr(setuptools, "setup", lambda **given: arguments.update(given))
    monkeypatch.chdir(ROOT)
    runpy.run_path(str(ROOT / "setup.py"))
    return arguments


def docker_arguments() -> dict[str, str]:
    return dict(re.findall(r"^ARG (\w+)=(\S+)$", DOCKERFILE, re.M))


def section(name: str) -> list[str]:
    """The lines of a section of the Apptainer definition."""
    text = re.search(rf"^%{name}\n(.*?)(?=^%|\Z)", APPTAINER, re.M | re.S)
    return [line.strip() for line in text[1].splitlines() if line.strip()]


def copied_into_the_image() -> list[str]:
    words = (shlex.split(line) for line in re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE, re.M))
    return [source for *sources, _ in words for source in sources]


def test_all_data_of_the_package_are_in_the_wheel(metadata):
    packaged = {
        path.relative_to(ROOT).as_posix()
        for package, patterns in metadata["package_data"].items()
        for pattern in patterns
        for path in (ROOT / package.replace(".", "/")).glob(pattern)
    }
    files = subprocess.run(["git", "ls-files", "repurpose_hpc"], cwd=ROOT, capture_output=True, text=True)
    if files.returncode:
        pytest.skip("not a checkout of git")
    assert packaged == {name for name in files.stdout.split() if not name.endswith(".py")}


def test_all_packages_are_in_the_wheel(metadata):
    homes = {"repurpose_hpc": "repurpose_hpc", "kernels": "repurpose_hpc.kernels"}
    packages = {
        ".".join([home, *init.parent.relative_to(ROOT / folder).parts])
        for folder, home in homes.items()
        for init in (ROOT / folder).rglob("__init__.py")
    }
    assert set(metadata["packages"]) == packages


def test_containers_name_extras_that_there_are(metadata):
    arguments = docker_arguments()
    extras = {arguments["MPI"], "openmpi", *arguments["EXTRAS"].split(",")}
    assert extras <= set(metadata["extras_require"])
    assert dict(line.split("=") for line in section("arguments")) == arguments


def test_containers_copy_files_that_there_are():
    files = copied_into_the_image()
    assert all((ROOT / name).exists() for name in files)
    assert {line.split()[0] for line in section("files")} == set(files)
    let_through = re.findall(r"^!(.+)$", (ROOT / ".dockerignore").read_text(), re.M)
    assert set(let_through) == set(files)


def test_the_commands_of_the_apptainer_definition_are_a_script():
    script = "\n".join(section("post"))
    done = subprocess.run(["sh", "-n"], input=script, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert set(re.findall(r"\{\{ (\w+) \}\}", APPTAINER)) == set(docker_arguments())


def test_the_citation_is_of_this_version_and_names_the_paper():
    citation = (ROOT / "CITATION.cff").read_text()
    assert re.search(r"^version: (.+)$", citation, re.M)[1] == repurpose_hpc.__version__
    assert "doi: 10.1609/aaai.v37i6.25815" in citation and "arXiv:2008.08289" in citation
