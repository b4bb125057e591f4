"""The content of a file of a plan: small arrays are read, large ones mapped where they lie."""

from __future__ import annotations

from dataclasses import dataclass

import h5py
import numpy as np

from repurpose_hpc.plan.files.mapped import MappedFile

# Of arrays that are mapped: so large at least, and aligned to a cache line.
MAPPED_BYTES = 1 << 16
ALIGNMENT = 64


@dataclass(frozen=True, eq=False)
class Content:
    """The content of a file whose bytes are as they were written.

    Attributes:
        file: open for reading.
        sha256: of the whole file.
        mapped: the same file, as memory.
    """

    file: h5py.File
    sha256: str
    mapped: MappedFile

    def array(self, dataset: h5py.Dataset) -> np.ndarray:
        """The values of ``dataset``, mapped if they are many."""
        offset = dataset.id.get_offset()
        if dataset.nbytes < MAPPED_BYTES or offset is None or offset % ALIGNMENT:
            return dataset[()]
        return self.mapped.array(offset, dataset.shape, dataset.dtype)
