"""Pictures of tables, drawn where matplotlib is there."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from repurpose_hpc.io.progress import say
from repurpose_hpc.io.speech import says_text


def draw(path: Path, plot: str, data: object, if_empty: str) -> None:
    """Draw the picture of a table, or say why there is none.

    Args:
        path: of the picture.
        plot: module whose ``draw`` makes it; it needs matplotlib.
        data: handed to it.
        if_empty: why it may have had nothing to draw.
    """
    try:
        module = import_module(plot)
    except ImportError as error:
        say(
            f"{path} was not drawn: {error}; pip install 'repurpose-hpc[plot]' and run the same command "
            "again: it computes nothing anew"
        )
        return
    text = f"drawn in {path}" if module.draw(path, data) else f"nothing to draw: {if_empty}"
    if says_text():
        print(text, flush=True)
