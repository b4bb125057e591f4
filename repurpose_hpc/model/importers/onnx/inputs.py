"""Sizes of a graph's inputs: those in the file, and those that it leaves free and the user gives."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from repurpose_hpc.errors import UserError
from repurpose_hpc.model.importers.input_shapes import InputShapes, word_of

if TYPE_CHECKING:
    import onnx

# Of an input: no memory holds more, and NumPy refuses to count the bytes of far more.
MOST_VALUES = 1 << 40


def input_sizes(
    inputs: Sequence[onnx.ValueInfoProto], given: InputShapes, path: Path
) -> dict[str, tuple[int, ...]]:
    """The shape of every input, the samples first: their number, 0 where any will do.

    Args:
        inputs: of the graph.
        given: sizes by name, the samples left out.  One that stands for a name in the file is that of all
            axes of this name.
        path: of the file.

    Raises:
        UserError: a size is not known, not the one in the file, or more than any machine holds.
    """
    names = [item.name for item in inputs]
    for name in given:
        if name not in names:
            raise UserError(f"{path}: expected sizes of {' or '.join(map(repr, names))}, got {name!r}")
    size_of = _named_sizes(inputs, given, path)
    shapes = {item.name: _sizes(item, given.get(item.name), size_of, path) for item in inputs}
    for name, (samples, *sizes) in shapes.items():
        if (values := math.prod((samples or 1, *sizes))) > MOST_VALUES:
            raise UserError(
                f"{path}: input {name!r}: expected at most {MOST_VALUES:,} values, found {values:,}; check "
                "its sizes, or export the model again"
            )
    return shapes


def _named_sizes(
    inputs: Iterable[onnx.ValueInfoProto], given: InputShapes, path: Path
) -> dict[str, tuple[int, str]]:
    """The size that a name of axes stands for, and the input for which it was given."""
    size_of: dict[str, tuple[int, str]] = {}
    for item in inputs:
        axes = item.type.tensor_type.shape.dim[1:]
        # One that has another number of axes is refused later.
        for axis, size in zip(axes, given.get(item.name, ()), strict=False):
            if not _is_name(axis.dim_param):
                continue
            other_size, other = size_of.setdefault(axis.dim_param, (size, item.name))
            if size != other_size:
                raise UserError(
                    f"{path}: expected one size for axis {axis.dim_param!r}, got {other_size} of input "
                    f"{other!r} and {size} of {item.name!r}; give the same"
                )
    return size_of


def _is_name(axis: str) -> bool:
    """Whether axes of this name have one size: exporters also write "?" on axes that differ."""
    return any(letter.isalnum() for letter in axis)


def _sizes(
    item: onnx.ValueInfoProto, given: tuple[int, ...] | None, size_of: dict[str, tuple[int, str]], path: Path
) -> tuple[int, ...]:
    tensor = item.type.tensor_type
    axes = tensor.shape.dim
    if not tensor.HasField("shape") and given is not None:
        return (0, *given)
    if len(axes) < 2:
        raise UserError(
            f"{path}: input {item.name!r}: expected samples on the first axis and features on the others, "
            f"found shape ({_shown(axes)}); export it with samples on an axis of their own"
        )
    sizes = [axis.dim_value or size_of.get(axis.dim_param, (0, ""))[0] for axis in axes[1:]]
    if given is not None:
        if len(given) != len(sizes) or any(a != b for a, b in zip(sizes, given, strict=True) if a):
            raise UserError(
                f"{path}: input {item.name!r}: expected sizes that fit ({_shown(axes)}), those of the file, "
                f"got {word_of(item.name, given)}; only sizes that the file leaves free can be chosen"
            )
        sizes = list(given)
    if 0 in sizes:
        example = word_of(item.name, [size or "?" for size in sizes])
        raise UserError(
            f"{path}: input {item.name!r}: expected samples on the first axis and features of known size on "
            f"the others, found shape ({_shown(axes)}); give the sizes with --input-shape {example} (numbers "
            "instead of ?), or make only the first axis dynamic when exporting"
        )
    return (axes[0].dim_value, *sizes)


def _shown(axes: Iterable[onnx.TensorShapeProto.Dimension]) -> str:
    return ", ".join(axis.dim_param or str(axis.dim_value or "?") for axis in axes)
