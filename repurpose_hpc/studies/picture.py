"""What commands have in common that fill a table point by point in one process: ``study`` and ``scaling``."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path

from repurpose_hpc.errors import UserError


def draw(path: Path, plot: str, what: object, nothing: str) -> None:
    """Draw the picture of a table, or say why there is none.

    Args:
        path: of the picture.
        plot: module whose ``draw`` makes it; it needs matplotlib.
        what: is handed to it.
        nothing: why it may have had nothing to draw.
    """
    try:
        module = import_module(plot)
    except ImportError as error:
        log(
            f"{path} was not drawn: {error}; pip install 'repurpose-hpc[plot]' and run the same command "
            "again: it computes nothing anew"
        )
        return
    print(f"drawn in {path}" if module.draw(path, what) else f"nothing to draw: {nothing}", flush=True)


def one_line(error: Exception) -> str:
    """What failed at a point, for a column of its table."""
    text = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
    return " ".join(text.split())


def log(line: str) -> None:
    """Progress, on stderr."""
    print(line, file=sys.stderr, flush=True)
