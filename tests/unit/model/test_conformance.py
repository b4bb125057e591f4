"""The onnx package's own tests (scripts/conformance.py)."""

import pytest

pytest.importorskip("onnx")

import conformance  # noqa: E402


@pytest.mark.slow
@pytest.mark.parametrize("kind", conformance.KINDS)
def test_nothing_is_wrong_and_what_was_right_still_is(kind):
    verdicts = {case.name: conformance.judge(case) for case in conformance.cases(kind)}
    assert {name: each for name, each in verdicts.items() if each[0] not in ("right", "refused")} == {}
    before = {name: verdicts[name] for name in conformance.listed() if name in verdicts}
    assert {name: each for name, each in before.items() if each[0] != "right"} == {}
    assert len(before) >= 50  # those of another version of the package have other names


def test_a_wrong_network_is_wrong(monkeypatch):
    from repurpose_hpc.model import forward

    case = next(case for case in conformance.cases("pytorch") if case.name == "test_Linear")
    assert conformance.judge(case) == ("right", "")
    right = forward.forward
    monkeypatch.setattr(forward, "forward", lambda network, x: 1.001 * right(network, x))
    assert conformance.judge(case)[0] == "WRONG"
