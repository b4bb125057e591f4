"""Progress of long work: when it is told, what is left of it, and what stays on a terminal."""

from io import StringIO
from unittest import mock

import pytest

from repurpose_hpc.errors import PREFIX, UserError
from repurpose_hpc.io import progress
from repurpose_hpc.io.progress import Countdown, Progress, TimeLeft
from repurpose_hpc.io.speech import Speech, choose
from repurpose_hpc.mpi.agreement import report_failure


class Terminal(StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock():
    """A clock that the test sets."""
    times = [100.0]
    with mock.patch.object(progress, "perf_counter", lambda: times[0]):
        yield times


def told(stream, clock, seconds, total=1000, first=0, unit="samples"):
    """What is printed when so much is done after so many seconds each, at an even pace."""
    countdown = Countdown(Progress(stream=stream), unit, total, first)
    for done, at in seconds:
        clock[0] = 100.0 + at
        countdown(done)
    return stream.getvalue()


def test_short_work_has_no_lines(clock):
    assert told(StringIO(), clock, [(250, 1.0), (500, 2.0), (1000, 4.0)]) == ""


def test_a_log_file_has_a_line_now_and_then(clock):
    pace = [(done, done / 10) for done in range(10, 1001, 10)]
    lines = told(StringIO(), clock, pace).splitlines()
    assert [line.split("s  ")[1] for line in lines] == [
        "50 of 1,000 samples, about 1 min 35 s left ...",
        "350 of 1,000 samples, about 1 min 5 s left ...",
        "650 of 1,000 samples, about 35 s left ...",
        "950 of 1,000 samples, about 5 s left ...",
        "1,000 of 1,000 samples",
    ]


def test_on_a_terminal_one_line_takes_the_place_of_the_other(clock):
    text = told(Terminal(), clock, [(60, 6.0), (70, 7.0), (1000, 100.0)])
    first, second, last = text.split("\r\x1b[K")
    assert "60 of 1,000" in first and "70 of 1,000" in second and last.endswith("1,000 of 1,000 samples\n")
    assert text.count("\n") == 1


def test_what_was_done_before_says_nothing_of_the_pace(clock):
    left = TimeLeft(100, first=90)
    clock[0] += 60
    assert left(90) == "" and left(91) == ", about 9 min 0 s left" and left(95) == ", about 1 min 0 s left"
    assert left(100) == ""
    clock[0] += 36000
    assert left(95) == ", about 10 h 1 min left"


def test_quiet_commands_say_nothing(clock):
    choose(Speech(quiet=True))
    try:
        assert told(StringIO(), clock, [(60, 60.0), (1000, 100.0)]) == ""
    finally:
        choose(Speech())


def test_a_line_that_waits_is_ended_before_an_error(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setenv("NO_COLOR", "1")
    log = Progress()
    log("at work ...")
    report_failure(UserError("no"), 0)
    log("again ...")
    log("done")
    before, error, after = terminal.getvalue().rstrip("\n").split("\n")
    assert before.endswith("at work ...") and error == f"{PREFIX}no"
    assert after.count("\x1b[K") == 1 and after.endswith("done")
