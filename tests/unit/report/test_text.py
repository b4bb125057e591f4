"""Summaries: sizes, numbers and differences as people read them."""

import pytest

from helpers.reports import report_of
from repurpose_hpc.commands import finetune, splitting
from repurpose_hpc.report.text import render, render_restructured, size

PHASES = dict.fromkeys(("import", "jit", "input", "subnets", "passes", "loss", "wait", "total"), 1.0)


@pytest.mark.parametrize(
    ("count", "text"), [(304, "304 bytes"), (15_360, "15.4 kB"), (1_855_000, "1.85 MB"), (0, "0 bytes")]
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
