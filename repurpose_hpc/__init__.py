"""Restructure a trained network for P workers and run it over MPI (RePurpose).

The pipeline is the package: ``model`` -> ``restructure`` -> ``plan`` -> ``runtime``.
"""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from repurpose_hpc.model.importers.torch import from_torch

__all__ = ["from_torch"]
__version__ = "0.1.0"

# The Numba kernels live in ``kernels/`` at the top of the checkout and are installed as
# ``repurpose_hpc.kernels``.  In a checkout they are found beside this package.
_package = Path(__file__).resolve().parent
if not (_package / "kernels").is_dir() and (_package.parent / "kernels" / "jit.py").is_file():
    __path__.append(str(_package.parent))


def __getattr__(name: str) -> object:
    # The commands must not import NumPy before they have set the number of its threads.
    if name == "from_torch":
        from repurpose_hpc.model.importers.torch import from_torch

        return from_torch
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
