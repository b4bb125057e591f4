"""Compiled kernels on arrays: products, maps, attention, messages, assignment of rows, updates of weights.

They know nothing of models, files or MPI and import nothing of the rest of the package.  What a kernel takes
is declared where it is written (see ``registry``); this package exports all kernels of its rooms by name.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pkgutil import iter_modules

from .arguments import INDEX_DTYPE, AttentionRule, Epilogue, MembraneRule, Region, Types, Window2D
from .llvm.sparse_rows import ALIKE_ROWS
from .llvm.vectors import CACHE_LINE
from .maps.activations import ACTIVATION_CODES, activate
from .maps.convolution import channels_are_faster, convolution_rows
from .maps.elementwise import COMBINATION_CODES
from .maps.membrane import RESET_CODES
from .products.crossover import csr_is_faster
from .products.dense import aligned, dense_scratch, pack_panels, panel_rows, slabs_size, tiles_size
from .products.events import events_scratch
from .registry import REGISTRY
from .replay import Recording, compile_noting, compile_replay
from .warmup import warm_up

ROOMS = ("products", "maps", "attention", "messages", "assignment", "updates")
for _room in ROOMS:
    for _module in iter_modules(import_module(f"{__name__}.{_room}").__path__):
        import_module(f"{__name__}.{_room}.{_module.name}")

__all__ = [
    "ALIKE_ROWS",
    "ACTIVATION_CODES",
    "CACHE_LINE",
    "COMBINATION_CODES",
    "INDEX_DTYPE",
    "RESET_CODES",
    "AttentionRule",
    "Epilogue",
    "MembraneRule",
    "Recording",
    "Region",
    "Types",
    "Window2D",
    "activate",
    "aligned",
    "channels_are_faster",
    "compile_replay",
    "compile_noting",
    "convolution_rows",
    "csr_is_faster",
    "dense_scratch",
    "events_scratch",
    "pack_panels",
    "panel_rows",
    "slabs_size",
    "tiles_size",
    "warm_up",
]
__all__ += sorted(REGISTRY.exports)


def __getattr__(name: str) -> Callable:
    function = REGISTRY.exports.get(name)
    if function is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return function


def __dir__() -> list[str]:
    return __all__
