"""Find the first difference between two HDF5 files, bit by bit."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np

# Of attributes, and of entries in datasets that are JSON: they say how and when something was made.
PROVENANCE = {"options", "versions", "seconds"}


def first_difference(base: Path, working: Path) -> str:
    """The first difference between two files, or between the files of two folders; empty if there is none.

    Args:
        base: file or folder of the base commit.
        working: that of the working tree.
    """
    if base.is_file():
        return _of_files(base, working)
    if difference := _of_names(
        {path.name for path in base.iterdir()}, {path.name for path in working.iterdir()}
    ):
        return difference
    # Shards first: the plan has their digests, which say only that something is different.
    for path in sorted(base.iterdir(), key=lambda path: (path.name == "plan.h5", path.name)):
        if difference := _of_files(path, working / path.name):
            return f"{path.name}: {difference}"
    return ""


def _of_files(base: Path, working: Path) -> str:
    with h5py.File(base) as first, h5py.File(working) as second:
        left, right = _objects(first), _objects(second)
        if difference := _of_names(set(left), set(right)):
            return difference
        # Attributes afterwards: one of them identifies the plan, which says only that something is different.
        for compared in (_of_contents, _of_attributes):
            for name in left:
                if difference := compared(left[name], right[name]):
                    return f"{name}{difference}"
    return ""


def _objects(file: h5py.File) -> dict[str, h5py.Group | h5py.Dataset]:
    objects = {"/": file}
    file.visititems(lambda name, item: objects.update({f"/{name}": item}))
    return objects


def _of_names(base: set[str], working: set[str]) -> str:
    if base == working:
        return ""
    name = min(base ^ working)
    return f"{name} only in {'the base' if name in base else 'the working tree'}"


def _of_contents(base: h5py.Group | h5py.Dataset, working: h5py.Group | h5py.Dataset) -> str:
    if isinstance(base, h5py.Dataset) != isinstance(working, h5py.Dataset):
        return ": a dataset on one side, a group on the other"
    return _of_values(base[()], working[()]) if isinstance(base, h5py.Dataset) else ""


def _of_attributes(base: h5py.Group | h5py.Dataset, working: h5py.Group | h5py.Dataset) -> str:
    left, right = (
        {name: item.attrs[name] for name in set(item.attrs) - PROVENANCE} for item in (base, working)
    )
    if difference := _of_names(set(left), set(right)):
        return f" attribute {difference}"
    differences = ((name, _of_values(left[name], right[name])) for name in sorted(left))
    return next((f" attribute {name}{difference}" for name, difference in differences if difference), "")


def _of_values(base: object, working: object) -> str:
    """The first difference between two values that HDF5 holds: arrays, numbers, texts, JSON."""
    left, right = np.asarray(base), np.asarray(working)
    documents = _json(left), _json(right)
    if None not in documents:
        return _of_json(*documents)
    texts = left.dtype.kind in "OSU" and right.dtype.kind in "OSU"
    if left.shape != right.shape or (left.dtype != right.dtype and not texts):
        return f": {left.dtype} of shape {left.shape} | {right.dtype} of shape {right.shape}"
    # Numbers as bytes: NaNs are equal to themselves, and 0 is not -0.
    unequal = np.asarray(left != right) if texts else (_bytes(left) != _bytes(right)).any(axis=-1)
    if not unequal.any():
        return ""
    index = tuple(map(int, np.argwhere(unequal)[0]))
    place = f"[{', '.join(map(str, index))}]" if index else ""
    values = f"{left[index].item()!r} | {right[index].item()!r}"
    return f"{place}: {values} ({np.count_nonzero(unequal)} of {left.size} differ)"


def _bytes(values: np.ndarray) -> np.ndarray:
    """The bytes of each value along a last axis."""
    contiguous = np.ascontiguousarray(values)
    return contiguous.reshape(-1).view(np.uint8).reshape(*values.shape, values.dtype.itemsize)


def _json(value: np.ndarray) -> object:
    """The JSON object in ``value`` if it is the text of one, else None."""
    text = value.item() if value.shape == () else None
    text = text.decode(errors="replace") if isinstance(text, bytes) else text
    if not (isinstance(text, str) and text.startswith("{")):
        return None
    try:
        return json.loads(text)
    except ValueError:
        return None


def _of_json(base: object, working: object) -> str:
    if isinstance(base, dict) and isinstance(working, dict):
        left, right = set(base) - PROVENANCE, set(working) - PROVENANCE
        if difference := _of_names(left, right):
            return f" entry {difference}"
        return next(
            (
                f".{name}{difference}"
                for name in sorted(left)
                if (difference := _of_json(base[name], working[name]))
            ),
            "",
        )
    if isinstance(base, list) and isinstance(working, list) and len(base) == len(working):
        pairs = enumerate(zip(base, working, strict=True))
        return next(
            (f"[{number}]{difference}" for number, pair in pairs if (difference := _of_json(*pair))), ""
        )
    return "" if repr(base) == repr(working) else f": {base!r} | {working!r}"
