"""The arrays of a model directory, read one by one."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from repurpose_hpc.errors import UserError
from repurpose_hpc.io.reading import reading
from repurpose_hpc.model.importers.arrays import as_weights

INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"


class Weights:
    """Arrays by name, in one file or in several that an index lists.

    Args:
        directory: of the model.

    Raises:
        UserError: there are none, the package that reads them is missing, or a file is damaged.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._file_of = _files(directory)
        self._read: set[str] = set()

    def __contains__(self, name: str) -> bool:
        return name in self._file_of

    def array(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        """An array, float32 or float64.

        Raises:
            UserError: it is missing, has another shape, or is not finite.
        """
        if name not in self._file_of:
            raise UserError(
                f"{self.directory}: expected an array {name!r} of shape {shape}, found none; download or "
                "save the model again"
            )
        path = self._file_of[name]
        with _open(path) as file, reading(path, ".safetensors file", "download or save the model again"):
            array = file.get_tensor(name)
        self._read.add(name)
        if array.shape != shape:
            raise UserError(
                f"{path}: {name}: expected shape {shape} as config.json says, found {array.shape}; check "
                "that both belong to one model"
            )
        return as_weights(array, f"{path}: {name}")

    def check_all_read(self, ignored: tuple[str, ...]) -> None:
        """Refuse arrays that nobody has asked for, but for names that end with one of ``ignored``.

        Raises:
            UserError: names the first of them.
        """
        rest = sorted(name for name in self._file_of.keys() - self._read if not name.endswith(ignored))
        if rest:
            raise UserError(
                f"{self._file_of[rest[0]]}: expected the arrays of a model as config.json describes it, "
                f"found {rest[0]!r} besides ({len(rest)} in all); such a part is not supported"
            )


def _files(directory: Path) -> dict[str, Path]:
    """The file of each array."""
    index = directory / INDEX
    if index.is_file():
        with reading(index, "index of .safetensors files", "download the model again"):
            listed = json.loads(index.read_text())["weight_map"]
            return {name: directory / Path(file).name for name, file in listed.items()}
    path = directory / SINGLE
    if not path.is_file():
        raise UserError(
            f"{directory}: expected {SINGLE} or {INDEX} beside config.json, found neither; save the model "
            "with safe_serialization=True"
        )
    with _open(path) as file:
        return dict.fromkeys(file.keys(), path)


def _open(path: Path):  # noqa: ANN202, a type of an optional package
    try:
        import ml_dtypes  # noqa: F401, without it the package refuses bfloat16
        import safetensors
    except ImportError:
        raise UserError(
            f"{path}: reading .safetensors needs a package that is not installed; "
            "pip install 'repurpose-hpc[safetensors]'"
        ) from None
    with reading(path, ".safetensors file", "download or save the model again"):
        return safetensors.safe_open(path, framework="numpy")
