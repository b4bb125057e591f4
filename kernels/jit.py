"""The one module that decides how kernels are compiled.

*Plain Python.*  With ``NUMBA_DISABLE_JIT=1`` every kernel is an ordinary function, and
``kernel.py_func`` is one at any time: debuggers, coverage and tests step through them.

*Cache.*  Machine code is kept on disk so that only the first run compiles.  Numba looks
in turn at ``$NUMBA_CACHE_DIR``, ``__pycache__`` beside the kernel, and the user's cache
directory, and takes the first that it can write to.  Where there is none (a read-only
container without a home), kernels are compiled anew in every process.  Numba notices
an edited kernel, but not that a function it inlines from *another* file was edited:
after changing ``maps/activations.py`` by hand, delete the cache.

*Arithmetic.*  Sums may be reordered, so that they vectorise, and multiplications fused with
additions; NaN and infinity keep their meaning, so that a broken network is seen as such.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numba

_OPTIONS = {"nogil": True, "error_model": "numpy", "fastmath": {"contract", "reassoc", "nsz"}}


# Of a parallel kernel only the loops that ask for it; Numba would try each expression on arrays, for seconds.
_ONLY_LOOPS = dict.fromkeys(
    ("comprehension", "fusion", "inplace_binop", "numpy", "reduction", "setitem", "stencil"), False
)


def is_plain() -> bool:
    """Say if kernels are ordinary functions, without the compiler."""
    return bool(numba.config.DISABLE_JIT)


def jit(function: Callable) -> Callable:
    """Compile ``function`` at its first call for each combination of argument types."""
    return _compiled(function, _OPTIONS)


def bound(function: Callable, arguments: Sequence) -> Callable:
    """The machine code of a compiled function for arguments of the types of these.

    It does not look at the types of what it is given, which takes Numba microseconds for each NamedTuple.  So
    it is for calls that are made again and again with the same arguments.  Other functions stay as they are.
    """
    if not hasattr(function, "overloads"):
        return function
    signature = tuple(map(numba.typeof, arguments))
    function.compile(signature)  # type: ignore[attr-defined]  # Numba's
    return function.overloads[signature].entry_point


def parallel_jit(function: Callable) -> Callable:
    """``jit`` for a function whose ``numba.prange`` loops are shared among threads."""
    return _compiled(function, {**_OPTIONS, "parallel": {**_ONLY_LOOPS, "prange": True}})


def _compiled(function: Callable, options: dict) -> Callable:
    try:
        return numba.njit(cache=True, **options)(function)
    except RuntimeError as no_cache:
        if "cannot cache function" not in str(no_cache):
            raise
        return numba.njit(**options)(function)
