"""Traces of runs, as files of the Trace Event Format, which Perfetto and chrome://tracing open.

Every rank is a process with one thread.  A batch is a slice with its layers in it, and in these are their
calls, each under the name of its phase.  Arrows lead from where a message is sent to where it is waited for.

Times are whole nanoseconds: Perfetto leaves slices out that overlap by a fraction of one.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from repurpose_hpc import __version__
from repurpose_hpc.errors import Note
from repurpose_hpc.io.atomic import write_text
from repurpose_hpc.io.invocation import signed
from repurpose_hpc.mpi.clocks import Alignment
from repurpose_hpc.runtime.calls import EXCHANGE, Label
from repurpose_hpc.runtime.recorder import Forward, Record, Recorder, Trace

Event = dict[str, Any]
# Categories of slices that are no calls.
BATCH, LAYER, LOAD, OUTPUT = "batch", "layer", "load", "output"
# Of the phases around the forwards; the others are of what comes before.
_OUTPUT_PHASES = ("output", "check")
# The one thread of a process.
_THREAD = 1


class _Message(NamedTuple):
    """What tells a message from all others: batch, exchange, and the ranks of the job at both ends."""

    forward: int
    exchange: int
    source: int
    target: int


def deliver(recorder: Recorder | None, path: Path | None) -> None:
    """Write the trace of a run, if there is one, and say what it leaves out; on the root.

    Raises:
        UserError: it cannot be written.
    """
    if recorder is None or recorder.trace is None or path is None:
        return
    trace = recorder.trace
    write_text(path, json.dumps(document(trace), ensure_ascii=False) + "\n")
    left_out = max(record.left_out for record in trace.records)
    if left_out:
        recorded = max(len(record.forwards) for record in trace.records)
        warnings.warn(
            f"{path} has the first {recorded:,} batches; {left_out:,} more are left out, as viewers open no "
            "larger files",
            Note,
            stacklevel=2,
        )


def document(trace: Trace) -> dict[str, Any]:
    """A trace as it is written."""
    origin = min(
        alignment.by_root(_beginning(record))
        for record, alignment in zip(trace.records, trace.alignments, strict=True)
    ).item()
    ranks = [
        _Rank(rank, record, alignment, origin)
        for rank, (record, alignment) in enumerate(zip(*trace, strict=True))
    ]
    events = [event for rank in ranks for event in rank.events()]
    return {
        "traceEvents": events + _arrows(ranks),
        "displayTimeUnit": "ns",
        "otherData": signed(
            {
                "repurpose_hpc": __version__,
                "ranks": len(ranks),
                "batches": max(len(record.forwards) for record in trace.records),
                "batches_left_out": max(record.left_out for record in trace.records),
                "clock_error_us": 1e6 * max(alignment.bound for alignment in trace.alignments),
                "clocks": [_clock(rank, alignment) for rank, alignment in enumerate(trace.alignments)],
            }
        ),
    }


def _beginning(record: Record) -> np.ndarray:
    """When the first thing was done, (1,)."""
    began = [span.began for span in record.spans] + [forward.began for forward in record.forwards]
    return np.array([min(began, default=np.inf)])


def _clock(rank: int, alignment: Alignment) -> dict[str, float]:
    """How the clock of a rank was aligned, microseconds."""
    return {
        "rank": rank,
        "offset_us": 1e6 * alignment.before.offset,
        "drift_us": 1e6 * alignment.drift,
        "round_trip_us": 2e6 * max(alignment.before.error, alignment.after.error),
        "error_us": 1e6 * alignment.bound,
    }


class _Rank:
    """The events of a rank.

    Attributes:
        rank: of the job.
        sent, awaited: when messages were sent, and when the waiting for them ended, nanoseconds.
    """

    def __init__(self, rank: int, record: Record, alignment: Alignment, origin: float) -> None:
        self.rank, self._record, self._alignment, self._origin = rank, record, alignment, origin
        self.sent: dict[_Message, int] = {}
        self.awaited: dict[_Message, int] = {}

    def events(self) -> Iterator[Event]:
        """All but the arrows, which need those of other ranks."""
        yield from self._names()
        for span in self._record.spans:
            category = OUTPUT if span.name in _OUTPUT_PHASES else LOAD
            yield self._slice(span.name, category, *self._nanoseconds(np.array(span[1:])))
        for number, forward in enumerate(self._record.forwards):
            yield from self._forward(number, forward)

    def _names(self) -> Iterator[Event]:
        workers = self._record.workers
        shown = str(workers[0]) if len(workers) == 1 else f"{workers[0]} to {workers[-1]}"
        name = f"rank {self.rank} · worker{'s' * (len(workers) > 1)} {shown}"
        about: Event = {"ph": "M", "pid": self.rank, "tid": _THREAD}
        yield {**about, "name": "process_name", "args": {"name": name}}
        yield {**about, "name": "process_sort_index", "args": {"sort_index": self.rank}}
        yield {**about, "name": "thread_name", "args": {"name": "forwards"}}

    def _forward(self, number: int, forward: Forward) -> Iterator[Event]:
        began, ended = self._nanoseconds(np.array([forward.began, forward.ended]))
        times = self._nanoseconds(forward.times.ravel()).reshape(-1, 2)
        yield self._slice(f"batch {number}", BATCH, began, ended, samples=forward.samples)
        if len(times):
            yield self._slice("inputs", LOAD, began, times[0, 0])
            yield self._slice("outputs", OUTPUT, times[-1, 1], ended)
        calls = zip(forward.labels, times.tolist(), strict=True)
        for (layer, part), group in groupby(calls, lambda call: (call[0].layer, call[0].part)):
            of_layer = list(group)
            yield self._slice(layer, LAYER, of_layer[0][1][0], of_layer[-1][1][1], part=part)
            for label, (call_began, call_ended) in of_layer:
                self._note(number, label, call_began, call_ended)
                about = _about(label, self._record.first)
                yield self._slice(label.category, label.category, call_began, call_ended, **about)

    def _note(self, number: int, label: Label, began: int, ended: int) -> None:
        """Keep the times of the messages of a call, each within its slice."""
        if label.traffic is None or began == ended:
            return
        first, own = self._record.first, self.rank
        for peer in label.traffic.sent:
            self.sent[_Message(number, label.traffic.exchange, own, first + peer)] = began
        for peer in label.traffic.received:
            self.awaited.setdefault(_Message(number, label.traffic.exchange, first + peer, own), ended - 1)

    def _slice(self, name: str, category: str, began: int, ended: int, **about: Any) -> Event:
        times = {"ts": began / 1000, "dur": (ended - began) / 1000}
        place = {"pid": self.rank, "tid": _THREAD}
        return {"name": name, "cat": category, "ph": "X", **times, **place, "args": about}

    def _nanoseconds(self, times: np.ndarray) -> np.ndarray:
        """Times of the rank, since the beginning of all ranks, int64."""
        return np.rint(1e9 * (self._alignment.by_root(times) - self._origin)).astype(np.int64)


def _about(label: Label, first: int) -> dict[str, Any]:
    """What a slice of a call says; ``first`` is the rank of the job that is rank 0 of the group."""
    about: dict[str, Any] = {"layer": label.layer, "call": label.call}
    traffic = label.traffic
    if traffic is None:
        return about
    about["bytes"] = traffic.bytes
    if label.category == EXCHANGE:
        return about | {"values": traffic.values, "to": [first + peer for peer in traffic.sent]}
    return about | {"from": [first + peer for peer in traffic.received]}


def _arrows(ranks: list[_Rank]) -> list[Event]:
    """An arrow for each message whose beginning and end are both recorded."""
    ends = {message: (rank.rank, at) for rank in ranks for message, at in rank.awaited.items()}
    arrows: list[Event] = []
    for rank in ranks:
        for message, at in rank.sent.items():
            if message in ends:
                about = {"name": "message", "cat": "message", "id": len(arrows) // 2 + 1, "tid": _THREAD}
                target, end = ends[message]
                arrows.append({**about, "ph": "s", "pid": rank.rank, "ts": at / 1000})
                arrows.append({**about, "ph": "f", "bp": "e", "pid": target, "ts": end / 1000})
    return arrows
