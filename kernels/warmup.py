"""Compiling (or loading from the cache) all kernels before anything is timed, where no program does that."""

from __future__ import annotations

import time

import numpy as np

from .arguments import Types, signatures
from .jit import is_plain
from .registry import REGISTRY, Need, Registry
from .replay import compile_replay


def warm_up(dtype: np.dtype | type | str, maps: bool = False, registry: Registry = REGISTRY) -> float:
    """Compile the kernels of float networks and return the seconds that it took.

    A program has those compiled that it calls (see ``replay``); this is for who calls kernels by themselves.
    The types are those that the kernels declare: C-contiguous writable arrays of one dtype, indices of
    ``INDEX_DTYPE``, integers, floats.

    Args:
        dtype: of numbers, float32 or float64.
        maps: kernels of feature maps as well.
        registry: of the kernels.

    Raises:
        ValueError: dtype is neither float32 nor float64.
    """
    real = np.dtype(dtype)
    if real not in (np.float32, np.float64):
        raise ValueError(f"the kernels compute in float32 or float64, not in {real}")
    began = time.perf_counter()
    if not is_plain():
        types = Types(real, real)
        needs = {Need.ALL} | ({Need.MAPS} if maps else set())
        kernels = [kernel for kernel in registry.kernels if kernel.need in needs]
        for kernel in kernels:
            for signature in signatures(kernel.arguments, types):
                kernel.function.compile(signature)  # type: ignore[attr-defined]  # Numba's
        compile_replay(
            [kernel.function for kernel in kernels if signatures(kernel.arguments, types)], types, registry
        )
    return time.perf_counter() - began
