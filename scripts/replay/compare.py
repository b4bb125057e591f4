"""Find the first difference between two HDF5 files, bit by bit."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np

# Of attributes, and of entries in datasets that are JSON: they say how and when something was made.
PROVENANCE = {"options", "versions", "seconds"}


def first_difference(one: Path, other: Path) -> str:
    """The first difference between two files, or between the files of two folders; empty if there is none."""
    if one.is_file():
        return _of_files(one, other)
    if difference := _of_names(
        {path.name for path in one.iterdir()}, {path.name for path in other.iterdir()}
    ):
        return difference
    # Shards first: the plan has their digests, which say only that something is different.
    for path in sorted(one.iterdir(), key=lambda path: (path.name == "plan.h5", path.name)):
        if difference := _of_files(path, other / path.name):
            return f"{path.name}: {difference}"
    return ""


def _of_files(one: Path, other: Path) -> str:
    with h5py.File(one) as first, h5py.File(other) as second:
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
    found = {"/": file}
    file.visititems(lambda name, item: found.update({f"/{name}": item}))
    return found


def _of_names(one: set[str], other: set[str]) -> str:
    if one == other:
        return ""
    name = min(one ^ other)
    return f"{name} only in {'the base' if name in one else 'the working tree'}"


def _of_contents(one: h5py.Group | h5py.Dataset, other: h5py.Group | h5py.Dataset) -> str:
    if isinstance(one, h5py.Dataset) != isinstance(other, h5py.Dataset):
        return ": a dataset on one side, a group on the other"
    return _of_values(one[()], other[()]) if isinstance(one, h5py.Dataset) else ""


def _of_attributes(one: h5py.Group | h5py.Dataset, other: h5py.Group | h5py.Dataset) -> str:
    left, right = ({name: item.attrs[name] for name in set(item.attrs) - PROVENANCE} for item in (one, other))
    if difference := _of_names(set(left), set(right)):
        return f" attribute {difference}"
    found = ((name, _of_values(left[name], right[name])) for name in sorted(left))
    return next((f" attribute {name}{difference}" for name, difference in found if difference), "")


def _of_values(one: object, other: object) -> str:
    """The first difference between two values that HDF5 holds: arrays, numbers, texts, JSON."""
    left, right = np.asarray(one), np.asarray(other)
    said = _json(left), _json(right)
    if None not in said:
        return _of_json(*said)
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
    whole = np.ascontiguousarray(values)
    return whole.reshape(-1).view(np.uint8).reshape(*values.shape, values.dtype.itemsize)


def _json(value: np.ndarray) -> object:
    """What ``value`` says if it is a text that is a JSON object, else None."""
    text = value.item() if value.shape == () else None
    text = text.decode(errors="replace") if isinstance(text, bytes) else text
    if not (isinstance(text, str) and text.startswith("{")):
        return None
    try:
        return json.loads(text)
    except ValueError:
        return None


def _of_json(one: object, other: object) -> str:
    if isinstance(one, dict) and isinstance(other, dict):
        left, right = set(one) - PROVENANCE, set(other) - PROVENANCE
        if difference := _of_names(left, right):
            return f" entry {difference}"
        return next(
            (f".{name}{found}" for name in sorted(left) if (found := _of_json(one[name], other[name]))), ""
        )
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        pairs = enumerate(zip(one, other, strict=True))
        return next((f"[{number}]{found}" for number, pair in pairs if (found := _of_json(*pair))), "")
    return "" if repr(one) == repr(other) else f": {one!r} | {other!r}"
