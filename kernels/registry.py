"""Kernels and what is known of each, declared where it is written.

A kernel is a function in a file of one of the rooms (``products``, ``maps``, ``attention``, ``messages``,
``assignment``, ``updates``) that says with ``@kernel`` what it takes.  All else follows: its export from the
package, what the warm-up compiles, how its calls are checked and packed when they are recorded, the entry by
which they are replayed, and, with ``@thread_variant``, who makes a call that several threads share.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum

from .arguments import ArgumentKind
from .jit import jit, parallel_jit


class Need(Enum):
    """What has a kernel compiled by the warm-up."""

    ALL = "every network"
    MAPS = "networks with feature maps"
    NONE = "none: it is compiled when it is called or recorded"


@dataclass(frozen=True, eq=False)
class ThreadVariant:
    """The same as a kernel by several threads, each with some of the rows.

    Attributes:
        function: takes the arguments of the kernel, then some more.
        share: from the number of threads and the kernel's arguments: multiplications that they ask for, and
            these arguments.
    """

    function: Callable
    share: Callable[..., tuple[int, tuple]]


@dataclass(frozen=True, eq=False)
class Kernel:
    """A kernel as it was declared.

    Attributes:
        name: under which the package exports it.
        function: compiled at its first call, or by the warm-up.
        arguments: by name, in order.
        need: what has it compiled by the warm-up.
        replayed: whether its calls can be on a recording.
        parts: functions that it calls and that take long to compile.
    """

    name: str
    function: Callable
    arguments: Mapping[str, ArgumentKind]
    need: Need
    replayed: bool
    parts: tuple[Callable, ...]


class Registry:
    """Kernels in the order in which they were declared."""

    def __init__(self) -> None:
        self._kernels: dict[Callable, Kernel] = {}
        self._variants: dict[Callable, ThreadVariant] = {}
        self._parts: dict[Callable, Mapping[str, ArgumentKind]] = {}

    def part(self, arguments: Mapping[str, ArgumentKind]) -> Callable[[Callable], Callable]:
        """A decorator that compiles a function which kernels have among their ``parts``.

        Args:
            arguments: what it takes, by name, in order.
        """

        def declare(function: Callable) -> Callable:
            compiled = jit(function)
            self._parts[compiled] = arguments
            return compiled

        return declare

    def kernel(
        self,
        arguments: Mapping[str, ArgumentKind],
        need: Need = Need.ALL,
        replayed: bool = False,
        parts: tuple[Callable, ...] = (),
    ) -> Callable[[Callable], Callable]:
        """A decorator that compiles a function and declares it.

        Args:
            arguments: what it takes, by name, in order.
            need: what has it compiled by the warm-up.
            replayed: whether its calls can be on a recording.
            parts: kernels and parts that it calls, which another process can compile meanwhile.

        Raises:
            TypeError: the function has other parameters, or there is a kernel of that name.
        """

        def declare(function: Callable) -> Callable:
            name = function.__name__
            parameters = list(inspect.signature(function).parameters)
            if parameters != list(arguments):
                raise TypeError(f"{name}: expected the parameters {list(arguments)}, found {parameters}")
            if name in self.exports:
                raise TypeError(f"{name}: there is a kernel of that name")
            compiled = jit(function)
            self._kernels[compiled] = Kernel(name, compiled, arguments, need, replayed, parts)
            return compiled

        return declare

    def thread_variant(
        self, *kernels: Callable, share: Callable[..., tuple[int, tuple]]
    ) -> Callable[[Callable], Callable]:
        """A decorator that compiles what threads do instead of ``kernels``; see ``ThreadVariant``."""

        def declare(function: Callable) -> Callable:
            compiled = parallel_jit(function)
            for kernel in kernels:
                self._variants[kernel] = ThreadVariant(compiled, share)
            return compiled

        return declare

    @property
    def kernels(self) -> list[Kernel]:
        """All kernels."""
        return list(self._kernels.values())

    @property
    def exports(self) -> dict[str, Callable]:
        """The compiled functions by name."""
        return {kernel.name: kernel.function for kernel in self.kernels}

    def find(self, function: Callable) -> Kernel | None:
        """The declaration of a function; None: it is not a kernel."""
        return self._kernels.get(function)

    def part_arguments(self, function: Callable) -> Mapping[str, ArgumentKind]:
        """What a function that is a part of kernels takes."""
        kernel = self.find(function)
        return self._parts[function] if kernel is None else kernel.arguments

    def variant(self, function: Callable) -> ThreadVariant | None:
        """The variant of a kernel that threads share; None: there is none."""
        return self._variants.get(function)


REGISTRY = Registry()
kernel, part, thread_variant = REGISTRY.kernel, REGISTRY.part, REGISTRY.thread_variant
