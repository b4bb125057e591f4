"""The functions of the OpenBLAS library that NumPy has loaded, which no package offers."""

from __future__ import annotations

import ctypes
from contextlib import AbstractContextManager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from repurpose_hpc.process.threads import using_threads

_MAPS = Path("/proc/self/maps")


@cache
def function(name: str) -> Any:
    """A function of the library, under whatever name its build has; None: NumPy uses another library.

    Args:
        name: as in OpenBLAS's own documentation, for instance ``openblas_get_corename``.
    """
    np.ones((2, 2)) @ np.ones((2, 2))  # loads it
    maps = _MAPS.read_text(encoding="utf-8", errors="replace") if _MAPS.exists() else ""
    paths = {line.split(maxsplit=5)[-1] for line in maps.splitlines() if "openblas" in line}
    # SciPy may have one of its own; NumPy's comes first.
    for path in sorted(paths, key=lambda path: ("numpy" not in path, path)):
        library = ctypes.CDLL(path)
        for variant in (name, f"{name}64_", f"scipy_{name}", f"scipy_{name}64_"):
            if hasattr(library, variant):
                return getattr(library, variant)
    return None


def core_name() -> str:
    """Processor that the library believes in, for instance ``SkylakeX``; "": NumPy uses another one."""
    get = function("openblas_get_corename")
    if get is None:
        return ""
    get.restype = ctypes.c_char_p
    return get().decode()


def threads(number: int) -> AbstractContextManager[None]:
    """A block in which NumPy's products use so many threads.

    Raises:
        RuntimeError: NumPy uses another library.
    """
    read, write = (function(f"openblas_{verb}_num_threads") for verb in ("get", "set"))
    if read is None or write is None:
        raise RuntimeError("expected NumPy with OpenBLAS, whose threads can be set, found another library")
    return using_threads(number, read, write)
