"""Summaries: sizes, numbers and differences as people read them."""

import pytest

from helpers.reports import filled, report_of
from repurpose_hpc.commands import doctor, finetune, splitting
from repurpose_hpc.fields import count
from repurpose_hpc.forecast.summary import spans
from repurpose_hpc.report.schema import Host
from repurpose_hpc.report.text import render, render_restructured, size

PHASES = dict.fromkeys(("import", "jit", "input", "subnets", "passes", "loss", "wait", "total"), 1.0)


@pytest.mark.parametrize(
    ("count", "text"),
    [(304, "304 bytes"), (15_360, "15.4 kB"), (1_855_000, "1.85 MB"), (0, "0 bytes"), (1, "1 byte")],
)
def test_sizes(count, text):
    assert size(count) == text


def test_sizes_and_numbers_of_infer():
    changes = {"samples": 20_000, "batch_size": 4096, "resumed_samples": 1024, "bytes_sent": 15_360}
    text = render(report_of("infer", seconds=PHASES, **changes))
    for part in ("20,000 in batches of 4,096", "; 1,024 of them", " 15.4 kB per sample"):
        assert part in text


def test_sizes_of_split_transformers_and_of_gradients():
    lines = splitting.shards_lines(report_of("restructure split", bytes_sent=15_360, stream="owned"))
    assert "(15.4 kB) for a token" in lines["sent"]
    tuned = report_of("finetune", seconds=PHASES, gradient_bytes=15_360, groups=2)
    assert "; 15.4 kB of gradients" in finetune.render(tuned)


def test_accuracies_have_their_difference_in_points():
    report = report_of("infer", seconds=PHASES, accuracy=0.9287, reference_accuracy=0.93)
    assert "restructured 0.9287, original 0.9300 (-0.13 points), on the input" in render(report)
    del report["reference_accuracy"]
    assert "restructured 0.9287, on the input" in render(report)
    cut = report_of("restructure", accuracy_held_out=0.93, reference_accuracy_held_out=0.93)
    assert "accuracy restructured 0.9300, original 0.9300 (+0.00 points)" in render_restructured(cut)


@pytest.mark.parametrize(
    ("number", "noun", "text"),
    [
        (1, "worker", "1 worker"),
        (0, "point", "0 points"),
        (20_000, "rank", "20,000 ranks"),
        (2, "branch", "2 branches"),
    ],
)
def test_numbers_of_things(number, noun, text):
    assert count(number, noun) == text


def test_summaries_of_one():
    report = report_of("infer", seconds=PHASES, ranks=1, workers=1, groups=1)
    assert ", 1 worker\n" in render(report)
    lines = splitting.shards_lines(report_of("restructure split", stream="owned", workers=1, rounds=1))
    assert lines["split"].startswith("for 1 worker, ") and lines["sent"].endswith("in 1 round")
    host = {"ranks": 1, "threads": 1, "cpus": 1, "host_cpus": 1, "name": "here"}
    assert "1 rank of 1 thread, " in doctor.render(report_of("doctor", hosts=[filled(Host) | host]))


@pytest.mark.parametrize(
    ("chosen", "text"),
    [
        ([], ""),
        ([2], "2"),
        ([2, 4], "2, 4"),
        ([2, 4, 8], "2 to 8"),
        ([2, 4, 8, 10_000], "2 to 10,000"),
        ([2, 8, 10_000], "2, 8, 10,000"),
    ],
)
def test_ranks_that_follow_each_other(chosen, text):
    assert spans(chosen, [1, 2, 4, 8, 10_000]) == text
