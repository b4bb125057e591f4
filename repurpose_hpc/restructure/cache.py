"""Restructured networks kept for the next run, by all that they depend on."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from dataclasses import asdict
from pathlib import Path

import numpy as np

from repurpose_hpc import __version__
from repurpose_hpc.errors import UserError
from repurpose_hpc.io.atomic import writing
from repurpose_hpc.io.samples import Samples
from repurpose_hpc.model.network import Network
from repurpose_hpc.plan.files.store import FORMAT_VERSION, is_complete, open_plan
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
        UserError: the calibration data cannot be read, or the cache is not the user's own.
    """
    directory = ready_cache() / _key(network, calibration, options, dtype)
    return directory, _is_usable(directory, network, options)


def cache_directory() -> Path:
    """``$REPURPOSE_HPC_CACHE``, else ``$XDG_CACHE_HOME/repurpose-hpc``, else ``~/.cache/repurpose-hpc``.

    Every node must see it.

    Raises:
        UserError: the user has no home directory.
    """
    if chosen := os.environ.get("REPURPOSE_HPC_CACHE"):
        return Path(chosen)
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()) / "repurpose-hpc"
    except RuntimeError:  # neither HOME nor an entry for the user
        raise UserError(
            "expected a home directory for the cache, found none for this user; set REPURPOSE_HPC_CACHE"
        ) from None


def ready_cache() -> Path:
    """``cache_directory()``, made if need be, into which nobody else can put anything.

    Raises:
        UserError: it cannot be made, is another user's, or others may write to it.
    """
    directory = cache_directory()
    with writing(directory):
        directory.parent.mkdir(parents=True, exist_ok=True)
        directory.mkdir(mode=0o700, exist_ok=True)
        about = directory.stat()
    if about.st_uid != os.geteuid() or about.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise UserError(
            f"{directory}: expected a directory of the user's own, in which nobody else can write, found one "
            f"of user {about.st_uid} with mode {stat.S_IMODE(about.st_mode):o}; chmod 700 it, or set "
            "REPURPOSE_HPC_CACHE to another one"
        )
    return directory


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


def _is_usable(directory: Path, network: Network, options: Options) -> bool:
    """True if the plan of ``network`` with ``options`` is there, whole; else it is made anew."""
    try:
        stored = open_plan(directory)
    except UserError:
        return False
    recorded, wanted = stored.provenance.get("options", {}), json.loads(json.dumps(asdict(options)))
    found = {name: recorded.get(name) for name in options.found}
    belongs = stored.provenance.get("model_fingerprint") == network.fingerprint()
    return belongs and recorded == {**wanted, **found} and is_complete(stored)
