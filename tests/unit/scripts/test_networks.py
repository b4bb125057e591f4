"""The parts of the experiment with trained networks from wheels that need no wheel."""

import subprocess

import networks
import numpy as np
import pytest
from networks import tables
from trained import NETWORKS
from trained.sequences import _ends, _weighted_counts
from trained.sound import share_within, tones
from trained.text import share_read

FREE = {"Apache-2.0", "BSD-2-Clause", "GPL-3.0", "LGPL-3.0", "MIT"}


def test_every_network_is_pinned_and_free():
    for network in NETWORKS.values():
        assert network.licence in FREE
        assert all("==" in wheel for wheel in (network.wheel, *network.needs))
    assert len({networks._file_name(name) for name in NETWORKS}) == len(NETWORKS)


def test_characters_read_are_those_without_edits():
    letters = " abcd".__getitem__
    blank, steps = 0, [1, 1, 0, 1, 2, 2, 0, 3]
    assert share_read(["aabc"], np.array([steps]), letters) == 100
    assert share_read(["aabd"], np.array([steps]), letters) == 75
    assert share_read(["abc"], np.array([[*steps]]), letters) == pytest.approx(100 * 2 / 3)
    assert share_read(["abcd"], np.array([[blank] * 8]), letters) == 0


def test_words_of_dna_are_counted_and_weighted():
    rarity = np.arange(16.0)
    found = _weighted_counts("AACTNGT", rarity, length=2)
    # AA 0, AC 1, CT 7, GT 11; N is in no word.
    expected = np.zeros(16)
    expected[[0, 1, 7, 11]] = [0, 1, 7, 11]
    np.testing.assert_allclose(found, expected / np.linalg.norm(expected), rtol=1e-6)


def test_a_short_file_is_padded_between_its_ends():
    np.testing.assert_array_equal(_ends(b" \x01\x02 ", size=3), [1, 2, 32, 32, 1, 2])
    np.testing.assert_array_equal(_ends(b"\x01", size=2), [1, 256, 256, 1])


def test_a_tone_has_the_pitch_that_is_said():
    sound, pitch = tones(np.random.default_rng(0), 5, 16_000, 100, 400)
    spectrum = np.abs(np.fft.rfft(sound))
    lags = np.fft.irfft(spectrum**2)[:, :400]
    found = 16_000 / (40 + lags[:, 40:].argmax(axis=1))
    # Another period is as good a lag.
    octaves = np.maximum(1, np.round(pitch / found))
    assert share_within(found * octaves, pitch) == 100


def test_the_table_says_what_runs_and_why_the_others_do_not():
    first, second, third = list(NETWORKS.values())[:3]
    done = {"original": 90.0, "1": 90.0, "0.2": 80.0, "0.05": 70.0, "difference": 1e-6, "verified": 2e-7}
    late = {key: done[key] for key in ("original", "1", "difference", "verified")} | {"reason": "too late"}
    rows = [(first, done), (second, late), (third, {"reason": "no | such"})]
    summary, runs, fails = tables(rows).split("\n\n")
    assert summary == (
        "Of 3 networks of 1 wheels, 2 networks of 1 wheels run, 1 networks of 1 wheels at all budgets."
    )
    assert runs.splitlines()[2].startswith(f"| {first.name} |")
    assert runs.splitlines()[2].endswith("| 90 | 90 | 80 | 70 | 1e-06 | 2e-07 |")
    assert runs.splitlines()[3].endswith("| 90 | 90 | too late | too late | 1e-06 | 2e-07 |")
    assert fails.splitlines()[2].startswith(f"| {third.name} |")
    assert fails.splitlines()[2].endswith("|  | no / such |")


def test_a_second_call_measures_only_what_is_missing(tmp_path, monkeypatch):
    done, missing = list(NETWORKS)[:2]
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- networks -->\nold\n<!-- end -->\nafter\n")
    measured = []

    def measure(network, place, args):
        measured.append(network.name)
        place.mkdir()
        networks._write(place, {"reason": "none", "finished": True})

    for name, value in (
        ("PAGE", page),
        ("NETWORKS", {name: NETWORKS[name] for name in (done, missing)}),
        ("_measure_apart", measure),
    ):
        monkeypatch.setattr(networks, name, value)
    place = tmp_path / networks._file_name(done)
    place.mkdir()
    networks._write(place, {"reason": "x", "finished": True})
    monkeypatch.setattr("sys.argv", ["networks.py", str(tmp_path)])
    networks.main()
    assert measured == [missing]
    assert page.read_text().startswith("before\n<!-- networks -->\nOf 2 networks of ")
    assert page.read_text().endswith("|\n<!-- end -->\nafter\n")


def test_one_that_took_too_long_goes_on_where_it_was(tmp_path, monkeypatch):
    name, network = next(iter(NETWORKS.items()))
    place = tmp_path / networks._file_name(name)
    place.mkdir()
    networks._write(place, {"original": 90.0, "reason": "took more than 1 s", "finished": True})
    monkeypatch.setattr(networks, "install", lambda network, path: None)

    def finish(command, variables, seconds):
        row = networks._read(place)
        assert row["original"] == 90
        networks._write(place, {**row, "1": 90.0})
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(networks.environment, "run", finish)
    for extra, reason in (([], "took more than 1 s"), (["--again"], "")):
        monkeypatch.setattr("sys.argv", ["networks.py", str(tmp_path), name, *extra])
        networks.main()
        assert networks._read(place)["reason"] == reason
    assert networks._read(place)["1"] == 90
