"""One long run of ``infer``, whose ranks are looked at from outside: memory, files, threads."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from faults.job import Run, command
from helpers import small_plans
from helpers.injection import Injection

BATCHES, RANKS = 200_000, 4
MOST_GROWTH = 0.01
"""Of the memory of a rank, after it has warmed up."""
# Part of the run, and of what was seen, at its ends: the first is when it warms up.
_WARM_UP, _END = 0.2, 0.1
_LONGEST = 7200.0


@dataclass(frozen=True)
class Case:
    """A long run.

    Attributes:
        batches: of one sample.
        ranks: of the job.
    """

    batches: int = BATCHES
    ranks: int = RANKS

    @property
    def name(self) -> str:
        """Unique."""
        return f"soak/{self.batches}/{self.ranks}"


@dataclass(frozen=True)
class Seen:
    """A look at a rank.

    Attributes:
        kib: memory that is its own, not that of files.
        files: that it has open.
        threads: that it has.
    """

    kib: int
    files: int
    threads: int


def cases() -> Iterator[Case]:
    """The one."""
    yield Case()


def measure(case: Case, folder: Path, injections: Sequence[Injection] = ()) -> dict[str, Any]:
    """Run so many batches and compare each rank at the end with itself after warming up.

    Args:
        case: the run.
        folder: to work in.
        injections: into the ranks.
    """
    work = folder / "soak"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    small_plans.write_shards(work / "shards", case.ranks)
    x = small_plans.write_samples(work / "samples.npz")
    np.save(work / "x.npy", np.resize(x, (case.batches, x.shape[1])).astype(np.float32))
    words = ["infer", "--shards", "shards", "--input", "x.npy", "--output", "y.h5"]
    run = Run(command([*words, "--batch-size", 1, "--repeat", 0], case.ranks), work, injections)
    run.wait_for(lambda: bool(list(work.glob(".y.h5.*.tmp"))))
    began, looks = time.time(), _watch(run, min(1.0, case.batches / 200_000))
    outcome = run.outcome(since=began)
    row = {"batches": case.batches, "ranks": case.ranks, **asdict(outcome), **growth(looks)}
    found = {
        f"status {row['status']}": row["status"] != 0,
        f"memory grows by {row['memory_growth']:.1%}": row["memory_growth"] >= MOST_GROWTH,
        f"{row['files_more']} more files": row["files_more"] > 0,
        f"{row['threads_more']} more threads": row["threads_more"] > 0,
    }
    return {**row, "wrong": [text for text, so in found.items() if so]}


def _watch(run: Run, pause: float) -> dict[int, list[Seen]]:
    """Looks at every rank, until the run ends."""
    ranks = [pid for pid in run.processes() if _is_rank(pid)]
    looks: dict[int, list[Seen]] = {pid: [] for pid in ranks}
    end = time.monotonic() + _LONGEST
    while run.process.poll() is None and time.monotonic() < end:
        for pid, seen in looks.items():
            with suppress(OSError, KeyError):  # it has just ended
                seen.append(_look(pid))
        time.sleep(pause)
    return looks


def _is_rank(pid: int) -> bool:
    return b"repurpose_hpc" in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")


def _look(pid: int) -> Seen:
    place = Path(f"/proc/{pid}")
    status = dict(line.split(":", 1) for line in (place / "status").read_text().splitlines())
    return Seen(
        int(status["RssAnon"].split()[0]), len(list((place / "fd").iterdir())), int(status["Threads"])
    )


def growth(looks: dict[int, list[Seen]]) -> dict[str, Any]:
    """What the worst rank has more at the end than when it had warmed up, by medians."""
    rows = []
    for seen in looks.values():
        span = max(1, int(_END * len(seen)))
        first = int(_WARM_UP * len(seen))
        warm, end = seen[first : first + span], seen[-span - 1 : -1]
        before, after = (
            [float(np.median([getattr(one, name) for one in part])) for name in ("kib", "files", "threads")]
            for part in (warm, end)
        )
        rows.append((after[0] / before[0] - 1, after[1] - before[1], after[2] - before[2], after[0]))
    memory, files, threads, kib = map(max, zip(*rows, strict=True))
    return {
        "memory_growth": memory,
        "files_more": int(files),
        "threads_more": int(threads),
        "mib": round(kib / 1024),
        "looks": min(map(len, looks.values())),
    }
