"""Trouble with files: full and missing disks, inputs that change, damaged shards, small limits."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from faults.commands import COMMANDS, OUT, Command, fresh, results, undisturbed
from faults.job import WITHIN, Run, command
from helpers import small_plans
from helpers.injection import NOTE, Injection

RANKS = 2
_SMALL, _SMALL_MEMORY = "1m", "small /dev/shm"
_PRELUDE = "import os, resource, shutil\nfrom pathlib import Path\n"
_FILL = """
file = os.open('out/filler', os.O_WRONLY | os.O_CREAT)
try:
    while os.write(file, bytes(4096)):
        pass
except OSError:
    pass
"""


@dataclass(frozen=True)
class Case:
    """A command and what happens to its files.

    Attributes:
        fault: what the table calls it.
        command: of ``COMMANDS``, and the label of the row.
        detail: which of several faults of a kind.
        before: what is done to the folder before the command starts.
        code: what happens when the root is at ``phase``; "": nothing.
        phase: of the command; "": when Python begins, in every process.
        words: instead of those of the command.
        ranks: of the job; None: ``RANKS``, or none for a command that runs alone.
        disk: size and mode of a file system of its own for the results; "": none.
        may_succeed: whether it is right to end with status 0, and a whole result.
    """

    fault: str
    command: str
    detail: str = ""
    before: Callable[[Path], object] | None = None
    code: str = ""
    phase: str = "mid-stream"
    words: Sequence[object] = ()
    ranks: int | None = None
    disk: str = ""
    may_succeed: bool = False
    variables: tuple[tuple[str, str], ...] = ()

    @property
    def name(self) -> str:
        """Unique."""
        return "/".join(filter(None, ("files", self.fault, self.command, self.detail)))


def cases() -> Iterator[Case]:
    """All of them."""
    for one in COMMANDS.values():
        if not one.starts_ranks:
            yield from _disks(one)
    yield from _inputs()
    yield from _shards()
    yield from _wrong_ranks()
    yield from _limits()


def _disks(one: Command) -> Iterator[Case]:
    phase = "mid-stream" if "mid-stream" in one.places else "first exchange"
    for name, words in _written(one):
        common: dict[str, Any] = {"words": words, "detail": name, "phase": phase}
        yield Case("disk full from the start", one.name, before=_fill, disk=f"size={_SMALL}", **common)
        yield Case(
            "disk full underway",
            one.name,
            code=_FILL,
            disk=f"size={_SMALL}",
            may_succeed=one.name == "infer",
            **common,
        )
        yield Case(
            "no directory", one.name, before=lambda work: (work / OUT).rmdir(), may_succeed=True, **common
        )
        yield Case(
            "directory gone underway", one.name, code="shutil.rmtree('out')", may_succeed=True, **common
        )
        yield Case("read-only", one.name, disk=f"size={_SMALL},ro", **common)


def _written(one: Command) -> Iterator[tuple[str, list[object]]]:
    """The results of a command, each written by a run of its own."""
    words = one.words(0 if one.name == "restructure, one process" else RANKS)
    yield "", words
    if one.name == "infer":
        yield "--resume", [*words, "--resume"]
        yield "--report", ["infer", *words[1:5], *words[7:], "--report", f"{OUT}/r.json"]


def _inputs() -> Iterator[Case]:
    changes = {
        "truncated": "os.truncate('FILE', os.path.getsize('FILE') // 2)",
        "replaced": "shutil.copy('FILE', 'z'); os.replace('z', 'FILE')",
        "overwritten": "open('FILE', 'r+b').write(bytes(1000))",
        "removed": "os.unlink('FILE')",
    }
    for name, file in (
        ("infer", "x.npy"),
        ("restructure", "samples.npz"),
        ("restructure, one process", "samples.npz"),
        ("study", "samples.npz"),
        ("scaling", "samples.npz"),
    ):
        for detail, code in changes.items():
            yield Case(
                "input changes underway",
                name,
                detail,
                code=code.replace("FILE", file),
                may_succeed=name == "scaling",
            )


def _shards() -> Iterator[Case]:
    def foreign(work: Path) -> None:
        small_plans.write_shards(work / "other", RANKS, seed=3)
        shutil.copy(work / "other" / "worker-0001.h5", _worker(work))

    def future(work: Path) -> None:
        content = (_shards_of(work) / "plan.h5").read_bytes()
        head, _, rest = content.partition(b" ")
        version, _, rest = rest.partition(b" ")
        (_shards_of(work) / "plan.h5").write_bytes(head + b" 99 " + rest)

    damages: dict[str, Callable[[Path], object]] = {
        "foreign": foreign,
        "of a future version": future,
        "a byte of a shard": lambda work: _flip(_worker(work)),
        "a byte of the plan": lambda work: _flip(_shards_of(work) / "plan.h5"),
        "truncated": lambda work: os.truncate(_worker(work), 3000),
        "missing": lambda work: _worker(work).unlink(),
        "empty": lambda work: os.truncate(_worker(work), 0),
        "no directory": lambda work: shutil.rmtree(_shards_of(work)),
        "no plan": lambda work: (_shards_of(work) / "plan.h5").unlink(),
    }
    for name in ("infer", "doctor", "scaling"):
        words = COMMANDS[name].words(RANKS)
        if name == "scaling":
            words = ["scaling", "strong", "model.npz", "--shards", "shards{ranks}", *words[5:]]
        for detail, before in damages.items():
            yield Case("shards damaged", name, detail, before=before, words=words)


def _shards_of(work: Path) -> Path:
    return work / f"shards{RANKS}"


def _worker(work: Path) -> Path:
    return _shards_of(work) / "worker-0001.h5"


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) * 2 // 3] ^= 1
    path.write_bytes(content)


def _wrong_ranks() -> Iterator[Case]:
    fault = "wrong number of ranks"
    for name in ("infer", "doctor"):
        yield Case(fault, name, "4 ranks, 2 workers", words=COMMANDS[name].words(2), ranks=4)
    model = ["infer", "model.npz", "--calibration", "samples.npz", "--input", "x.npy", "--workers", 2]
    yield Case(fault, "infer", "a model, 4 ranks, 2 workers", words=model, ranks=4)
    for name in ("study", "scaling"):
        yield Case(fault, name, "under a launcher", ranks=2)
    yield Case(fault, "bench", "1 rank", ranks=1)
    for name in ("infer", "restructure", "probe", "doctor", "bench"):
        foreign = (("OMPI_COMM_WORLD_SIZE", "2"), ("OMPI_COMM_WORLD_RANK", "0"))
        yield Case(fault, name, "launcher of another MPI", ranks=0, variables=foreign)


def _limits() -> Iterator[Case]:
    for name in ("infer", "restructure", "probe", "doctor", "bench", "study"):
        for limit in (12, 16, 24, 32):
            code = f"resource.setrlimit(resource.RLIMIT_NOFILE, ({limit}, {limit}))"
            yield Case("few open files", name, f"{limit}", code=code, phase="", may_succeed=True)
    for name in ("infer", "restructure", "probe", "doctor", "bench"):
        for size in ("16k", "1m"):
            yield Case(_SMALL_MEMORY, name, size, may_succeed=True)
    words = [*COMMANDS["infer"].words(RANKS)[:-1], "shared"]
    yield Case(_SMALL_MEMORY, "infer", "1m, --exchange shared", words=words, may_succeed=True)


def measure(case: Case, folder: Path) -> dict[str, Any]:
    """The row of a case."""
    one = COMMANDS[case.command]
    expected = undisturbed(case.command, one.ranks[0], folder)
    work = fresh(folder)
    shutil.rmtree(_shards_of(work), ignore_errors=True)
    small_plans.write_shards(_shards_of(work), RANKS)
    with ExitStack() as stack:
        stack.enter_context(_kept(work / "x.npy", work / "samples.npz"))
        if case.disk:
            stack.enter_context(_disk(work / OUT, case.disk))
        if case.before is not None:
            case.before(work)
        run = Run(_line(case, one), work, _injections(case, one), dict(case.variables))
        outcome = run.outcome()
        finals, whole = results(one, work, expected)
    row = {"fault": case.fault, "command": case.command, "detail": case.detail}
    row |= {**asdict(outcome), "finals": finals}
    return {**row, "wrong": wrong(row, case, one, whole)}


@contextmanager
def _kept(*paths: Path) -> Iterator[None]:
    """A block after which files are as they were before."""
    contents = {path: path.read_bytes() for path in paths}
    yield
    for path, content in contents.items():
        if not path.exists() or path.read_bytes() != content:
            path.unlink(missing_ok=True)
            path.write_bytes(content)


def _line(case: Case, one: Command) -> list[str]:
    """The command line, with memory that ranks share of a size of its own where that is the fault."""
    ranks = case.ranks if case.ranks is not None else RANKS * one.launched
    line = command(case.words or one.words(RANKS), ranks)
    if case.fault != _SMALL_MEMORY:
        return line
    size = case.detail.partition(",")[0]
    mount = f'mount -t tmpfs -o size={size} none /dev/shm && exec "$@"'
    return ["unshare", "-m", "sh", "-c", mount, "-", *line]


def _injections(case: Case, one: Command) -> list[Injection]:
    if not case.code:
        return []
    if not case.phase:
        return [Injection("", f"{_PRELUDE}{case.code}\n{NOTE}")]
    place = one.places[case.phase]
    return [Injection(place.function, f"{_PRELUDE}{case.code}\n{NOTE}", place.call, process=one.process(0))]


@contextmanager
def _disk(place: Path, options: str) -> Iterator[None]:
    """A file system of its own in memory; only root can make one."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", str(place)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def _fill(work: Path) -> None:
    exec(compile(f"{_PRELUDE}{_FILL.replace('out/', f'{work}/{OUT}/')}", "fill", "exec"), {})


def wrong(row: dict[str, Any], case: Case, one: Command, whole: bool) -> list[str]:
    """What is not as it should be."""
    good = row["status"] == 0
    found = {
        "the fault did not happen": bool(case.code) and not row["reached"],
        # A table with a row that cannot be measured is filled with the others first.
        f"took {row['seconds']} s": row["seconds"] > WITHIN and not (one.stays and not case.code),
        "status 0": good and not case.may_succeed,
        f"{row['messages']} messages": row["messages"] != (0 if good else 1),
        "a traceback": row["traceback"],
        f"there: {', '.join(row['finals'])}": bool(row["finals"]) and not good and not one.stays,
        "a part of a result": not whole,
        f"{row['left']} processes left": row["left"] > 0,
        f"{row['temporary']} temporary files": row["temporary"] > 0,
    }
    return [text for text, so in found.items() if so]
