"""Compiling (or loading from the cache) everything a run needs, before anything is timed."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import numpy as np

from .arguments import ArgumentKind, Types, signatures
from .jit import is_plain
from .registry import REGISTRY, Need, Registry
from .replay import compile_replay


def warm_up(
    dtype: np.dtype | type | str,
    maps: bool = False,
    stored: np.dtype | None = None,
    codes: np.dtype | None = None,
    zeros: bool = False,
    parallel: bool = False,
    same_bits: bool = False,
    registry: Registry = REGISTRY,
) -> float:
    """Compile what a run needs and return the seconds that it took.

    It takes seconds the first time on a machine, a fraction of one with the cache.  The types are those that
    the kernels declare: C-contiguous writable arrays of one dtype, indices of ``INDEX_DTYPE``, integers,
    floats.

    Args:
        dtype: of sums, float32 or float64.
        maps: kernels of feature maps as well, which not every network needs.
        stored: type of dense weights; None: ``dtype``.
        codes: type of codes; None: numbers travel as they are, and nothing makes or reads codes.
        zeros: what leaves zeros out of messages of numbers or codes as well.
        parallel: what threads share as well.
        same_bits: kernels whose results do not depend on the batch as well.
        registry: of the kernels.

    Raises:
        ValueError: dtype is neither float32 nor float64.
    """
    real = np.dtype(dtype)
    if real not in (np.float32, np.float64):
        raise ValueError(f"the kernels compute in float32 or float64, not in {real}")
    began = time.perf_counter()
    if not is_plain():
        types = Types(real, real if stored is None else np.dtype(stored), codes and np.dtype(codes))
        optional = {Need.MAPS: maps, Need.ZEROS: zeros, Need.SAME_BITS: same_bits}
        needs = {Need.ALL} | {need for need, asked in optional.items() if asked}
        _compile_kernels(types, needs, parallel, registry)
        compile_replay(types, registry)
    return time.perf_counter() - began


def _compile_kernels(types: Types, needs: set[Need], parallel: bool, registry: Registry) -> None:
    """Compile the kernels with one of these needs; ``parallel``: their variants for threads as well."""
    for kernel in registry.kernels:
        if kernel.need in needs:
            _compile(kernel.function, kernel.arguments, types)
            variant = registry.variant(kernel.function) if parallel else None
            if variant is not None:
                _compile(variant.function, {**kernel.arguments, **variant.extra}, types)


def _compile(function: Callable, arguments: Mapping[str, ArgumentKind], types: Types) -> None:
    for signature in signatures(arguments, types):
        function.compile(signature)  # type: ignore[attr-defined]  # Numba's, not of all callables
