"""Where the contents of a page come from: command lines, and what a report says beside its pictures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from repurpose_hpc.fields import flag, shown
from repurpose_hpc.io.invocation import KEY, command_line
from repurpose_hpc.report.made import command, option_words
from repurpose_hpc.report.schema import REPORTS, Key, keys
from repurpose_hpc.report.sources import SCALING, SHARDS, STUDY, TRACE, Source
from repurpose_hpc.report.words import cell, clean

# Values of a list that stand in a table, and letters of a text.
_MOST_VALUES = 64

Fact = tuple[str, ...]
"""Name and value; of a report also the meaning."""


@dataclass(frozen=True)
class Origin:
    """Where a source comes from.

    Attributes:
        name: of the source.
        kind: what it is, in words.
        command: that makes it again; "": it does not say.
        facts: what is known of it.
    """

    name: str
    kind: str
    command: str = ""
    facts: list[Fact] = field(default_factory=list)

    @property
    def columns(self) -> tuple[str, ...]:
        """What the facts have beside their names."""
        return ("value", "meaning")[: max(map(len, self.facts), default=1) - 1]


def origin_of(source: Source) -> Origin:
    """The origin of a source."""
    typed = source.origin.get(KEY, "")
    if source.kind in REPORTS:
        return Origin(source.name, f"report of {source.kind}", typed, list(_facts(source)))
    if source.kind == TRACE:
        # Behind the name of the program; those of earlier versions do not say which command it was.
        return Origin(source.name, " of ".join(["trace", *typed.split()[1:2]]), typed)
    if source.kind == SHARDS:
        provenance = clean(source.content.stored.provenance)
        return Origin(source.name, "shards", _restructure(provenance, source.name), _flat(provenance))
    makes = {STUDY: _study, SCALING: _scaling}
    made = makes[source.kind](source) if source.origin else ""
    return Origin(source.name, f"table of {source.kind}", made, _flat(source.origin))


def _restructure(provenance: Mapping[str, Any], directory: str) -> str:
    """The command that makes shards, as far as the plan knows it: it has no names of model and data."""
    known = isinstance(provenance.get("options"), dict)
    return command(provenance, "--out", directory) if known else ""


def _study(source: Source) -> str:
    rows, files = (
        source.content,
        {name: _path(source.origin, name) for name in ("model", "calibration", "test")},
    )
    methods = dict.fromkeys(f"{row['method']}/{row['assignment']}" for row in rows)
    varying = {
        "--workers": dict.fromkeys(row["workers"] for row in rows),
        "--methods": methods,
        "--budgets": dict.fromkeys(row["budget"] for row in rows),
    }
    constant = [word for name in ("input_placement", "seed") for word in (flag(name), str(rows[0][name]))]
    return command_line(
        *("study", files["model"], "--calibration", files["calibration"], "--test", files["test"]),
        *(word for name, values in varying.items() for word in (name, shown(list(values)))),
        *(*constant, "--out", "DIR"),
    )


def _scaling(source: Source) -> str:
    origin, rows = source.origin, source.content
    network = [
        word for name in ("width", "layers") if name in origin for word in (f"--{name}", str(origin[name]))
    ]
    if "model" in origin:
        network = [_path(origin, "model")]
        network += ["--calibration", _path(origin, "calibration")] if "calibration" in origin else []
    measured = {
        "--ranks": sorted({row["ranks"] for row in rows}),
        "--batches": sorted({row["batch"] for row in rows}),
    }
    options = {name: value for name, value in dict(origin.get("options", {})).items() if name != "workers"}
    others = {name: origin[name] for name in ("dtype", "shards", "launcher") if origin.get(name)}
    return command_line(
        *("scaling", str(origin.get("kind", "strong")), *network),
        *(word for name, values in measured.items() for word in (name, shown(values))),
        *option_words(options),
        *(word for name, value in others.items() for word in (f"--{name}", str(value))),
        *("--out", "DIR"),
    )


def _path(origin: Mapping[str, Any], name: str) -> str:
    entry = origin.get(name)
    return str(entry.get("path", name.upper())) if isinstance(entry, dict) else name.upper()


def _facts(source: Source) -> Iterator[Fact]:
    """All keys of a report that have a plain value."""
    meanings: dict[str, Key] = {name: key for name, _, key in keys(REPORTS[source.kind])}
    for name, value in _flat({name: value for name, value in source.content.items() if name != KEY}):
        key = meanings.get(name)
        yield name, value, f"{key.text}{f', {key.unit}' if key.unit else ''}" if key else ""


def _flat(content: Mapping[str, Any], prefix: str = "") -> list[Fact]:
    """Plain values in objects and in objects within them, but for null; short lists too."""
    facts: list[Fact] = []
    for name, value in content.items():
        if isinstance(value, dict):
            facts += _flat(value, f"{prefix}{name}.")
        elif value is not None and (not isinstance(value, list) or _is_short(value)):
            facts.append((f"{prefix}{name}", cell(value)))
    return facts


def _is_short(values: Sequence[Any]) -> bool:
    return 0 < len(values) <= _MOST_VALUES and not any(isinstance(value, (dict, list)) for value in values)
