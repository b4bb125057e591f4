"""What an interrupted restructuring had finished, kept on disk until it is complete.

One ``.npz`` for each mixing, written when the mixing is done, in a directory whose name says what the run
depends on: a run with the same model, data and options goes on after the last of them, any other
starts anew.  The result is the same, bit for bit.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from repurpose_hpc.io.atomic import temporary_name, writing


class Checkpoint:
    """The finished mixings of one run.

    Args:
        directory: of all runs for one output; made when first needed.
        parts: what the run depends on, JSON values.
    """

    def __init__(self, directory: Path, parts: Mapping[str, object]) -> None:
        key = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
        self.directory = directory / key

    def load(self, name: str) -> dict[str, np.ndarray] | None:
        """What was saved for mixing ``name``; None if nothing was, or it is damaged."""
        try:
            with np.load(self._path(name), allow_pickle=False) as arrays:
                return dict(arrays)
        except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error):
            return None

    def save(self, name: str, arrays: Mapping[str, np.ndarray]) -> None:
        """Save the arrays of a finished mixing.

        Raises:
            UserError: they cannot be written.
        """
        path = self._path(name)
        with writing(path):
            self.directory.mkdir(parents=True, exist_ok=True)
            temporary = temporary_name(path, 0)
            with open(temporary, "wb") as file:
                np.savez(file, **arrays)
            temporary.replace(path)

    def _path(self, name: str) -> Path:
        return self.directory / (hashlib.sha256(name.encode()).hexdigest()[:16] + ".npz")
