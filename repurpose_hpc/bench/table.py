"""Rows of results: printed as they come, and kept for the report.

A row has its keys first (``n``, ``batch``), then ``spreads``, the times of every candidate, then the numbers
that follow from them.
"""

from __future__ import annotations

from repurpose_hpc.bench.turns import Spread
from repurpose_hpc.io.speech import says_text


class BenchTable:
    """Results of one kind.

    Attributes:
        name: in the report.
        rows: for JSON: keys, ``us`` (candidate -> median, p10, p90, repeats), ``ratios`` (candidate -> its
            time over that of ``base``; above 1: ``base`` is faster), and what else a row has.

    Args:
        name, title: for the report, for people.
        base: the candidate that the others are compared with.
        speaks: whether this rank prints.
    """

    def __init__(self, name: str, title: str, base: str, speaks: bool = True) -> None:
        self.name, self.title, self.base, self._speaks = name, title, base, speaks and says_text()
        self.rows: list[dict] = []
        self._columns: list[str] = []

    def add(self, row: dict) -> None:
        """Add a row and print it."""
        spreads: dict[str, Spread] = row["spreads"]
        base = spreads[self.base].median
        rest = {name: value for name, value in row.items() if name != "spreads"}
        ratios = {name: spread.median / base for name, spread in spreads.items() if name != self.base}
        entry = {
            **rest,
            "us": {name: spread.as_dict() for name, spread in spreads.items()},
            "ratios": {name: round(ratio, 3) for name, ratio in ratios.items()},
        }
        cells = {name: _text(value) for name, value in rest.items()}
        for name, spread in spreads.items():
            cells[name] = f"{spread.median:,.1f}" + (f" ({ratios[name]:.2f})" if name in ratios else "")
        if self._speaks:
            self._print(cells)
        self.rows.append(entry)

    def _print(self, cells: dict[str, str]) -> None:
        """A line of the table; before the first, and where the columns change, their names."""
        if not self.rows:
            print(f"\n{self.title}: medians in microseconds (over that of {self.base})")
        if list(cells) != self._columns:
            self._columns = list(cells)
            print("  ".join(f"{name:>{_width(name)}}" for name in cells))
        print("  ".join(f"{text:>{_width(name)}}" for name, text in cells.items()), flush=True)


def _width(name: str) -> int:
    return max(len(name), 9)


def _text(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
