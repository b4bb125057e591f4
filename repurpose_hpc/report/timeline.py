"""One inference of a trace: what every rank did at which time.

A trace has Chrome's events.  Complete ones (``X``) whose category is a phase are calls, in the layer that
``args`` or their name tells; ``pid`` is the rank.  If there are slices of batches, one batch is looked at:
that of median duration, as the first ones are slower.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from typing import Any, NamedTuple

from repurpose_hpc.report.schema import problems

PHASES = ("compute", "pack", "exchange", "wait")
_BATCH = "batch"
Event = dict[str, Any]


class Call(NamedTuple):
    """A call of one rank; times are microseconds since the inference began on the first rank."""

    rank: int
    layer: str
    phase: str
    began: float
    took: float

    @property
    def ended(self) -> float:
        """When it ended."""
        return self.began + self.took


@dataclass(frozen=True)
class Timeline:
    """The calls of one inference.

    Attributes:
        calls: one or more.
        name: of the batch; "": the trace does not say.
        batches: that the trace has.
        elsewhere: microseconds, of all ranks together, in which they were at other batches meanwhile, as
            those of other stages are.
    """

    calls: list[Call]
    name: str
    batches: int
    elsewhere: float = 0.0

    @property
    def ranks(self) -> list[int]:
        """Ranks that called something, ascending."""
        return sorted({call.rank for call in self.calls})

    @property
    def span(self) -> float:
        """Microseconds from the first beginning to the last end."""
        return max(call.ended for call in self.calls)


def read_timeline(events: list[Event]) -> Timeline:
    """The timeline of one inference.

    Raises:
        ValueError, KeyError, TypeError, AttributeError: there is no call, or events are not as they should
            be.
    """
    slices = [event for event in events if event.get("ph") == "X"]
    for event in slices:
        _check(event)
    batches = defaultdict(list)
    for event in slices:
        if event["cat"] == _BATCH:
            batches[event["name"]].append(event)
    name = sorted(batches, key=lambda name: _length(batches[name]))[len(batches) // 2] if batches else ""
    of_phases = [event for event in slices if event["cat"] in PHASES]
    calls = [event for event in of_phases if _is_in(event, batches.get(name))]
    if not calls:
        raise ValueError(f"its trace has no calls: complete events of the categories {', '.join(PHASES)}")
    origin = min(event["ts"] for event in calls)
    end = max(event["ts"] + event["dur"] for event in calls)
    elsewhere = sum(_overlap(event, origin, end) for event in of_phases) - sum(
        event["dur"] for event in calls
    )
    return Timeline([_call(event, origin) for event in calls], name, len(batches), float(elsewhere))


def _overlap(event: Event, begin: float, end: float) -> float:
    """Microseconds of an event between two times."""
    return max(0.0, min(event["ts"] + event["dur"], end) - max(event["ts"], begin))


def _check(event: Event) -> None:
    times = (event["ts"], event["dur"])
    if any(problems(time, float) or not math.isfinite(time) for time in times) or times[1] < 0:
        raise ValueError(f"an event of its trace has the times {times}")
    kinds = {"pid": int, "name": str, "cat": str}
    for name, kind in kinds.items():
        if problems(event[name], kind):
            raise ValueError(f"an event of its trace has the {name} {event[name]!r}")


def _length(events: list[Event]) -> float:
    """Microseconds from the first beginning to the last end."""
    return max(event["ts"] + event["dur"] for event in events) - min(event["ts"] for event in events)


def _is_in(event: Event, batch: list[Event] | None) -> bool:
    """Whether an event is part of what its rank did for a batch; None: of whatever."""
    return batch is None or any(
        event["pid"] == of_rank["pid"] and of_rank["ts"] <= event["ts"] <= of_rank["ts"] + of_rank["dur"]
        for of_rank in batch
    )


def _call(event: Event, origin: float) -> Call:
    layer = event.get("args", {}).get("layer", event["name"])
    return Call(event["pid"], str(layer), event["cat"], float(event["ts"] - origin), float(event["dur"]))
