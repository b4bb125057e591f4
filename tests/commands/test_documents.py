"""The commands of README and tutorial do what they say, in their order, with a small network and few samples.

Blocks that need another machine, SLURM or much time are read by the command's own parser instead: ``PARSED``
has the reasons.  What installs packages is not run either; the packages that it names are looked up.  Of
all other documents the options are looked up.
"""

import argparse
import os
import re
import shlex
import subprocess
import sys
from importlib import import_module
from importlib.metadata import metadata
from pathlib import Path

import environment
import numpy as np
import pytest

from helpers import ROOT, small_plans
from helpers.documents import Block, blocks, command_words
from repurpose_hpc.commands.table import COMMANDS
from repurpose_hpc.model.forward import forward

PARSED = {
    "repurpose-hpc study MODEL": "sixty points; the next block has the bundled files",
    "srun": "needs SLURM",
    "sbatch": "needs SLURM",
    "repurpose-hpc scaling": "starts a job for every number of ranks; tests/commands/test_scaling.py does",
    "repurpose-hpc bench": "measures for minutes; tests/commands/test_bench.py measures less",
    "mpirun -n 2 repurpose-hpc bench": "likewise",
    "mpirun -n R repurpose-hpc probe": "measures for half a minute; tests/mpi/test_probe.py measures less",
    # Not a command of the package.
    "python examples/arrays.py": "tests/commands/test_examples.py runs it",
}
# They make an environment, the last one around these very tests.
INSTALLS = ("pip install", ". .venv", "python3 scripts/demo.py", "python3 scripts/test.py")
MADE = ("shards/plan.h5", "report.html", "y.h5", "study/study.csv", "promised/plan.h5", "tuned/plan.h5")
README, TUTORIAL = (blocks(name) for name in ("README.md", "docs/tutorial.md"))
OTHERS = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").glob("*.md"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """What takes the place of the checkout: small files under the names of the bundled ones."""
    folder = tmp_path_factory.mktemp("checkout")
    bundled = folder / "repurpose_hpc" / "bundled"
    bundled.mkdir(parents=True)
    network = small_plans.random_network(widths=(12, 16, 16, 10))
    small_plans.write_model(bundled / "model.npz", network)
    for name, samples in (("calibration", 3700), ("test", 200)):
        x = np.random.default_rng(samples).normal(size=(samples, 12)).astype(np.float32)
        np.savez(bundled / f"{name}.npz", x=x, y=forward(network, x).argmax(axis=1))
    for name in ("examples", "slurm"):
        (folder / name).symlink_to(ROOT / name)
    programs = folder / "bin"
    programs.mkdir()
    launcher = shlex.quote(environment.mpi_command(Path(sys.executable), 1)[0])
    python = shlex.quote(sys.executable)
    for name, command in (
        ("repurpose-hpc", f"{python} -m repurpose_hpc"),
        ("python", python),
        ("mpirun", launcher),
    ):
        (programs / name).write_text(f'#!/bin/sh\nexec {command} "$@"\n')
        (programs / name).chmod(0o755)
    (folder / "own.py").write_text(re.search(r"```python\n(.*?)```", page("docs/tutorial.md"), re.S)[1])
    return folder


def page(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def run(folder: Path, lines: list[str]) -> str:
    """What a shell prints that is given these lines."""
    env = {
        **environment.mpi_environment(8),
        "PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "REPURPOSE_HPC_CACHE": str(folder / "cache"),
    }
    command = ["bash", "-euo", "pipefail", "-c", "\n".join(lines)]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=170)
    assert done.returncode == 0, f"{lines}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def what_runs(block: Block) -> list[str]:
    """The lines of a block that are neither installations nor read by a parser or run elsewhere."""
    skipped = (*INSTALLS, *PARSED)
    lines = [line for line in block.lines if not line.startswith(skipped)]
    # Which model shards are of is known by itself of the bundled one alone.
    return [f"{line} --distill $B/model.npz" if " finetune " in line else line for line in lines]


def test_the_tutorial(folder):
    """In a row: what a command reads an earlier one has written."""
    environ = ["export B=repurpose_hpc/bundled"]
    assert environ[0] in TUTORIAL[1].lines
    for block in TUTORIAL:
        if any("own" in line.split() for line in block.lines) and not has_torch():
            continue
        run(folder, [*environ, *what_runs(block)])
    for made in MADE:
        assert (folder / made).exists(), made
    assert (folder / "own.h5").exists() == (folder / "own.html").exists() == has_torch()


def test_the_python_of_the_readme(tmp_path):
    """With a model and samples under the names that stand there, in one process."""
    pytest.importorskip("onnx")
    from helpers.onnx_models import node, save

    rng = np.random.default_rng(0)
    weights = {"W": rng.standard_normal((12, 16)), "V": rng.standard_normal((16, 10))}
    nodes = [node("MatMul", "x W", "h"), node("Relu", "h", "r"), node("MatMul", "r V", "y")]
    save(
        tmp_path / "model.onnx",
        nodes,
        {name: each.astype(np.float32) for name, each in weights.items()},
        ("N", 12),
    )
    x = rng.standard_normal((400, 12)).astype(np.float32)
    expected = np.maximum(x @ weights["W"], 0) @ weights["V"]
    np.savez(tmp_path / "data.npz", x=x, y=expected.argmax(axis=1))
    (code,) = re.findall(r"```python\n(.*?)```", page("README.md"), re.S)
    before = "import numpy as np\nx, y = np.load('data.npz').values()\n"
    (tmp_path / "readme.py").write_text(f"{before}{code}np.save('y.npy', y)\nprint(sorted(cut.report))\n")
    env = {**environment.mpi_environment(), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "readme.py"]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    found = np.load(tmp_path / "y.npy")
    assert found.shape == expected.shape and "'accuracy'" in done.stdout
    assert (found.argmax(axis=1) == expected.argmax(axis=1)).mean() > 0.5
    assert (tmp_path / "shards" / "plan.h5").exists()


def has_torch() -> bool:
    try:
        import onnx  # noqa: F401
        import torch  # noqa: F401
    except ImportError:
        return False
    return True


def test_the_readme(folder):
    """Each block, with files in the place of capital letters; what it writes has a folder of its own."""
    for number, block in enumerate(README):
        lines = [filled_in(line, f"readme{number}") for line in what_runs(block)]
        if lines:
            run(folder, lines)
    first, *others = (folder / f"readme{number}" for number in range(len(README)))
    assert (first / "plan.h5").exists() and (folder / "OUT.h5").exists()
    assert sum((other / "plan.h5").exists() for other in others) == 2


def filled_in(line: str, directory: str = "readme0") -> str:
    """A line of the README with files and numbers for the words that stand for them."""
    data = "repurpose_hpc/bundled/calibration.npz"
    words = {"MODEL": "repurpose_hpc/bundled/model.npz", "DATA": data, "SHARDS": "readme0", "R": "2"}
    words |= {"DIR": directory if "--out DIR" in line else "readme0", "this": "gigabit"}
    return re.sub(r"(?<!\S)(MODEL|DATA|SHARDS|DIR|R|this)(?!\S)", lambda found: words[found[0]], line)


@pytest.mark.parametrize("line", [line for block in (*README, *TUTORIAL) for line in block.lines])
def test_what_is_not_run_is_read(line, folder, monkeypatch):
    """By the command's parser; programs and packages are those that there are."""
    monkeypatch.chdir(folder)
    words = shlex.split(line, comments=True)
    if line.startswith("pip install"):
        listed = [name for extra in re.findall(r"\[([\w,]+)\]", line) for name in extra.split(",")]
        known = metadata("repurpose-hpc").get_all("Provides-Extra")
        assert {*listed} <= {*known}
    elif words[0] in ("python", "python3") and words[1].endswith(".py"):
        assert (folder / words[1]).exists() or (ROOT / words[1]).exists()
    elif line.startswith(tuple(PARSED)):
        command, *given = command_words(filled_in(line))
        ranks = 2 if words[0] in ("mpirun", "srun", "sbatch") else 1
        import_module(f"repurpose_hpc.commands.{command}").parse(given, ranks)


@pytest.mark.parametrize("name", ["README.md", *OTHERS])
def test_options_are_those_that_there_are(name):
    """Of every command in an indented block, whatever stands for its files."""
    for block in blocks(name):
        for line in block.lines:
            command, *words = command_words(line) or [""]
            if command in COMMANDS:
                parser = import_module(f"repurpose_hpc.commands.{command}").make_parser(False)
                parser.complete()
                given = {word.partition("=")[0] for word in words if word.startswith("--")}
                assert given <= options_of(parser), f"{block.place}: {line}"


def options_of(parser: argparse.ArgumentParser) -> set[str]:
    """All options of a parser and of its subparsers."""
    options: set[str] = set()
    for action in parser._actions:
        options |= {*action.option_strings}
        for subparser in action.choices.values() if isinstance(action.choices, dict) else ():
            options |= options_of(subparser)
    return options
