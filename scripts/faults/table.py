"""Tables of docs/trust.md, from the rows of all parts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

Row = dict[str, Any]


def tables(parts: dict[str, list[Row]]) -> str:
    """The tables of those parts that have rows, and what was not as it should be."""
    sections = [
        ("Signals to a process", _signals(parts["signals"])),
        ("Files, disks, ranks and limits", _files(parts["files"])),
        ("Two runs at once", _both(parts["both"])),
        ("The launcher is killed", _launcher(parts["launcher"])),
        ("Killed and resumed", _resumption(parts["resumption"])),
        ("A long run", _soak(parts["soak"])),
    ]
    text = [f"### {title}\n\n{table}" for title, table in sections if table]
    return "\n".join([*text, "### Not as it should be\n", _failures(parts)]) + "\n"


def _signals(rows: Sequence[Row]) -> str:
    keys = list(dict.fromkeys((row["command"], row["signal"]) for row in rows))
    lines = []
    for command, signal in sorted(keys, key=lambda key: [k for k, _ in keys].index(key[0])):
        some = [row for row in rows if (row["command"], row["signal"]) == (command, signal)]
        ranks = _listed(row["ranks"] for row in some)
        found = [ranks, len(some), *_common(some), sum(row["kept"] for row in some), _failed(some)]
        lines.append([command, signal, *found])
    titles = ["command", "signal", "ranks", "runs", *_COMMON, "after the next run", "not as it should be"]
    return _table(titles, lines)


def _files(rows: Sequence[Row]) -> str:
    lines = []
    for fault, command in dict.fromkeys((row["fault"], row["command"]) for row in rows):
        some = [row for row in rows if (row["fault"], row["command"]) == (fault, command)]
        lines.append([fault, command, len(some), *_common(some), _failed(some)])
    return _table(["fault", "command", "runs", *_COMMON, "not as it should be"], lines)


_COMMON = ["seconds", "status", "our messages", "MPI's", "results", "processes", "temporary"]


def _common(rows: Sequence[Row]) -> list[object]:
    """The longest time, every status and number of messages, and sums of what is left."""
    return [
        f"{max(row['seconds'] for row in rows):.1f}",
        _listed(row["status"] for row in rows),
        _listed(row["messages"] for row in rows),
        sum(row["launcher"] for row in rows),
        sum(bool(row["finals"]) for row in rows),
        sum(row["left"] for row in rows),
        sum(row["temporary"] for row in rows),
    ]


def _both(rows: Sequence[Row]) -> str:
    lines = [
        [
            row["command"],
            row["order"],
            *(f"{a}, {b}" for a, b in (row["status"], row["messages"])),
            _failed([row]),
        ]
        for row in rows
    ]
    return _table(["command", "how they meet", "status", "messages", "not as it should be"], lines)


def _launcher(rows: Sequence[Row]) -> str:
    lines = [
        [
            row["command"],
            row["ranks"],
            row["signal"],
            f"{row['seconds']:.1f}",
            row["status"],
            row["messages"],
            row["left"],
            _failed([row]),
        ]
        for row in rows
    ]
    titles = [
        "command",
        "ranks",
        "signal",
        "seconds",
        "status",
        "our messages",
        "processes",
        "not as it should be",
    ]
    return _table(titles, lines)


def _resumption(rows: Sequence[Row]) -> str:
    lines = [
        [row["command"], row["kills"], row["finished"], row["different"], f"{row['seconds_whole']:.1f}"]
        for row in rows
    ]
    return _table(["command", "kills", "results", "other bits", "seconds of a whole run"], lines)


def _soak(rows: Sequence[Row]) -> str:
    lines = [
        [
            row["ranks"],
            f"{row['batches']:,}",
            f"{row['seconds']:.0f}",
            row["mib"],
            f"{row['memory_growth']:.2%}",
            row["files_more"],
            row["threads_more"],
        ]
        for row in rows
    ]
    titles = ["ranks", "batches", "seconds", "MiB of a rank", "growth", "more files", "more threads"]
    return _table(titles, lines)


def _failures(parts: dict[str, list[Row]]) -> str:
    lines = [
        [row["name"], "; ".join(row["wrong"])] for rows in parts.values() for row in rows if row["wrong"]
    ]
    return _table(["run", "found"], lines) or "Nothing.\n"


def _failed(rows: Sequence[Row]) -> int:
    return sum(bool(row["wrong"]) for row in rows)


def _listed(values: Iterable[int]) -> str:
    return ", ".join(map(str, sorted(set(values))))


def _table(titles: Sequence[str], lines: Sequence[Sequence[object]]) -> str:
    if not lines:
        return ""
    cells = [titles, ["---"] * len(titles), *lines]
    return "".join(f"| {' | '.join(str(cell).replace('|', '/') for cell in line)} |\n" for line in cells)
