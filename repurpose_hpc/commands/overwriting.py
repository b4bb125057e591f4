"""Refusal of command lines whose results would take the place of a file that the command reads.

Files are the same if the file system says so, whatever their names and through links.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

from repurpose_hpc.errors import UsageError
from repurpose_hpc.fields import Access, Option, flag


class _Named(NamedTuple):
    """A file or directory that a command line names.

    Attributes:
        field: that names it.
        path: where it is.
        access: what the command does with it.
    """

    field: str
    path: Path
    access: Access


def check_apart(given: Mapping[str, Any], options: Mapping[str, Option]) -> None:
    """Refuse a result that is, or replaces, a file that is read, or another result.

    Args:
        given: values by field.
        options: their declarations by field.

    Raises:
        UsageError: names both options and the file.
    """
    named = [
        _Named(field, Path(entry), access)
        for field, value in given.items()
        if (access := options[field].kind.access) is not None
        for entry in (value if isinstance(value, tuple) else (value,))
    ]
    read = [name for name in named if name.access is Access.READS]
    for result in (name for name in named if name.access is Access.WRITES):
        for source in read:
            _check_written(result, source)
    for directory in (name for name in named if name.access is Access.REPLACES):
        for source in read:
            _check_replaced(directory, source)
    for first, second in combinations([name for name in named if name.access is Access.WRITES], 2):
        if _is_same(first.path, second.path):
            raise _refusal(second, first, first.path)


def _check_written(result: _Named, source: _Named) -> None:
    if not result.path.is_file():
        return  # what is read exists, and a directory is not replaced by a file
    for file in _files(source.path):
        if _is_same(result.path, file):
            raise _refusal(result, source, file)


def _check_replaced(directory: _Named, source: _Named) -> None:
    if directory.path.resolve() in (source.path.resolve(), *source.path.resolve().parents):
        raise _refusal(directory, source, source.path)


def _refusal(result: _Named, other: _Named, file: Path) -> UsageError:
    of_other = file if file == other.path else f"{file} of {other.path}"
    return UsageError(
        f"{flag(result.field)}: expected a place of its own, got {result.path}, which would take that of "
        f"{of_other}, which {flag(other.field)} {other.access.value}; choose another name"
    )


def _is_same(first: Path, second: Path) -> bool:
    if first.resolve() == second.resolve():
        return True
    with suppress(OSError):
        return first.samefile(second)
    return False


def _files(path: Path) -> Iterator[Path]:
    """The files that are read by way of ``path``: itself, those that it refers to, those of a plan."""
    from repurpose_hpc.commands.imported import holds_shards
    from repurpose_hpc.model.importers.load import GGUF

    yield path
    if path.is_dir() and not holds_shards(path):
        yield from path.iterdir()
    elif path.is_dir():
        from repurpose_hpc.plan.files.store import plan_files
        from repurpose_hpc.report.sources import TABLES

        yield from plan_files(path)
        for name in TABLES:
            yield from _files(path / name)
    elif path.suffix == ".csv":
        from repurpose_hpc.report.sources import origin_file

        yield origin_file(path)
    elif path.suffix == GGUF:
        from repurpose_hpc.model.importers.texts import TOKENIZER

        yield path.with_name(TOKENIZER)
    elif path.suffix == ".onnx":
        from repurpose_hpc.model.importers.onnx.file import data_files
        from repurpose_hpc.model.importers.texts import TOKENIZER

        yield path.with_name(TOKENIZER)
        yield from data_files(path)
    else:
        from repurpose_hpc.io.hdf5 import source_files

        yield from source_files(path)
