"""Do the cases with one tree: the checkout of a commit, or the working tree."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import environment

from replay import cases, networks
from replay.cases import CUTS, RUNS, Restructuring, Run

BUILD = environment.ROOT / "build" / "replay"
PYTHON = Path(sys.executable)
# A first run compiles all kernels.
TIMEOUT_SECONDS = 300
WHERE_IMPORTED = "import repurpose_hpc, repurpose_hpc.kernels as k; print(repurpose_hpc.__file__, k.__file__)"


class CaseFailed(Exception):
    """A command ended with another status than 0; the message is what it printed last."""


class Result(NamedTuple):
    """The result of a case.

    Attributes:
        name: of the case.
        path: of its shards or its outputs.
        failure: what went wrong; empty if nothing did.
        seconds: that the command took.
    """

    name: str
    path: Path
    failure: str
    seconds: float


@dataclass(frozen=True)
class Tree:
    """A checkout that computes.

    Attributes:
        root: of the checkout.
        inputs: folder of networks and data.
        results: folder that gets shards and outputs.
    """

    root: Path
    inputs: Path
    results: Path

    def check_imports(self) -> None:
        """Refuse to compare something else than this tree, such as an installed package."""
        for path in self._run([str(PYTHON), "-c", WHERE_IMPORTED]).split():
            if not Path(path).is_relative_to(self.root):
                raise CaseFailed(f"{path} was imported, which is not in {self.root}")

    def places(self) -> dict[str, Path]:
        """Name and place of the result of every case."""
        shards = {_title(cut): self.results / cut.name for cut in CUTS}
        return shards | {_title(run): self._output(run) for run in RUNS}

    def do_all(self) -> Iterator[Result]:
        """Do every case, the restructurings first, in the order of the table."""
        self.check_imports()
        # As many at a time as there are cores, for each computes with one.
        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            yield from pool.map(self._restructure, CUTS)
        # One at a time: the ranks of a job wait for each other, and take all cores to do so.
        yield from map(self._infer, RUNS)

    def _restructure(self, cut: Restructuring) -> Result:
        shards = self.results / cut.name
        command = ["-m", "repurpose_hpc.restructure", *self._files(cut.network), *cut.options.split()]
        return self._result(cut, shards, [*command, "--out", str(shards)])

    def _infer(self, run: Run) -> Result:
        output = self._output(run)
        command = ["-m", "repurpose_hpc.infer"]
        if run.source in networks.NETWORKS:
            network, source = run.source, self._files(run.source)
        else:
            network = next(cut.network for cut in CUTS if cut.name == run.source)
            source = ["--shards", str(self.results / run.source)]
        data = ["--input", str(networks.data_path(self.inputs, network)), "--output", str(output)]
        command += [*source, *data, "--repeat", "0", *run.options.split()]
        return self._result(run, output, command)

    def _output(self, run: Run) -> Path:
        return self.results / f"{_title(run).replace(' ', '_')}.h5"

    def _files(self, network: str) -> list[str]:
        model, data = networks.model_path(self.inputs, network), networks.data_path(self.inputs, network)
        return [str(model), "--calibration", str(data)]

    def _result(self, case: Restructuring | Run, path: Path, arguments: list[str]) -> Result:
        launcher = environment.mpi_command(PYTHON, case.ranks) if case.ranks else [str(PYTHON)]
        began, failure = time.monotonic(), ""
        try:
            self._run([*launcher, *arguments])
        except CaseFailed as failed:
            failure = str(failed)
        return Result(_title(case), path, failure, time.monotonic() - began)

    def _run(self, command: list[str]) -> str:
        env = environment.mpi_environment() | {
            "PYTHONPATH": str(self.root),
            "OMP_NUM_THREADS": "1",
            "NUMBA_CACHE_DIR": str(self._compiled()),
            "REPURPOSE_HPC_CACHE": str(self.results / "cache"),
        }
        try:
            done = environment.run(command, env, TIMEOUT_SECONDS, cwd=self.root)
        except subprocess.TimeoutExpired as hang:
            raise CaseFailed(f"{hang}\n{hang.stderr}") from None
        if done.returncode:
            raise CaseFailed(f"{' '.join(command)}: status {done.returncode}\n{done.stderr[-2000:]}")
        return done.stdout

    def _compiled(self) -> Path:
        """The folder of the compiled kernels of this tree.

        Numba does not notice that a function was edited which another file's kernel inlines, so the folder is
        another one for every state of the kernels.
        """
        return BUILD / "kernels" / _digest(sorted((self.root / "kernels").rglob("*.py")))


def _title(case: Restructuring | Run) -> str:
    return f"restructure {case.name}" if isinstance(case, Restructuring) else case.name


def make_inputs() -> Path:
    """Write networks and data, unless they are there; returns their folder."""
    folder = BUILD / f"inputs-{table_key()}"
    if not folder.exists():
        with finished(folder) as unfinished:
            networks.write(unfinished)
    return folder


def check_out(commit: str) -> Path:
    """Write the files of ``commit``, unless they are there; returns their folder."""
    folder = BUILD / f"tree-{commit}"
    if not folder.exists():
        with finished(folder) as unfinished:
            unfinished.mkdir()
            archive = subprocess.run(
                ["git", "archive", commit], cwd=environment.ROOT, check=True, capture_output=True
            )
            subprocess.run(["tar", "-x", "-C", unfinished], input=archive.stdout, check=True)
    return folder


@contextmanager
def finished(folder: Path) -> Iterator[Path]:
    """A folder to write, which gets the name ``folder`` if all goes well and vanishes otherwise."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        unfinished = Path(temporary) / folder.name
        yield unfinished
        unfinished.rename(folder)


def table_key() -> str:
    """A digest of the networks, the cases and of what else than a tree decides the results."""
    versions = [version(name) for name in ("numpy", "scipy", "numba", "h5py", "mpi4py", "onnx")]
    return _digest(
        [Path(networks.__file__), Path(cases.__file__)],
        sys.version,
        platform.node(),
        platform.machine(),
        *versions,
    )


def _digest(files: Iterable[Path], *texts: str) -> str:
    digest = hashlib.sha256("\n".join(texts).encode())
    for path in files:
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]
