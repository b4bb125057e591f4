"""Damaged files of every format, as ``fuzz_readers.py`` makes them, led by the code that they reach.

    pip install -e '.[fuzz]'
    python scripts/fuzz_guided.py [READER ...] [--seconds 600] [--corpus DIR] [--keep DIR]

It begins with valid files and those of tests/data/seeds/.  libFuzzer keeps files that reach what none before
them reached, and damages them further.  Its own mutations take turns with those of
tests/helpers/mutations.py, which know the formats.  When a file ends the process, another goes on from what
was kept.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import itertools
import os
import random
import re
import sys
import tempfile
import time
import types
import warnings
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path

from fuzz_readers import READERS, Files, Reader, Verdict, judge, report, valid_files, victims, watched

from helpers.mutations import Mutation
from helpers.seeds import packed, seeds, unpacked

# Whose Python code counts as reached.  Kernels do not: Numba would compile what counts them.
COUNTED = ("repurpose_hpc.", "numpy.lib._format", "numpy.lib._npyio", "onnx.numpy_helper", "zipfile.")
COMPILED = "repurpose_hpc.kernels."
# Damaged files become at most so many times larger than valid ones.
LARGER = 4
# Of libFuzzer.  Signals, time and memory are left to fuzz_readers.  Few changes in a row: most break a file.
UNHANDLED = ("abrt", "bus", "fpe", "ill", "int", "segv", "term", "xfsz")
OPTIONS = {
    **{f"handle_{name}": 0 for name in UNHANDLED},
    **{"timeout": 86400, "rss_limit_mb": 0, "malloc_limit_mb": 0},
    **{"cross_over": 0, "len_control": 0, "mutate_depth": 2},
}


class Campaign:
    """Damaged files of one reader.

    Args:
        name: of the reader.
        corpus: folder with inputs to begin from, to which those that reach more are added.
        scratch: folder for what libFuzzer says, and the inputs that fail.
    """

    def __init__(self, name: str, corpus: Path, scratch: Path) -> None:
        self.name, self.valid = name, valid_files(READERS[name])
        self.corpus, self.scratch, self.log = corpus, scratch, scratch / "log"
        self.log.touch()
        corpus.mkdir(parents=True, exist_ok=True)
        for number, files in enumerate([self.valid, *seeds(name)]):
            (corpus / f"seed {number}").write_bytes(packed(files))
        judge(READERS[name], self.valid)  # imports what it needs
        _count()

    def verdicts(self, until: float) -> Iterator[Verdict]:
        """What becomes of files, one after the other; none is begun after ``until``."""
        first = 0
        while time.monotonic() < until:
            for verdict in watched(self.name, first, self._explore, first, until):
                if verdict[1] not in ("read", "refused") and not self._input(verdict[0]).exists():
                    sys.exit(f"{self.name}: libFuzzer ended, {verdict[2]}:\n{self.log.read_text()}")
                yield verdict
                first = verdict[0] + 1

    def files(self, number: int) -> Files:
        """The files with this number; they failed."""
        return unpacked(self._input(number).read_bytes())

    def coverage(self) -> str:
        """What was reached at last, in the words of libFuzzer: edges, features, kept inputs."""
        return ([*re.finditer(r"cov: \d+ ft: \d+ corp: \d+", self.log.read_text())] or [["none"]])[-1][0]

    def _input(self, number: int) -> Path:
        """Where an input is from before it is judged on; it stays if it fails."""
        return self.scratch / str(number)

    def _explore(self, theirs: Connection, name: str, first: int, until: float) -> None:
        import atheris

        with open(self.log, "w") as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
        reader, numbers = READERS[name], itertools.count(first)

        def try_input(data: bytes) -> None:
            number = next(numbers)
            self._input(number).write_bytes(data)
            verdict, reason = judge(reader, unpacked(data) if data else self.valid)
            if verdict != "FAULT":
                self._input(number).unlink()
            theirs.send((number, verdict, reason))
            if time.monotonic() >= until:
                os._exit(0)  # libFuzzer's own end waits for threads that a fork does not have

        def mutate(content: bytes, rng: random.Random) -> bytes:
            return atheris.Mutate(content, len(content) + 64)

        def change(data: bytes, size: int, seed: int) -> bytes:
            changed = packed(damaged(reader, unpacked(data), random.Random(seed), mutate))
            return changed if len(changed) <= size else data

        options = {**OPTIONS, "max_len": LARGER * len(packed(self.valid)), "seed": first + 1}
        arguments = [f"-{option}={value}" for option, value in options.items()]
        atheris.Setup([name, *arguments, str(self.corpus)], try_input, custom_mutator=change)
        atheris.Fuzz()


def damaged(reader: Reader, files: Files, rng: random.Random, other: Mutation) -> Files:
    """``files``, one of which is changed, as the reader says or by ``other``.

    What knows the format may find it broken already.
    """
    victim = rng.choice(victims(reader, files))
    mutation = rng.choice((other, *reader.mutations))
    with warnings.catch_warnings(), contextlib.suppress(Exception):
        warnings.simplefilter("ignore")
        return {**files, victim: mutation(files[victim], rng)}
    return {**files, victim: other(files[victim], rng)}


def _count() -> None:
    """Change the functions that are imported, so that libFuzzer sees what they run."""
    import atheris

    for each in gc.get_objects():
        if type(each) is types.FunctionType:  # isinstance would ask proxies of torch, which warn
            module = f"{each.__module__}."
            if module.startswith(COUNTED) and not module.startswith(COMPILED):
                atheris.instrument_func(each)


def main(argv: list[str] | None = None) -> int:
    """Explore the readers; the exit status is 1 if a file was neither read nor refused."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("readers", nargs="*", metavar="READER", help=f"of {', '.join(READERS)}; default: all")
    parser.add_argument("--seconds", type=float, default=600, help="for each reader")
    parser.add_argument("--corpus", type=Path, help="where to leave what reaches more, and to go on from")
    parser.add_argument("--keep", type=Path, help="where to leave the files that fail")
    args = parser.parse_args(argv)
    try:
        import atheris  # noqa: F401
    except ImportError as error:
        parser.error(f"it needs atheris, which cannot be imported ({error}); pip install -e '.[fuzz]'")
    return int(not all([_fuzz(name, args) for name in args.readers or READERS]))


def _fuzz(name: str, args: argparse.Namespace) -> bool:
    with tempfile.TemporaryDirectory() as scratch:
        campaign = Campaign(name, (args.corpus or Path(scratch) / "corpus") / name, Path(scratch))
        found = campaign.verdicts(time.monotonic() + args.seconds)
        clean = report(name, found, campaign.files, args.keep)
        print(f"    {campaign.coverage()}", flush=True)
    return clean


if __name__ == "__main__":
    sys.exit(main())
