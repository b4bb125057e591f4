"""Colours: on a terminal alone, of errors and verdicts alone."""

from io import StringIO

import pytest

from repurpose_hpc.errors import PREFIX
from repurpose_hpc.io.colour import coloured

RED, GREEN, PLAIN = "\x1b[31m", "\x1b[32m", "\x1b[0m"


class Terminal(StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"{PREFIX}no room", f"{RED}{PREFIX.strip()}{PLAIN} no room"),
        ("a\nwarning: few samples", f"a\n{RED}warning:{PLAIN} few samples"),
        (
            "single  9 µs: ONE PROCESS IS FASTER, 2.00 times",
            f"single  9 µs: {RED}ONE PROCESS IS FASTER{PLAIN}, 2.00 times",
        ),
        ("9 µs: 8 ranks are 1.93 times faster", f"9 µs: {GREEN}8 ranks are 1.93 times faster{PLAIN}"),
        ("nothing to complain of", f"{GREEN}nothing to complain of{PLAIN}"),
        ("no error: all is well", "no error: all is well"),
    ],
)
def test_on_a_terminal(text, expected):
    assert coloured(text, Terminal(), {}) == expected
    for stream, environ in (
        (StringIO(), {}),
        (Terminal(), {"NO_COLOR": "1"}),
        (Terminal(), {"TERM": "dumb"}),
    ):
        assert coloured(text, stream, environ) == text
    assert coloured(text, Terminal(), {"NO_COLOR": ""}) == expected
