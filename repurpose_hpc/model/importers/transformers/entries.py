"""What a file says of a model, its entries checked as they are asked for."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from repurpose_hpc.errors import UserError


@dataclass(frozen=True, eq=False)
class Entries:
    """The entries of a file.

    Attributes:
        path: of the file.
        entries: their values by name.
        asked: names of those that were asked for.
    """

    path: Path
    entries: dict[str, Any]
    asked: set[str] = field(default_factory=set)

    def value(self, name: str) -> Any:
        """An entry as it is; None where it is missing."""
        self.asked.add(name)
        return self.entries.get(name)

    def error(
        self, name: str, expected: str, remedy: str = "check the file, or save the model again"
    ) -> UserError:
        """The refusal of an entry."""
        return UserError(
            f"{self.path}: {name}: expected {expected}, found {self.entries.get(name)!r}; {remedy}"
        )

    def integer(self, name: str, default: int | None = None) -> int:
        """A positive integer; ``default`` where it is missing or null.

        Raises:
            UserError: it is none.
        """
        value = self.value(name)
        value = default if value is None else value
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise self.error(name, "a positive integer")
        return value

    def number(self, name: str, default: float | None = None) -> float:
        """A positive number, likewise.

        Raises:
            UserError: it is none.
        """
        value = self.value(name)
        value = default if value is None else value
        if not isinstance(value, (int, float)) or not 0 < value < math.inf:
            raise self.error(name, "a positive number")
        return float(value)

    def require(self, name: str, *allowed: Any) -> None:
        """Refuse a file in which an entry is there and has another value.

        Raises:
            UserError: names it.
        """
        if self.value(name) not in allowed and name in self.entries:
            words = " or ".join(map(repr, allowed))
            raise self.error(name, words, "models of this kind are not supported otherwise")
