"""What stands beside samples, once it is known what it means; ``model.labels`` has the rules."""

from __future__ import annotations

from dataclasses import dataclass

CLASSES, MULTILABEL, TARGETS, LEFT_ALONE = "classes", "multilabel", "targets", ""


@dataclass(frozen=True)
class Meaning:
    """What ``y`` is to a network.

    Attributes:
        kind: ``CLASSES``, ``MULTILABEL`` or ``TARGETS``; ``LEFT_ALONE``: nothing.
        note: how that was seen, one line.
    """

    kind: str
    note: str

    def findings(self) -> dict[str, str]:
        """Both under the names of the reports."""
        return {"labels": self.kind or "left alone", "labels_note": self.note}

    @property
    def line(self) -> str:
        """Both in one line for people."""
        return f"{self.kind or 'left alone'}: {self.note}"
