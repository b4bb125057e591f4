"""Sizes of inputs that a model file leaves free, as an option and as what ``load_model`` takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from repurpose_hpc.fields import Kind, option

InputShapes = Mapping[str, tuple[int, ...]]
"""Sizes by name of the input, the samples left out."""


def option_of_shapes() -> Any:
    """Field ``input_shape``: words as on a command line."""
    return option(
        (),
        kind=_SHAPES,
        metavar="NAME=NxCxHxW",
        repeated=True,
        help="sizes of an input of MODEL that its file leaves free, samples first (any number), such as "
        "ids=1x64 of a directory; once for each such input",
    )


def shapes_of(words: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """What ``load_model`` takes, of words such as ``x=1x3x48x192``.

    Raises:
        ValueError: a word is not of this form.
    """
    return dict(map(_shape, words))


def word_of(name: str, sizes: Sequence[int | str]) -> str:
    """The word for an input, any number of samples."""
    return f"{name}={'x'.join(map(str, ('1', *sizes)))}"


def _shape(word: str) -> tuple[str, tuple[int, ...]]:
    name, equals, text = word.rpartition("=")
    samples, *sizes = text.split("x")
    numbers = tuple(map(int, sizes))
    if not (name and equals and numbers and min(numbers) > 0 and (samples.isdecimal() or samples == "N")):
        raise ValueError(word)
    return name, numbers


def _parse(word: str) -> tuple[str, ...]:
    _shape(word)
    return (word,)


def _accepts(value: Any) -> bool:
    if not isinstance(value, (tuple, list)):
        return False
    try:
        return len(shapes_of(value)) == len(value)
    except (AttributeError, ValueError):
        return False


_SHAPES = Kind(
    "names with sizes of 1 or more, each name once", _parse, _accepts, ("x=1x3x48x192",), plain=tuple
)
