"""Random legal graphs: the importer is right, or refuses them (scripts/fuzz_import.py has more of them)."""

from collections import Counter

import pytest

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

import fuzz_import  # noqa: E402

from helpers.random_graphs import random_graph  # noqa: E402
from repurpose_hpc.model import forward  # noqa: E402

COUNT = 50


@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, 6 * COUNT, COUNT))
def test_nothing_is_wrong(first):
    verdicts = {
        number: fuzz_import.judge(number, steps=3 + number % 4) for number in range(first, first + COUNT)
    }
    assert {number: each for number, each in verdicts.items() if each[0].isupper()} == {}
    assert Counter(verdict for verdict, _ in verdicts.values())["right"] >= COUNT // 4


def test_a_number_is_a_graph():
    first, compared = random_graph(7)
    again, _ = random_graph(7)
    assert first == again and compared == random_graph(7)[1]
    onnx.checker.check_model(first)
    assert random_graph(8)[0] != first


def test_a_wrong_network_is_wrong(monkeypatch):
    number = next(number for number in range(COUNT) if fuzz_import.judge(number, steps=2)[0] == "right")
    right = forward.forward
    monkeypatch.setattr(forward, "forward", lambda network, x: 1.001 * right(network, x))
    verdict, reason = fuzz_import.judge(number, steps=2)
    assert verdict == "WRONG" and "sample 0" in reason
