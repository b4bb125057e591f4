"""Data sets of HDF5 files whose values are all there.

HDF5 gives the fill value, usually 0, for what it does not find: chunks that were never written, parts of a
virtual data set whose source file is gone, the end of raw data outside of the file.  Nothing here reads
values.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import h5py

from repurpose_hpc.errors import UserError
from repurpose_hpc.io.reading import check_finite_length

SUFFIXES = (".h5", ".hdf5")
_REMEDY = "copy or mend it, or write the data set again as a whole"


@contextmanager
def open_hdf5(path: Path) -> Iterator[h5py.File]:
    """A file that somebody else wrote, open for reading; to be used in a block of ``reading``.

    HDF5 looks at it as it is: its parsers are trusted, see SECURITY.md.
    """
    check_finite_length(path)
    with h5py.File(path, "r") as file:
        yield file


def find_dataset(file: h5py.File, name: str) -> h5py.Dataset | None:
    """The data set ``name`` of an open file; None if there is none of that name.

    Raises:
        UserError: it is a link that leads nowhere, or not all of its values are there; names what is missing.
    """
    link = file.get(name, getlink=True)
    if isinstance(link, (h5py.ExternalLink, h5py.SoftLink)) and file.get(name) is None:
        target = f"{link.filename}: {link.path}" if isinstance(link, h5py.ExternalLink) else link.path
        raise UserError(
            f"{file.filename}: {name}: expected a data set, found a link to {target}, which is not there; "
            f"{_REMEDY}"
        )
    dataset = file.get(name)
    if not isinstance(dataset, h5py.Dataset):
        return None
    _check_stored(dataset)
    return dataset


def source_files(path: Path) -> list[Path]:
    """The files that the data sets at the top of an HDF5 file refer to; none of other files."""
    if path.suffix not in SUFFIXES:
        return []
    with suppress(Exception), open_hdf5(path) as file:
        return sorted({source for name in file for source in _sources(file, name)})
    return []


def _sources(file: h5py.File, name: str) -> Iterator[Path]:
    link = file.get(name, getlink=True)
    if isinstance(link, h5py.ExternalLink):
        yield _beside(file.filename, link.filename)
    dataset = file.get(name)
    if not isinstance(dataset, h5py.Dataset):
        return
    if dataset.is_virtual:
        yield from (_beside(dataset.file.filename, source.file_name) for source in dataset.virtual_sources())
    for raw, *_ in dataset.external or ():
        yield _beside(dataset.file.filename, raw)


def _check_stored(dataset: h5py.Dataset) -> None:
    """Refuse a data set of which some values would be fill values."""
    if not dataset.size:
        return
    if dataset.is_virtual:
        _check_virtual(dataset)
    elif dataset.external:
        _check_external(dataset)
    elif dataset.chunks is not None:
        chunks = math.prod(
            math.ceil(size / step) for size, step in zip(dataset.shape, dataset.chunks, strict=True)
        )
        _expect(dataset, "chunks", dataset.id.get_num_chunks(), chunks, "never written")
    elif dataset.id.get_create_plist().get_layout() == h5py.h5d.CONTIGUOUS:
        _expect(dataset, "bytes", dataset.id.get_storage_size(), dataset.nbytes, "never written")


def _check_virtual(dataset: h5py.Dataset) -> None:
    here, covered = dataset.file.filename, 0
    for source in dataset.virtual_sources():
        if "%b" in source.file_name + source.dset_name:
            raise UserError(
                f"{_name(dataset)}: expected sources that are named one by one, found the pattern "
                f"{source.file_name}: {source.dset_name}, of which some may be missing; {_REMEDY}"
            )
        values = source.vspace.get_select_npoints()
        covered += values
        if source.file_name == ".":
            _check_source(dataset, dataset.file, source.dset_name, values)
            continue
        path = _beside(here, source.file_name)
        if not path.is_file():
            raise UserError(
                f"{_name(dataset)}: expected its sources, found no {path}, in whose place HDF5 gives fill "
                f"values; {_REMEDY}"
            )
        with open_hdf5(path) as file:
            _check_source(dataset, file, source.dset_name, values)
    _expect(dataset, "values", covered, dataset.size, "without a source")


def _check_source(dataset: h5py.Dataset, file: h5py.File, name: str, values: int) -> None:
    """Refuse a source that is missing, incomplete, or has fewer values than are taken of it."""
    source = find_dataset(file, name)
    if source is None:
        raise UserError(
            f"{_name(dataset)}: expected its sources, found no data set {name} in {file.filename}; {_REMEDY}"
        )
    _expect(source, "values", source.size, values, f"missing, which {_name(dataset)} takes")


def _check_external(dataset: h5py.Dataset) -> None:
    stored = 0
    for raw, offset, size in dataset.external:
        path = _beside(dataset.file.filename, raw)
        length = path.stat().st_size if path.is_file() else 0
        stored += max(0, min(size, length - offset))
    _expect(dataset, "bytes", stored, dataset.nbytes, "not in the files that hold them")


def _expect(dataset: h5py.Dataset, units: str, found: int, expected: int, fate: str) -> None:
    """Refuse fewer than ``expected`` units; ``fate`` of the others, in words."""
    if found < expected:
        raise UserError(
            f"{_name(dataset)}: expected all of its {expected} {units}, found {expected - found} {fate}, in "
            f"whose place HDF5 gives fill values; {_REMEDY}"
        )


def _beside(file: str, name: str) -> Path:
    """The file that ``name`` stands for in ``file``, looked for as HDF5 does."""
    folder = Path(file).parent
    folders = [folder / os.environ.get("HDF5_VDS_PREFIX", ""), folder, Path()]
    return next((path for path in (place / name for place in folders) if path.is_file()), folder / name)


def _name(dataset: h5py.Dataset) -> str:
    return f"{dataset.file.filename}: {str(dataset.name).lstrip('/')}"
