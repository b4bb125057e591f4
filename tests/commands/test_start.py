"""The table of commands, and the one way in which all of them start."""

import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from importlib import import_module

import environment
import pytest

from helpers import ROOT, small_plans
from repurpose_hpc import __version__
from repurpose_hpc.commands.table import COMMANDS, Runs, overview
from repurpose_hpc.errors import PREFIX

PACKAGE = ("-m", "repurpose_hpc")
LISTED = [row for row in COMMANDS.values() if row.listed]
ON_RANKS = [row for row in COMMANDS.values() if row.runs is Runs.ON_RANKS]


def command(*words: object) -> subprocess.CompletedProcess[str]:
    """Run the package in a process of its own, without a launcher."""
    env = {**environment.mpi_environment(), "PYTHONPATH": str(ROOT)}
    line = [sys.executable, *PACKAGE, *map(str, words)]
    return subprocess.run(line, env=env, capture_output=True, text=True, timeout=300)


def only_message(done: subprocess.CompletedProcess[str]) -> str:
    messages = [line for line in done.stderr.splitlines() if PREFIX in line]
    assert len(messages) == 1 and "Traceback" not in done.stderr, done.stderr
    return messages[0].removeprefix(PREFIX)


@pytest.mark.parametrize("words", [(), ("--help",), ("-h",)])
def test_without_a_command_all_are_listed(words):
    done = command(*words)
    assert done.returncode == 0 and done.stdout == overview() + "\n"
    for row in LISTED:
        assert f"  {row.name} " in done.stdout and row.help in done.stdout
    assert "point" not in done.stdout


def test_the_version():
    """Without what takes time to import."""
    code = (
        "import sys; sys.argv[1:] = ['--version']; import repurpose_hpc.__main__ as m; m.main(); "
        "print({'numpy', 'numba', 'mpi4py'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == f"repurpose-hpc {__version__}\nset()\n" and done.returncode == 0, done.stderr
    assert command("--version").stdout == f"repurpose-hpc {__version__}\n"


def test_the_version_is_printed_once(mpirun):
    done = mpirun(2, *PACKAGE, "--version")
    assert done.returncode == 0 and done.stdout == f"repurpose-hpc {__version__}\n", done.stderr


@pytest.mark.parametrize(
    ("name", "expected"), [("infre", "did you mean infer?"), ("strudel", "did you mean"), ("pont", "mean")]
)
def test_an_unknown_command_is_answered_with_the_nearest(name, expected):
    done = command(name)
    message = only_message(done)
    assert done.returncode == 2 and expected in message and "point" not in message


def test_an_unknown_command_is_answered_once(mpirun):
    done = mpirun(3, *PACKAGE, "infre")
    assert done.returncode != 0 and "did you mean infer?" in only_message(done)


@pytest.mark.parametrize("row", COMMANDS.values(), ids=lambda row: row.name)
def test_every_module_has_the_same_functions(row):
    module = import_module(row.module)
    for name in ("make_parser", "parse", "run"):
        assert callable(getattr(module, name))
    shown = module.make_parser(True).format_help()
    assert f"usage: repurpose-hpc {row.name}" in shown
    assert row.help in shown and shown.endswith(f"example:\n  {row.example}\n")


def test_help_of_a_command():
    done = command("inspect", "--help")
    assert done.returncode == 0 and COMMANDS["inspect"].example in done.stdout and not done.stderr


@pytest.mark.parametrize("row", COMMANDS.values(), ids=lambda row: row.name)
def test_examples_work(mpirun, tmp_path, monkeypatch, row):
    if row.name == "completion":
        pytest.importorskip("shtab")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("REPURPOSE_HPC_CACHE", str(tmp_path / "cache"))
    for folder in ("repurpose_hpc", "tests"):
        (tmp_path / folder).symlink_to(ROOT / folder)
    if row.name in ("point", "export", "report"):
        small_plans.write_shards(tmp_path / "shards", 2)
    if row.name == "finetune":  # what the example of restructure writes
        _, *words = shlex.split(COMMANDS["restructure"].example)
        assert command(*words).returncode == 0
    before, program, words = _split(shlex.split(row.example))
    assert program == "repurpose-hpc" and words[0] == row.name
    if before:
        launcher, option, ranks = before
        assert (launcher, option) == ("mpirun", "-n")
        done = mpirun(int(ranks), *PACKAGE, *words, timeout=300)
    else:
        done = command(*words)
    assert done.returncode == 0, done.stdout + done.stderr


def _split(words: Sequence[str]) -> tuple[Sequence[str], str, Sequence[str]]:
    place = words.index("repurpose-hpc")
    return words[:place], words[place], words[place + 1 :]


@pytest.fixture
def mixed(mpirun, tmp_path):
    """A function that starts each of several command lines on so many ranks: the message of the job."""

    def run(*parts: tuple[int, str], status: int = 2) -> str:
        first, *others = [(ranks, [*PACKAGE, *words.split()]) for ranks, words in parts]
        more = [word for ranks, words in others for word in (":", "-n", ranks, sys.executable, *words)]
        env = {"REPURPOSE_HPC_CACHE": str(tmp_path / "cache")}
        done = mpirun(first[0], *first[1], *more, env=env, timeout=60)
        assert done.returncode == status, done.stderr
        assert not list(tmp_path.iterdir())
        return only_message(done)

    return run


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        (((3, "infer --batch-size 64"), (1, "infer --batch-size 32")), ("--batch-size", "64", "32", 3)),
        (((1, "infer --output a.h5"), (1, "infer")), ("--output", "a.h5", "none", 1)),
        (
            ((1, "infer --comm-budget 0.1"), (1, "infer --comm-budget 0.2")),
            ("--comm-budget", "0.1", "0.2", 1),
        ),
        (((1, "infer"), (1, "doctor")), ("command", "infer", "doctor", 1)),
        (((1, "infer"), (1, "study")), ("command", "infer", "study", 1)),
        (((1, "inspect"), (1, "infer")), ("command", "inspect", "infer", 1)),
        (((1, "infer"), (1, "infre")), ("command", "infer", "infre", 1)),
        (((1, "infer"), (1, "--help")), ("command", "infer", "--help", 1)),
        (((1, "infer --help"), (1, "infer")), ("--help", "True", "False", 1)),
        (((1, "doctor"), (2, "doctor --help")), ("--help", "False", "True", 1)),
        (
            ((1, "infer a.npz --calibration x --input x"), (1, "infer b.npz --calibration x --input x")),
            ("MODEL", "a.npz", "b.npz", 1),
        ),
        (
            ((1, "bench exchange --bytes 4"), (1, "bench exchange --bytes 8")),
            ("--bytes", "(4,)", "(8,)", 1),
        ),
        (
            ((1, "bench exchange"), (1, "bench inference")),
            ("SUBJECT", "exchange", "inference", 1),
        ),
        (
            (
                (1, "restructure a.npz --calibration x --workers 2 --out a"),
                (1, "restructure a.npz --calibration x --workers 2 --out b"),
            ),
            ("--out", "a", "b", 1),
        ),
        (((1, "probe --ranks-per-node 1"), (1, "probe")), ("--ranks-per-node", "1", "none", 1)),
    ],
)
def test_ranks_with_other_command_lines_end_with_one_message(mixed, parts, expected):
    name, first, second, rank = expected
    assert mixed(*parts) == (
        f"{name}: expected the same on every rank, found {first} on rank 0 and {second} on rank {rank}; "
        "start all ranks with the same words"
    )


def test_the_order_of_words_does_not_matter(mpirun, tmp_path):
    small_plans.write_shards(tmp_path / "shards", 2)
    small_plans.write_samples(tmp_path / "x.npz")
    shards, samples = ("--shards", tmp_path / "shards"), ("--input", tmp_path / "x.npz")
    first = [*PACKAGE, "infer", *shards, *samples, "--repeat", 2, "--batch-size=8"]
    second = ["-m", "repurpose_hpc.infer", "--batch-size", "08", *samples, "--repeat", 2, *shards]
    done = mpirun(1, *first, ":", "-n", 1, sys.executable, *second)
    assert done.returncode == 0, done.stderr


def test_mistakes_come_before_differences(mixed):
    assert "--batch-size: expected" in mixed((1, "infer --batch-size 0"), (1, "infer --batch-size 3"))
    assert "--frobnicate" in mixed((2, "infer"), (1, "infer --frobnicate"))


@pytest.mark.parametrize("name", ["study", "scaling", "inspect", "forecast"])
def test_commands_of_one_process_refuse_a_launcher_once(mpirun, name):
    done = mpirun(2, *PACKAGE, name)
    assert done.returncode == 1
    assert "expected one process, as this command runs in one, found 2" in only_message(done)


@pytest.mark.parametrize("row", ON_RANKS, ids=lambda row: row.name)
def test_commands_on_ranks_refuse_a_foreign_launcher(row):
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "0"}
    line = [sys.executable, *PACKAGE, row.name]
    done = subprocess.run(line, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    said = done.stdout if row.judges_launch else only_message(done)
    assert "the launcher started 2 processes, but MPI sees 1 rank" in said


def test_nothing_of_a_command_is_imported_before_threads_are_set():
    code = "import sys, repurpose_hpc.__main__; print({'numpy', 'numba', 'mpi4py'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "set()", done.stderr


# A process that cannot import what it needs before MPI starts, or that is interrupted there.
BROKEN = """
import os, sys
number = os.environ.get("PMI_RANK") or os.environ.get("OMPI_COMM_WORLD_RANK")
if number == "1":
    FAULT
"""
FAULTS = {
    "sys.modules['mpi4py'] = None": "found ModuleNotFoundError",
    "sys.modules['repurpose_hpc.commands.table'] = None": "found ModuleNotFoundError",
    "sys.modules['numpy'] = None": "",
    "import repurpose_hpc.process.threads as t; t.one_thread_per_rank = lambda: (_ for _ in ()).throw("
    "KeyboardInterrupt)": "was interrupted",
}


@pytest.mark.parametrize("words", [("-m", "repurpose_hpc.infer"), (*PACKAGE, "doctor")])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_process_that_does_not_get_as_far_as_mpi_ends_all(mpirun, tmp_path, words, fault):
    (tmp_path / "sitecustomize.py").write_text(BROKEN.replace("FAULT", fault))
    path = os.pathsep.join((str(tmp_path), str(ROOT)))
    done = mpirun(2, *words, env={"PYTHONPATH": path}, timeout=60)
    assert done.returncode != 0
    messages = [line for line in done.stderr.splitlines() if PREFIX in line]
    assert len(messages) == 1 and FAULTS[fault] in messages[0]
