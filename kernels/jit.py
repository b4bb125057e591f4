"""The one module that decides how kernels are compiled.

*Plain Python.*  With ``NUMBA_DISABLE_JIT=1`` every kernel is an ordinary function, and
``kernel.py_func`` is one at any time: debuggers, coverage and tests step through them.

*Cache.*  Machine code is kept on disk so that only the first run on a machine compiles (see ``cache``).

*Arithmetic.*  Sums may be reordered, so that they vectorise, and multiplications fused with
additions; NaN and infinity keep their meaning, so that a broken network is seen as such.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import Any

import numba
from numba.core.ccallback import CFunc
from numba.core.typing.ctypes_utils import to_ctypes
from numba.extending import register_jitable

from .cache import KernelCache, keep

_OPTIONS = {
    "nogil": True,
    "error_model": "numpy",
    "fastmath": {"contract", "reassoc", "nsz"},
    "no_cfunc_wrapper": True,  # another way in, which takes time to compile and nobody uses
}


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


def in_both(function: Callable) -> Callable:
    """Leave ``function`` as it is in Python; in compiled functions that call it, it is compiled with them."""
    return register_jitable(**_OPTIONS)(function)


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


def inlined(compiled: Callable) -> Callable:
    """The same function, as a part of each that calls it, which is compiled once as a whole."""
    if not hasattr(compiled, "py_func"):
        return compiled
    return _compiled(compiled.py_func, {**_OPTIONS, "inline": "always"})


class CFunction:
    """A function that compiled code calls by its address, as one of C's."""

    def __init__(self, function: Callable, result: Any, *arguments: Any) -> None:
        """Declares it; it is compiled when its address is first asked for.

        Args:
            function: in Python.
            result, arguments: Numba's types.
        """
        kinds = map(to_ctypes, (result, *arguments))
        # Without the compiler, or to step through.
        self.callback = ctypes.CFUNCTYPE(*kinds)(function)
        self._compiled = CFunc(function, (arguments, result), {}, _OPTIONS)
        keep(self._compiled, function)

    @property
    def address(self) -> int:
        """Of machine code; without the compiler, of ``callback``."""
        if is_plain():
            return ctypes.cast(self.callback, ctypes.c_void_p).value or 0
        self.compile()
        return self._compiled.address or 0

    def compile(self) -> None:
        """Compile it, or load it from the cache."""
        if self._compiled.address is None:
            self._compiled.compile()

    def compile_unless_elsewhere(self) -> bool:
        """``compile``, unless another process is just compiling it; says if it was done."""
        if _is_compiled_elsewhere(self._compiled):
            return False
        self.compile()
        return True


def compile_unless_elsewhere(compiled: Callable, signature: tuple) -> None:
    """Compile a function of ``jit`` for arguments of these types, unless another process is at work on it."""
    if not _is_compiled_elsewhere(compiled):
        compiled.compile(signature)  # type: ignore[attr-defined]  # Numba's


def _is_compiled_elsewhere(compiled: Any) -> bool:
    return isinstance(compiled._cache, KernelCache) and compiled._cache.is_compiled_elsewhere()


def _compiled(function: Callable, options: dict) -> Callable:
    dispatcher = numba.njit(**options)(function)
    keep(dispatcher, function)
    return dispatcher
