"""The header of a GGUF file: metadata, and where its tensors lie.

Package ``gguf`` has a reader, too.  It takes ten seconds and most of a gigabyte for the tokens of a large
vocabulary, and never ends on some damaged files.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from repurpose_hpc.errors import UserError
from repurpose_hpc.io.reading import check_finite_length, reading

REMEDY = "download or convert the model again"
_VERSIONS = (2, 3)
# Types of values: struct's letter of numbers; texts and lists are numbered apart.
_NUMBERS = dict(zip((0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 12), "BbHhIif?Qqd", strict=True))
_TEXT, _LIST = 8, 9


@dataclass(frozen=True)
class Stored:
    """A tensor in a file.

    Attributes:
        type: of its numbers, a ``gguf.GGMLQuantizationType``.
        shape: (outputs, inputs) of layers; files have it reversed.
        rows: (outputs, bytes of a row), likewise.
        offset: bytes from the beginning of the file.
    """

    type: Any
    shape: tuple[int, ...]
    rows: tuple[int, ...]
    offset: int


@dataclass(frozen=True, eq=False)
class File:
    """What a file has.

    Attributes:
        path: of the file.
        metadata: values by name.
        tensors: by name.
        content: all of its bytes, left on the disk.
    """

    path: Path
    metadata: dict[str, Any]
    tensors: dict[str, Stored]
    content: np.ndarray

    @classmethod
    def read(cls, path: Path) -> File:
        """The header of a file.

        Raises:
            UserError: it cannot be read or is truncated, a tensor is of a type that is not read, or the
                package that knows the types is missing.
        """
        with reading(path, ".gguf file", REMEDY):
            check_finite_length(path)
            content = np.memmap(path, mode="r")
            header = _Header(content)
            metadata, listed = header.read()
            start = _aligned(header.place, metadata.get("general.alignment", 32))
        tensors = {name: _stored(path, name, start, *rest) for name, rest in listed.items()}
        for name, tensor in tensors.items():
            if tensor.offset + prod(tensor.rows) > content.size:
                raise UserError(
                    f"{path}: expected a readable .gguf file: it ends at byte {content.size}, before "
                    f"{name!r} does; {REMEDY}"
                )
        return cls(path, metadata, tensors, content)


class _Header:
    """The beginning of a file, read from front to back.

    Args:
        content: bytes of the file.
    """

    def __init__(self, content: np.ndarray) -> None:
        self._content = content.data
        self.place = 0

    def read(self) -> tuple[dict[str, Any], dict[str, tuple[int, tuple[int, ...], int]]]:
        """Metadata by name, and of tensors their type, their shape and where they lie behind the header.

        Raises:
            ValueError: these are no such contents.
        """
        if bytes(self._take(4)) != b"GGUF":
            raise ValueError("it does not begin with GGUF")
        (version,) = self._numbers("I")
        if not version & 0xFFFF:
            raise ValueError("its numbers are big-endian, expected little-endian ones")
        if version not in _VERSIONS:
            raise ValueError(f"it is of version {version}, expected {' or '.join(map(str, _VERSIONS))}")
        tensors, entries = self._numbers("Q", 2)
        return self._named(entries, self._entry), self._named(tensors, self._tensor)

    def _named(self, count: int, read: Any) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for _ in range(count):
            name = self._text()
            if name in found:
                raise ValueError(f"it has {name!r} twice")
            found[name] = read()
        return found

    def _entry(self) -> Any:
        return self._value(*self._numbers("I"))

    def _tensor(self) -> tuple[int, tuple[int, ...], int]:
        (axes,) = self._numbers("I")
        shape = tuple(reversed(self._numbers("Q", axes)))
        (kind,) = self._numbers("I")
        (offset,) = self._numbers("Q")
        return kind, shape, offset

    def _value(self, kind: int) -> Any:
        if kind == _TEXT:
            return self._text()
        if kind == _LIST:
            (each,) = self._numbers("I")
            (count,) = self._numbers("Q")
            if each in _NUMBERS:
                return list(self._numbers(_NUMBERS[each], count))
            return [self._value(each) for _ in range(count)]
        if kind not in _NUMBERS:
            raise ValueError(f"it has a value of type {kind}, which is none")
        (number,) = self._numbers(_NUMBERS[kind])
        return number

    def _text(self) -> str:
        (length,) = self._numbers("Q")
        return str(self._take(length), "utf-8")

    def _numbers(self, letter: str, count: int = 1) -> tuple[Any, ...]:
        content = self._take(count * struct.calcsize(f"<{letter}"))
        return struct.unpack(f"<{count}{letter}", content)

    def _take(self, size: int) -> memoryview:
        end = self.place + size
        if end > len(self._content):
            raise ValueError(f"it ends at byte {len(self._content)}, before its header does")
        self.place, begin = end, self.place
        return self._content[begin:end]


def _aligned(place: int, alignment: Any) -> int:
    if not isinstance(alignment, int) or alignment < 1 or alignment & (alignment - 1):
        raise ValueError(f"general.alignment is {alignment!r}, expected a power of two")
    return -(-place // alignment) * alignment


def _stored(path: Path, name: str, start: int, kind: int, shape: tuple[int, ...], offset: int) -> Stored:
    """Where a tensor lies, of a type and a shape that can be read.

    Raises:
        UserError: they cannot be read, or the package that knows them is missing.
    """
    try:
        import gguf
    except ImportError:
        raise UserError(
            f"{path}: reading .gguf files needs a package that is not installed; "
            "pip install 'repurpose-hpc[gguf]'"
        ) from None
    try:
        known = gguf.GGMLQuantizationType(kind)
        block, size = gguf.GGML_QUANT_SIZES[known]
        gguf.dequantize(np.zeros((1, size), np.uint8), known)
    except (ValueError, KeyError, NotImplementedError):
        called = known.name if kind in list(gguf.GGMLQuantizationType) else kind
        raise UserError(
            f"{path}: {name}: expected numbers of a type that the package gguf reads, such as F16 or "
            f"Q8_0, found {called}; convert the model to one of them"
        ) from None
    if not shape or shape[-1] % block:
        raise UserError(
            f"{path}: {name}: expected rows of blocks of {block} numbers, as {known.name} has them, found "
            f"shape {shape}; {REMEDY}"
        )
    return Stored(known, shape, (*shape[:-1], shape[-1] // block * size), start + offset)
