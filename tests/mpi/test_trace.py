"""Traces: all ranks are there, slices nest, and times add up to the seconds that programs count."""

import json
from collections import Counter, defaultdict
from unittest import mock

import numpy as np
import pytest
from mpi4py import MPI

from helpers import small_plans
from helpers.programs import make_program, run_program
from repurpose_hpc.report.trace import BATCH, LAYER, document
from repurpose_hpc.runtime import recorder as recording
from repurpose_hpc.runtime.calls import COMPUTE, EXCHANGE, PACK, PHASES, UNPACK, WAIT
from repurpose_hpc.runtime.exchange.transports import available
from repurpose_hpc.runtime.recorder import Recorder
from repurpose_hpc.runtime.resources import Formats

pytestmark = pytest.mark.mpi

COMM = MPI.COMM_WORLD
SAMPLES, BATCH_SIZE = 11, 4
BATCHES = -(-SAMPLES // BATCH_SIZE)


def recorded(has_room=True, **options):
    """A network, and on the root its trace and numbers of all ranks; outputs are those of a run without."""
    network = small_plans.random_network(head="identity")
    plan = small_plans.random_plan(network, COMM.size + 2, "partitioned", 5)
    plan = small_plans.scaled(network, plan)
    network = small_plans.pruned(network, plan)
    program = make_program(network, plan, BATCH_SIZE, **options)
    x = np.random.default_rng(3).standard_normal((SAMPLES, network.inputs))
    expected = run_program(program, network, x)
    program.reset()
    most = COMM.allreduce(max(schedule.marks for schedule in program._schedules.values()), MPI.MAX)
    with mock.patch.multiple(recording, LEAST_MARKS=1000 * most if has_room else most, MOST_MARKS=0):
        recorder = Recorder(COMM)
    with recorder.span("load"):
        COMM.Barrier()
    recorder.begin(program)
    y = run_program(program, network, x)
    recorder.end(program)
    np.testing.assert_array_equal(y, expected)
    ranks = COMM.gather((program.seconds, program.messages, program.bytes_sent, program.workers))
    program.free()
    if recorder.trace is None:
        return network, None, ranks
    return network, json.loads(json.dumps(document(recorder.trace))), ranks


def slices(trace, rank):
    """Of one rank in order, outer ones first; times in whole nanoseconds."""
    found = [
        {**event, "began": round(1000 * event["ts"]), "ended": round(1000 * (event["ts"] + event["dur"]))}
        for event in trace["traceEvents"]
        if event["ph"] == "X" and event["pid"] == rank
    ]
    return sorted(found, key=lambda event: (event["began"], -event["ended"]))


def check_nesting(of_rank):
    """Every slice is within the one that is open when it begins, and a call's in a layer in a batch."""
    depth = {BATCH: 0, LAYER: 1, **dict.fromkeys((*PHASES, UNPACK), 2)}
    open_slices = []
    for event in of_rank:
        while open_slices and open_slices[-1]["ended"] <= event["began"]:
            open_slices.pop()
        if open_slices:
            assert event["ended"] <= open_slices[-1]["ended"], (event, open_slices[-1])
        if event["ended"] > event["began"] and event["cat"] in depth:
            assert len(open_slices) == depth[event["cat"]], event
        open_slices.append(event)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("options", [{}, {"micro_batches": 2}, {"formats": Formats(comm_dtype="int8")}])
def test_slices_nest_and_add_up(dtype, options):
    network, trace, ranks = recorded(dtype=dtype, **options)
    if trace is None:
        return
    layers = {operation.name for operation in network.operations}
    for rank, (seconds, _, _, workers) in enumerate(ranks):
        of_rank = slices(trace, rank)
        check_nesting(of_rank)
        assert [each["name"] for each in of_rank if each["cat"] == BATCH] == ["batch 0", "batch 1", "batch 2"]
        assert sum(each["args"]["samples"] for each in of_rank if each["cat"] == BATCH) == SAMPLES
        spent = Counter()
        for each in of_rank:
            spent[each["cat"]] += each["ended"] - each["began"]
        spent[PACK] += spent.pop(UNPACK, 0)
        for phase in PHASES:
            # A nanosecond for each time that is rounded.
            assert spent[phase] == pytest.approx(1e9 * seconds[phase], abs=len(of_rank)), phase
        names = {name for each in of_rank if each["cat"] == LAYER for name in each["name"].split(", ")}
        assert names <= layers and {mixing.name for mixing in network.mixings} <= names
        (name,) = (
            event["args"]["name"]
            for event in trace["traceEvents"]
            if event["ph"] == "M" and event["name"] == "process_name" and event["pid"] == rank
        )
        assert name.startswith(f"rank {rank} · worker") and str(workers[0]) in name


@pytest.mark.parametrize("transport", available(COMM))
def test_arrows_lead_from_sending_to_waiting(transport):
    _, trace, ranks = recorded(transport=transport)
    if trace is None:
        return
    sending, waiting = defaultdict(list), defaultdict(list)
    for rank in range(COMM.size):
        for each in slices(trace, rank):
            if each["cat"] in (EXCHANGE, WAIT):
                (sending if each["cat"] == EXCHANGE else waiting)[rank].append(each)
    arrows = [event for event in trace["traceEvents"] if event["ph"] in "sf"]
    begins, ends = (
        {event["id"]: event for event in arrows if event["ph"] == letter} for letter in ("s", "f")
    )
    assert begins.keys() == ends.keys() and len(arrows) == 2 * len(begins)
    # This one has no sending by itself.
    messages = 0 if transport == "alltoallv" else sum(each[1] for each in ranks)
    assert len(begins) == messages * BATCHES
    for number, begin in begins.items():
        end = ends[number]
        source, target = begin["pid"], end["pid"]
        (sent,) = (
            each for each in sending[source] if each["began"] <= 1000 * begin["ts"] + 0.5 < each["ended"] + 1
        )
        assert target in sent["args"]["to"]
        (waited,) = (
            each for each in waiting[target] if each["began"] <= 1000 * end["ts"] + 0.5 < each["ended"] + 1
        )
        assert source in waited["args"]["from"]
    if transport != "alltoallv":
        sent = sum(
            each["args"]["bytes"] for of_rank in sending.values() for each in of_rank if "to" in each["args"]
        )
        assert sent == SAMPLES * sum(each[2] for each in ranks)


def test_a_long_run_is_recorded_in_part():
    """Ranks with fewer calls have room for more, but keep as many as the others."""
    _, trace, ranks = recorded(has_room=False, dtype=np.float32)
    if trace is None:
        return
    assert trace["otherData"]["batches"] == 1 and trace["otherData"]["batches_left_out"] == BATCHES - 1
    for rank, (seconds, *_) in enumerate(ranks):
        of_rank = slices(trace, rank)
        assert [each["name"] for each in of_rank if each["cat"] == BATCH] == ["batch 0"]
        spent = sum(each["dur"] for each in of_rank if each["cat"] == COMPUTE)
        assert 0 < spent < 1e6 * seconds[COMPUTE]
    assert len(trace["otherData"]["clocks"]) == COMM.size
