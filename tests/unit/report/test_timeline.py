"""The one inference of a trace that is looked at."""

import pytest

from repurpose_hpc.report.pictures.time import inference
from repurpose_hpc.report.timeline import Call, read_timeline


def event(rank, category, began, took, name="", **about):
    return {
        "ph": "X",
        "pid": rank,
        "tid": 1,
        "name": name,
        "cat": category,
        "ts": began,
        "dur": took,
        "args": about,
    }


def batches(lengths):
    """Batches of two ranks one after the other, each with a call; other slices around them."""
    events, began = [event(0, "load", 0, 5, "load"), {"ph": "M", "pid": 0, "name": "process_name"}], 10.0
    for number, length in enumerate(lengths):
        for rank in (0, 1):
            events.append(event(rank, "batch", began + rank, length, f"batch {number}"))
            events.append(event(rank, "layer", began + rank, length, "one"))
            events.append(event(rank, "wait", began + 2 * rank, length - 2, "wait", layer="one"))
        began += length + 10
    return events


def test_the_batch_of_median_duration_is_looked_at():
    timeline = read_timeline(batches([90.0, 20.0, 30.0]))
    assert (timeline.name, timeline.batches) == ("batch 2", 3)
    assert timeline.calls == [Call(0, "one", "wait", 0.0, 28.0), Call(1, "one", "wait", 2.0, 28.0)]
    assert timeline.span == 30.0 and timeline.ranks == [0, 1]


def test_without_batches_all_is_one_inference():
    timeline = read_timeline([event(3, "compute", 7, 2, "layer"), event(1, "pack", 5, 1, "layer")])
    assert timeline.calls == [Call(3, "layer", "compute", 2.0, 2.0), Call(1, "layer", "pack", 0.0, 1.0)]
    assert (timeline.name, timeline.ranks) == ("", [1, 3])


def test_what_ranks_do_for_other_batches_meanwhile_is_told():
    """Two stages: rank 1 is at a batch while rank 0 is at the next one."""
    events = []
    for number in range(3):
        for rank in (0, 1):
            began = 100.0 * (number + rank)
            events.append(event(rank, "batch", began, 90, f"batch {number}"))
            events.append(event(rank, "compute", began, 90, "dense", layer="one"))
    timeline = read_timeline(events)
    assert (timeline.name, timeline.span) == ("batch 1", 190.0)
    assert timeline.elsewhere == 180.0  # rank 1 at batch 0, and rank 0 at batch 2
    assert read_timeline(batches([90.0, 20.0, 30.0])).elsewhere == 0.0
    (picture,) = inference(timeline)
    assert (
        picture.title == "A batch takes 190 µs; meanwhile ranks are at other batches for 47.4 % of their time"
    )


@pytest.mark.parametrize(
    "change", [{"ts": float("nan")}, {"dur": -1}, {"dur": "1"}, {"pid": 1.5}, {"name": None}]
)
def test_other_events_are_refused(change):
    with pytest.raises(ValueError, match="an event of its trace has the"):
        read_timeline([event(0, "compute", 1, 2, "layer") | change])
