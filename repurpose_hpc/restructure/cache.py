"""Restructured networks kept for the next run, by all that they depend on."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict
from pathlib import Path

import numpy as np

from repurpose_hpc import __version__
from repurpose_hpc.errors import UserError
from repurpose_hpc.io.samples import Samples
from repurpose_hpc.model.network import Network
from repurpose_hpc.plan.files.store import FORMAT_VERSION, open_plan
from repurpose_hpc.restructure.options import Options


def look_up(
    network: Network, calibration: Samples | None, options: Options, dtype: np.dtype
) -> tuple[Path, bool]:
    """Look for the shards of ``network`` in the cache.

    Args:
        network: trained.
        calibration: data to restructure with; None: the plan needs none.
        options: how.
        dtype: of the weights in the shards.

    Returns:
        the directory that has, or should have, the plan, and True if it is there and usable.

    Raises:
        UserError: the calibration data cannot be read.
    """
    directory = cache_directory() / _key(network, calibration, options, dtype)
    return directory, _is_usable(directory)


def cache_directory() -> Path:
    """``$REPURPOSE_HPC_CACHE``, else ``$XDG_CACHE_HOME/repurpose-hpc``, else ``~/.cache/repurpose-hpc``.

    Every node must see it.
    """
    if chosen := os.environ.get("REPURPOSE_HPC_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()) / "repurpose-hpc"


def _key(network: Network, calibration: Samples | None, options: Options, dtype: np.dtype) -> str:
    parts = {
        "model": network.fingerprint(),
        "calibration": None if calibration is None else calibration.fingerprint(),
        "options": asdict(options),
        "dtype": dtype.name,
        "version": __version__,
        "format": FORMAT_VERSION,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


def _is_usable(directory: Path) -> bool:
    """True if a plan is there and readable; a damaged one is made anew."""
    try:
        open_plan(directory)
    except UserError:
        return False
    return True
