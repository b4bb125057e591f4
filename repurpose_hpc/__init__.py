"""Restructure a trained network for P workers and run it over MPI (RePurpose).

The pipeline is the package: ``model`` -> ``restructure`` -> ``plan`` -> ``runtime``.
"""

from pathlib import Path

__version__ = "0.1.0"

# The Numba kernels live in ``kernels/`` at the top of the checkout and are installed as
# ``repurpose_hpc.kernels``.  In a checkout they are found beside this package.
_package = Path(__file__).resolve().parent
if not (_package / "kernels").is_dir() and (_package.parent / "kernels" / "jit.py").is_file():
    __path__.append(str(_package.parent))
