"""Restructure a trained network for P workers and run it over MPI (RePurpose).

The pipeline is the package: ``model`` -> ``restructure`` -> ``plan`` -> ``runtime``.  The names below are
the library; each is imported when it is first used, so that a command can set the number of threads before
NumPy is there.

>>> import repurpose_hpc as rp
>>> network = rp.load_model("model.onnx")
>>> cut = rp.restructure_network(network, rp.Samples.of(x), workers=8, comm_budget=0.05)
>>> y = rp.Session(cut).run(x)
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from repurpose_hpc.errors import UserError
    from repurpose_hpc.io.samples import Samples
    from repurpose_hpc.model.importers.load import load_model, load_tokens
    from repurpose_hpc.model.importers.nir.options import SpikingOptions
    from repurpose_hpc.model.importers.snntorch.load import from_snntorch
    from repurpose_hpc.model.importers.torch import from_torch
    from repurpose_hpc.plan.files.store import open_plan
    from repurpose_hpc.plan.operators import exchange_operator
    from repurpose_hpc.restructure.exact import split_network
    from repurpose_hpc.restructure.job import Restructured, restructure_network
    from repurpose_hpc.restructure.options import Options
    from repurpose_hpc.runtime.session import Session
    from repurpose_hpc.runtime.tokens import TokenSession

__all__ = [
    "Options",
    "Restructured",
    "Samples",
    "Session",
    "SpikingOptions",
    "TokenSession",
    "UserError",
    "exchange_operator",
    "from_snntorch",
    "from_torch",
    "load_model",
    "load_tokens",
    "open_plan",
    "restructure_network",
    "split_network",
]
__version__ = "0.1.0"

_HOMES = {
    "load_model": "model.importers.load",
    "load_tokens": "model.importers.load",
    "from_snntorch": "model.importers.snntorch.load",
    "from_torch": "model.importers.torch",
    "SpikingOptions": "model.importers.nir.options",
    "Samples": "io.samples",
    "Options": "restructure.options",
    "restructure_network": "restructure.job",
    "Restructured": "restructure.job",
    "split_network": "restructure.exact",
    "Session": "runtime.session",
    "TokenSession": "runtime.tokens",
    "open_plan": "plan.files.store",
    "exchange_operator": "plan.operators",
    "UserError": "errors",
}

# The Numba kernels live in ``kernels/`` at the top of the checkout and are installed as
# ``repurpose_hpc.kernels``.  In a checkout they are found beside this package.
_package = Path(__file__).resolve().parent
if not (_package / "kernels").is_dir() and (_package.parent / "kernels" / "jit.py").is_file():
    __path__.append(str(_package.parent))


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(import_module(f"repurpose_hpc.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
