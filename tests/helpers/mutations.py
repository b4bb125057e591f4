"""Damage to the bytes of small files: blind, or inside archives, protocol buffers and sealed HDF5 files."""

from __future__ import annotations

import contextlib
import io
import random
import re
import struct
import zipfile
from collections.abc import Callable

import h5py
import numpy as np

from repurpose_hpc.io.sealed import HEADER_BYTES, check_seal, sealed
from repurpose_hpc.plan.files.store import FORMAT

Mutation = Callable[[bytes, random.Random], bytes]

_NUMBERS = (0, 1, -1, 2, 7, 127, 128, 255, 256, 65535, 65536, 2**31 - 1, 2**31, 2**32 - 1, 2**62, 2**63 - 1)
_TEXTS = (
    *(b"-1", b"0", b"1e999", b"99999999999999999999", b"9" * 5000, b"4611686018427387904", b"0.5", b"NaN"),
    *(
        b"null",
        b"true",
        b'""',
        b"[]",
        b"{}",
        b"[" * 3000,
        b"{'a':" * 300,
        b"\xff\xfe",
        b"\0",
        b"'O'",
        b"'|S0'",
    ),
)


def blind(content: bytes, rng: random.Random) -> bytes:
    """One to three changes that know nothing of the format."""
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        content = rng.choice(_BLIND)(content, rng)
    return content


def in_archive(content: bytes, rng: random.Random) -> bytes:
    """A member of a ``.npz`` is changed, named otherwise, doubled or left out; its checksum is right."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = [(info.filename, archive.read(info), info.compress_type) for info in archive.infolist()]
    place = rng.randrange(len(members))
    name, data, kind = members[place]
    change = rng.randrange(8)
    if change == 0:
        members.append((name, blind(data, rng), kind))
    elif change == 1:
        members.pop(place)
    elif change == 2:
        members[place] = (blind(name.encode(), rng).decode("latin-1"), data, kind)
    elif change == 3:
        members[place] = (name, rng.choice(members)[1], kind)
    else:
        members[place] = (name, _header_or_blind(data, rng), kind)
    result = io.BytesIO()
    with zipfile.ZipFile(result, "w") as archive:
        for name, data, kind in members:
            archive.writestr(zipfile.ZipInfo(name), data, kind)
    return result.getvalue()


def array_header(content: bytes, rng: random.Random) -> bytes:
    """The header of a ``.npy`` says something else."""
    shape = tuple(rng.choice((*_NUMBERS, 3, 5, 10**30)) for _ in range(rng.randrange(5)))
    kinds = (
        "<f4",
        "<f8",
        ">f8",
        "<i8",
        "|b1",
        "|O",
        "<c16",
        "<U3",
        "|V0",
        "<U0",
        "<M8[s]",
        [("a", "<f4")],
        "<f2",
    )
    header = {
        "descr": rng.choice(kinds),
        "fortran_order": rng.choice((True, False, False, 1)),
        "shape": shape,
    }
    if rng.randrange(4) == 0:
        header[rng.choice(("descr", "fortran_order", "shape"))] = rng.choice(
            (None, -1, "x", (), [3], {}, 1.5)
        )
    text = repr(header).encode("latin-1") + b"\n"
    start = content.find(b"\n") + 1
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + content[start:]


def in_message(content: bytes, rng: random.Random) -> bytes:
    """One to three fields of an ONNX model have another value."""
    import onnx

    model = onnx.load_from_string(content)
    for _ in range(rng.choice((1, 1, 2, 3))):
        _change_field(model, rng)
    return model.SerializeToString()


def in_sealed(content: bytes, rng: random.Random) -> bytes:
    """A data set or attribute of one of our own HDF5 files is another one, and the checksum is right."""
    return resealed(content, lambda file: _change_sealed(file, rng))


def resealed(content: bytes, change: Callable[[h5py.File], None]) -> bytes:
    """One of our own HDF5 files after a ``change``, with the right checksum.

    Raises:
        ValueError: it is damaged already, which HDF5 may crash on.
    """
    memory, version = io.BytesIO(content), int(content.split(b" ", 2)[1])
    check_seal(memory, FORMAT, version)
    with h5py.File(memory, "r+") as file:
        change(file)
    return sealed(FORMAT, version, memory.getvalue()[HEADER_BYTES:])


def _header_or_blind(data: bytes, rng: random.Random) -> bytes:
    return array_header(data, rng) if rng.randrange(2) else blind(data, rng)


def _change_field(message, rng: random.Random) -> None:
    """Descend to a random field that is set, and change it."""
    fields = message.ListFields()
    if not fields:
        return
    field, value = rng.choice(fields)
    is_list = hasattr(value, "append") or hasattr(value, "add")
    if field.message_type is not None:
        if not is_list:
            _change_field(value, rng)
        elif rng.randrange(10) == 0:
            _change_list(value, rng)
        else:
            _change_field(rng.choice(list(value)), rng)
    elif is_list:
        place = rng.randrange(len(value))
        if rng.randrange(4) == 0:
            _change_list(value, rng)
        else:
            with contextlib.suppress(ValueError):
                value[place] = _another(value[place], rng)
    else:
        with contextlib.suppress(ValueError):  # an enumeration has no such value
            setattr(message, field.name, _another(value, rng))


def _change_list(values, rng: random.Random) -> None:
    """An entry is left out, or there twice."""
    place = rng.randrange(len(values))
    if rng.randrange(2):
        values.extend([values[place]])
    else:
        del values[place]


def _another(value, rng: random.Random):
    if isinstance(value, bytes):
        return blind(value, rng)
    if isinstance(value, str):
        return rng.choice(("", "x", "y", "nonsense", "../x", value + "x", value[:-1], value.upper()))
    if isinstance(value, float):
        return rng.choice((0.0, -1.0, 1e30, float("nan"), float("inf")))
    return rng.choice((0, 1, -1, 2, 3, 7, 10, 16, 127, 2**15, 2**31 - 1))


def _change_sealed(file: h5py.File, rng: random.Random) -> None:
    names: list[str] = []
    file.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
    attributes = list(file.attrs)
    if attributes and rng.randrange(5) == 0:
        name = rng.choice(attributes)
        file.attrs[name] = rng.choice((0, -1, 2**40, 1.5, "x", "", np.arange(3), np.bytes_(b"\xff")))
    else:
        _change_dataset(file, rng.choice(names), rng)


def _change_dataset(file, name: str, rng: random.Random) -> None:
    value = file[name][()]
    change = rng.randrange(6)
    if isinstance(value, bytes):
        value = np.bytes_(_text(value, rng)) if change else value
    elif change == 0 and value.dtype.kind in "biuf":
        value = value.astype(rng.choice(("<f4", "<i8", "<u1", "<f8", "<c16", "S3")))
    elif change == 1:
        value = np.concatenate([value.ravel(), value.ravel()])
    elif change == 2:
        value = value.ravel()[: value.size // 2]
    elif change == 3:
        value = np.float32(rng.random())
    elif np.size(value) and value.dtype.kind in "biuf":
        value = value.copy()
        kind = (
            rng.choice((0, 1, 100, 127)) if value.dtype.itemsize == 1 else rng.choice((0, 1, -1, 2**31 - 1))
        )
        value.reshape(-1)[rng.randrange(value.size)] = abs(kind) if value.dtype.kind == "u" else kind
    del file[name]
    if change < 5 or not isinstance(value, np.ndarray):
        file[name] = value


def _text(content: bytes, rng: random.Random) -> bytes:
    """A word or number is another one."""
    words = [*re.finditer(rb"[\w.+-]+|\"[^\"]*\"|\[[^\[\]]*\]|'[^']*'", content)]
    if not words:
        return rng.choice(_TEXTS)
    word = rng.choice(words)
    new = rng.choice((*_TEXTS, rng.choice(words)[0]))
    return content[: word.start()] + new + content[word.end() :]


def _bits(content: bytes, rng: random.Random) -> bytes:
    data = bytearray(content)
    for _ in range(rng.randint(1, 8) if data else 0):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(data)


def _truncated(content: bytes, rng: random.Random) -> bytes:
    return content[: rng.randrange(len(content) + 1)]


def _inserted(content: bytes, rng: random.Random) -> bytes:
    place = rng.randrange(len(content) + 1)
    return (
        content[:place]
        + rng.choice((bytes(rng.randint(1, 64)), rng.randbytes(rng.randint(1, 16))))
        + content[place:]
    )


def _block(content: bytes, rng: random.Random) -> tuple[int, int]:
    first = rng.randrange(len(content) + 1)
    return first, min(len(content), first + rng.choice((1, 4, 8, 32, 512)))


def _deleted(content: bytes, rng: random.Random) -> bytes:
    first, last = _block(content, rng)
    return content[:first] + content[last:]


def _doubled(content: bytes, rng: random.Random) -> bytes:
    (first, last), place = _block(content, rng), rng.randrange(len(content) + 1)
    return content[:place] + content[first:last] + content[place:]


def _copied(content: bytes, rng: random.Random) -> bytes:
    (first, last), place = _block(content, rng), rng.randrange(len(content) + 1)
    return content[:place] + content[first:last] + content[place + last - first :]


def _number(content: bytes, rng: random.Random) -> bytes:
    """A length field, perhaps."""
    size = rng.choice((1, 2, 4, 8))
    place, value = rng.randrange(len(content) + 1), rng.choice((*_NUMBERS, len(content)))
    data = (value % 256**size).to_bytes(size, rng.choice(("little", "little", "big")))
    return content[:place] + data + content[place + size :]


_BLIND: tuple[Mutation, ...] = (
    *(_bits, _bits, _bits, _truncated, _inserted, _deleted, _doubled, _copied, _number, _number, _text),
)
