"""The parts of the proof by faults that start no process."""

import h5py
import numpy as np
import pytest
import trust
from faults import both, files, launcher, resumption, signals, soak
from faults.results import content, is_whole
from faults.soak import Seen, growth
from faults.table import tables

ROWS = [
    {"name": "a", "command": "infer", "signal": "SIGKILL", "phase": "load", "ranks": ranks, "rank": 1}
    | {"seconds": ranks / 10, "status": 9, "messages": 0, "launcher": True, "finals": [], "left": 0}
    | {"temporary": 1, "kept": 0, "wrong": ["took | long"] * (ranks == 4)}
    for ranks in (2, 4)
]


@pytest.mark.parametrize("part", [both, files, launcher, resumption, signals, soak])
def test_rows_have_names_of_their_own(part):
    names = [case.name for case in part.cases()]
    assert names and len(set(names)) == len(names)


def test_every_signal_meets_every_phase_of_every_command():
    cases = list(signals.cases())
    assert {case.command for case in cases} == set(signals.COMMANDS)
    phases = {(case.phase, case.signal) for case in cases if case.command == "infer" and case.ranks == 8}
    expected = {"before MPI", "import", "load", "first exchange", "mid-stream", "writing"}
    assert phases == {(phase, signal) for phase in expected for signal in signals.SIGNALS}


def test_outputs_of_which_rows_are_zero_are_not_whole(tmp_path):
    y = np.arange(1.0, 13).reshape(4, 3)
    for name, rows in (("y", y), ("zeros", y * [[1], [1], [0], [1]]), ("short", y[:3])):
        with h5py.File(tmp_path / f"{name}.h5", "w") as file:
            file["y"] = rows
    expected = content(tmp_path / "y.h5")
    assert is_whole(tmp_path / "y.h5", expected)
    assert not is_whole(tmp_path / "zeros.h5", expected) and not is_whole(tmp_path / "short.h5", expected)
    (tmp_path / "y.h5").write_bytes((tmp_path / "y.h5").read_bytes()[:600])
    assert not is_whole(tmp_path / "y.h5", expected)


def test_shards_are_whole_with_all_their_files(tmp_path):
    for name in ("plan.h5", "worker-0000.h5"):
        (tmp_path / name).write_bytes(name.encode())
    expected = content(tmp_path)
    assert is_whole(tmp_path, expected)
    (tmp_path / "worker-0000.h5").write_bytes(bytes(14))
    assert not is_whole(tmp_path, expected)
    (tmp_path / "worker-0000.h5").unlink()
    assert not is_whole(tmp_path, expected)


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("budget,loss,seconds,error\n0.5,1,9,\n", True),
        ("budget,loss,seconds,error\n0.5,1,9,\n0.2,,8,failed\n", True),
        ("budget,loss,seconds,error\n", True),
        ("budget,loss,seconds,error\n0.5,2,9,\n", False),
        ("budget,loss,seconds,error\n0.5,1", False),
    ],
)
def test_a_table_is_whole_with_some_of_its_rows(tmp_path, text, whole):
    table = tmp_path / "study.csv"
    table.write_text("budget,loss,seconds,error\n0.5,1,3,\n0.2,2,4,\n")
    expected = content(table)
    table.write_text(text)
    assert is_whole(table, expected) == whole


def test_growth_is_that_of_the_worst_rank_after_warming_up():
    steady = [Seen(100 * index, 5, 2) for index in range(1, 11)] + [Seen(1000, 5, 2)] * 90
    grows = steady[:60] + [Seen(1100, 7, 2)] * 40
    assert growth({1: steady})["memory_growth"] == 0
    found = growth({1: steady, 2: grows})
    assert found["memory_growth"] == pytest.approx(0.1) and found["files_more"] == 2
    assert found["threads_more"] == 0 and found["looks"] == 100


def test_tables_gather_runs_and_name_what_is_wrong():
    text = tables({part: ROWS if part == "signals" else [] for part in trust.PARTS})
    assert "| infer | SIGKILL | 2, 4 | 2 | 0.4 | 9 | 0 | 2 | 0 | 0 | 2 | 0 | 1 |" in text
    assert "| a | took / long |" in text and "Two runs" not in text
    assert "Nothing." in tables(dict.fromkeys(trust.PARTS, []))


def test_a_second_call_measures_only_what_is_missing(tmp_path, monkeypatch):
    page, measured = tmp_path / "page.md", []
    page.write_text("before\n<!-- faults -->\nold\n<!-- end -->\nafter\n")

    class Part:
        @staticmethod
        def cases():
            return [launcher.Case("infer", ranks, "SIGINT") for ranks in (2, 4)]

        @staticmethod
        def measure(case, folder):
            measured.append(case.ranks)
            return {**ROWS[0], "name": case.name, "ranks": case.ranks}

    monkeypatch.setattr(trust, "PAGE", page)
    monkeypatch.setattr(trust, "PARTS", {**dict.fromkeys(trust.PARTS, _Nothing), "launcher": Part})
    for words in (["launcher", "--only", "/2/"], []):
        monkeypatch.setattr("sys.argv", ["trust.py", str(tmp_path), *words])
        trust.main()
    assert measured == [2, 4]
    text = page.read_text()
    assert text.startswith("before\n<!-- faults -->\n") and text.endswith("<!-- end -->\nafter\n")
    assert "| infer | 4 | SIGKILL |" in text


class _Nothing:
    @staticmethod
    def cases():
        return []
