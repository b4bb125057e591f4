"""Damaged files of every format: each is read, or refused with a message for the user.

    python scripts/fuzz_readers.py [READER ...] [--first 0] [--count 2000] [--seconds S] [--keep DIR]

Files are small and valid at first (tests/helpers/readers.py), then one of them is damaged
(tests/helpers/mutations.py).  They are numbered, so that one that fails can be made again.  A reader runs in
a process of its own, with limits on time and memory: what ends it, or takes too long, is seen.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import math
import multiprocessing
import os
import random
import re
import resource
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "tests"))

from helpers.readers import READERS, Reader  # noqa: E402
from helpers.seeds import Files  # noqa: E402
from repurpose_hpc.errors import UserError  # noqa: E402

# Of reading a file that is smaller than a page.
SECONDS, MEMORY_BYTES = 20.0, 1 << 30
# Number of a file, what became of it, and why.
Verdict = tuple[int, str, str]


def valid_files(reader: Reader) -> Files:
    """The files of a reader before anything is done to them, by their paths in its folder."""
    with tempfile.TemporaryDirectory() as folder:
        reader.write(Path(folder))
        paths = sorted(path for path in Path(folder).rglob("*") if path.is_file())
        return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def damaged_files(name: str, number: int, valid: Files) -> Files:
    """The files of the reader ``name``, one of which is damaged."""
    reader, rng = READERS[name], random.Random(f"{name} {number}")
    victim = rng.choice(victims(reader, valid))
    mutation = rng.choice(reader.mutations)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of members of archives that are there twice
        return {**valid, victim: mutation(valid[victim], rng)}


def victims(reader: Reader, files: Files) -> list[str]:
    """The paths of the files that may be damaged."""
    return [path for path in files if not Path(path).name.startswith(reader.spared or "\0")]


def judge(reader: Reader, files: Files) -> tuple[str, str]:
    """What becomes of the files: "read", "refused" or "FAULT", and the reason."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        put(files, Path(folder))
        try:
            reader.read(Path(folder))
        except UserError as error:
            return "refused", str(error)
        except Exception as error:  # whatever it is
            return (
                "FAULT",
                f"{type(error).__name__} in {_last_frame(error)}: {' '.join(str(error).split())[:100]}",
            )
        return "read", ""


def _last_frame(error: Exception) -> str:
    """Where an exception left the package."""
    frames = traceback.extract_tb(error.__traceback__)
    inner = next((each for each in reversed(frames) if "repurpose_hpc" in each.filename), frames[-1])
    return f"{Path(inner.filename).name}:{inner.lineno} {inner.name}"


def verdicts(name: str, first: int, count: int, until: float = math.inf) -> Iterator[Verdict]:
    """What becomes of ``count`` files from number ``first`` on; none is begun after ``until``."""
    valid, number, last = valid_files(READERS[name]), first, first + count
    while number < last and time.monotonic() < until:
        for verdict in watched(name, number, _work, valid, range(number, last), until):
            yield verdict
            number = verdict[0] + 1


def watched(name: str, number: int, work: Callable[..., None], *arguments: Any) -> Iterator[Verdict]:
    """What ``work`` sends, called in a process of its own, and what ended it before its time.

    Args:
        name: of the reader.
        number: of the first file that it judges.
        work: called with a connection, to which it sends verdicts, the name, and ``arguments``.
    """
    with tempfile.NamedTemporaryFile("r") as trace:
        ours, theirs = multiprocessing.Pipe(duplex=False)
        child = multiprocessing.get_context("fork").Process(
            target=_limited, args=(trace.name, work, theirs, name, *arguments)
        )
        child.start()
        theirs.close()
        for verdict in _received(ours):
            yield verdict
            number = verdict[0] + 1
        if ending := _ending(child):
            trusted, place = READERS[name].trusts, _place(trace.read())
            yield number, "trusted" if trusted and trusted in place else "FAULT", f"{ending} in {place}"


def _received(connection: Connection) -> Iterator[Verdict]:
    """What a process finds, until it ends or takes too long."""
    with contextlib.suppress(EOFError):
        while connection.poll(SECONDS):
            yield connection.recv()


def _ending(child: multiprocessing.process.BaseProcess) -> str:
    """How a process ended, or was ended; "": it had done its work."""
    child.join(1)
    if child.exitcode is None:
        os.kill(child.pid, signal.SIGABRT)  # it then says where it is
        child.join(5)
        child.kill()
        child.join()
        return f"no end within {SECONDS:g} s"
    if child.exitcode < 0:
        return f"{signal.Signals(-child.exitcode).name}"
    return f"status {child.exitcode}" if child.exitcode else ""


def _place(trace: str) -> str:
    """Where a process was when it ended, as faulthandler says it."""
    frames = re.findall(r'File "([^"]*)", line (\d+) in (\S+)', trace)
    if not frames:
        return "no place that is known"
    path, line, function = frames[0]
    return f"{'/'.join(Path(path).parts[-3:])}:{line} {function}"


def limit_memory() -> None:
    """Let this process have ``MEMORY_BYTES`` more than now, and leave no core."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY_BYTES,) * 2)


def _limited(trace: str, work: Callable[..., None], *arguments: Any) -> None:
    """Do ``work`` with limits; what crashes leaves its place in the file ``trace``."""
    limit_memory()
    with open(trace, "w") as file:
        faulthandler.enable(file)
        work(*arguments)


def _work(theirs: Connection, name: str, valid: Files, numbers: range, until: float) -> None:
    for number in numbers:
        if time.monotonic() >= until:
            break
        theirs.send((number, *judge(READERS[name], damaged_files(name, number, valid))))


def put(files: Files, folder: Path) -> None:
    """Write files of a reader into its folder."""
    for path, content in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)


def main(argv: list[str] | None = None) -> int:
    """Damage files of the readers; the exit status is 1 if one was neither read nor refused."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("readers", nargs="*", metavar="READER", help=f"of {', '.join(READERS)}; default: all")
    parser.add_argument("--first", type=int, default=0, help="number of the first file")
    parser.add_argument("--count", type=int, default=2000, help="files of each reader")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="at most, for each reader")
    parser.add_argument("--keep", type=Path, help="where to leave the files that fail")
    args = parser.parse_args(argv)
    clean = [_fuzz(name, args) for name in args.readers or READERS]
    return int(not all(clean))


def _fuzz(name: str, args: argparse.Namespace) -> bool:
    """Damage files of one reader, and say what became of them; True if none failed."""
    valid, until = valid_files(READERS[name]), time.monotonic() + args.seconds
    found = verdicts(name, args.first, args.count, until)
    return report(name, found, lambda number: damaged_files(name, number, valid), args.keep)


def report(name: str, found: Iterable[Verdict], files: Callable[[int], Files], keep: Path | None) -> bool:
    """Print the first of each kind of failure, and leave its files in ``keep``; True if there is none."""
    began, counts, kinds = time.monotonic(), Counter(), Counter()
    for number, verdict, reason in found:
        counts[verdict] += 1
        if verdict in ("read", "refused"):
            continue
        kind = f"{verdict}: {reason.split(': ')[0]}"
        kinds[kind] += 1
        if kinds[kind] == 1:
            print(f"{name} {number}: {verdict}: {reason}", flush=True)
            if keep:
                put(files(number), keep / f"{name} {number}")
    became = ", ".join(f"{count} {verdict}" for verdict, count in sorted(counts.items()))
    print(f"{name}: {counts.total()} files in {time.monotonic() - began:.0f} s: {became}", flush=True)
    for kind, count in kinds.most_common():
        print(f"    {count} x {kind}", flush=True)
    return not counts["FAULT"]


if __name__ == "__main__":
    sys.exit(main())
