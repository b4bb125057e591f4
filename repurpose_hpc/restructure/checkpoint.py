"""Decisions of an interrupted restructuring, kept on disk until it is complete.

The directory's name says what the run depends on: a run with the same model, data and options goes on
after the last finished mixing, any other begins anew.  The result is the same, bit for bit.

``decisions.npz`` holds all but the weights and is replaced after every mixing; the weights of each finished
mixing have a file of their own, written before it.  Each is an archive of arrays behind a line that has its
checksum: damage to the directory of an archive can hide arrays from its own.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from repurpose_hpc.errors import UserError
from repurpose_hpc.io.atomic import writing
from repurpose_hpc.io.sealed import read_arrays, write_arrays
from repurpose_hpc.model.network import Network
from repurpose_hpc.model.operations import Mixing
from repurpose_hpc.plan.masks import MixingPlan
from repurpose_hpc.plan.relays import Relays
from repurpose_hpc.restructure.decisions import Decisions

# Another layout of the files makes another directory: what it does not know is begun anew.
LAYOUT = 7
_KIND = "repurpose-hpc-checkpoint"


class Checkpoint:
    """The decisions of one run.

    Args:
        directory: of all runs for one output; made when first needed.
        parts: what the run depends on, JSON values.
    """

    def __init__(self, directory: Path, parts: Mapping[str, object]) -> None:
        key = hashlib.sha256(json.dumps({**parts, "layout": LAYOUT}, sort_keys=True).encode()).hexdigest()
        self.directory = directory / key[:16]
        # Mixings whose weights are known to be on disk.
        self._saved: dict[str, Mixing] = {}

    def load(self, network: Network) -> Decisions | None:
        """The decisions that were saved; None if none were, or they are damaged.

        Args:
            network: as it was trained.
        """
        try:
            decisions = _decisions(_read(self._path()), lambda name: _read(self._path(name)), network)
        except Exception:  # damage makes parsers raise anything
            return None
        self._saved = dict(decisions.finished)
        return decisions

    def save(self, decisions: Decisions) -> None:
        """Save decisions; weights that were saved before are not written again.

        Another run for the same output, which has finished, may have removed the directory: nothing is saved.

        Raises:
            UserError: they cannot be written.
        """
        for name, mixing in decisions.finished.items():
            if self._saved.get(name) is not mixing:
                self._write(self._path(name), {"weights": mixing.weights, "bias": mixing.bias})
                self._saved[name] = mixing
        self._write(self._path(), _arrays(decisions))

    def _write(self, path: Path, arrays: dict[str, Any]) -> None:
        with writing(path):
            self.directory.mkdir(parents=True, exist_ok=True)
        try:
            write_arrays(path, arrays, _KIND, LAYOUT)
        except UserError:
            if self.directory.exists():
                raise

    def _path(self, mixing: str | None = None) -> Path:
        """The file of the weights of a mixing, or of all else."""
        if mixing is None:
            return self.directory / "decisions.npz"
        return self.directory / (hashlib.sha256(mixing.encode()).hexdigest()[:16] + ".npz")


def _read(path: Path) -> dict[str, np.ndarray]:
    return read_arrays(path, _KIND, LAYOUT)


def _arrays(decisions: Decisions) -> dict[str, Any]:
    """Decisions but for the weights, by names that ``_named`` takes apart."""
    masks = decisions.masks.items()
    return {
        "budget": np.array(decisions.budget),
        "weights_left": np.array(decisions.weights_left),
        "exact": np.array(decisions.exact),
        "is_careful": np.array(decisions.is_careful),
        "finished": np.array([*decisions.finished], str),
        **{f"owners {name}": owner for name, owner in decisions.owners.items()},
        **{f"capacities {name}": capacity for name, capacity in decisions.capacities.items()},
        **{f"shares {name}": shares for name, shares in decisions.shares.items()},
        **{f"scales {name}": scales for name, scales in decisions.scales.items()},
        **{f"removed {name}": removed for name, removed in decisions.removed.items()},
        **{f"outliers {name}": outliers for name, outliers in decisions.outliers.items()},
        **{f"ghosts {name}": mask.ghosts for name, mask in masks},
        **{f"sums {name}": mask.sums for name, mask in masks},
        **{
            f"relays {part} {name}": array
            for name, relays in decisions.relays.items()
            for part, array in vars(relays).items()
        },
    }


def _decisions(
    arrays: Mapping[str, np.ndarray], read: Callable[[str], Mapping[str, np.ndarray]], network: Network
) -> Decisions:
    """The decisions of which ``_arrays`` made ``arrays``.

    Args:
        arrays: see there.
        read: mixing -> its weights and bias.
        network: as it was trained.
    """
    names = arrays["finished"].tolist()
    weights = {name: read(name) for name in names}
    mixings = {mixing.name: mixing for mixing in network.mixings}
    ghosts, sums = _named(arrays, "ghosts"), _named(arrays, "sums")
    return Decisions(
        owners=_named(arrays, "owners"),
        capacities=_named(arrays, "capacities"),
        masks={name: MixingPlan(ghosts[name], sums[name]) for name in ghosts},
        scales=_named(arrays, "scales"),
        finished={
            name: replace(mixings[name], weights=saved["weights"], bias=saved["bias"])
            for name, saved in weights.items()
        },
        budget=float(arrays["budget"]),
        weights_left=float(arrays["weights_left"]),
        exact=bool(arrays["exact"]),
        is_careful=bool(arrays["is_careful"]),
        shares=_named(arrays, "shares"),
        relays=_relays(arrays),
        removed=_named(arrays, "removed"),
        outliers=_named(arrays, "outliers"),
    )


def _relays(arrays: Mapping[str, np.ndarray]) -> dict[str, Relays]:
    parts = {part.name: _named(arrays, f"relays {part.name}") for part in fields(Relays)}
    return {name: Relays(**{part: named[name] for part, named in parts.items()}) for name in parts["sender"]}


def _named(arrays: Mapping[str, np.ndarray], kind: str) -> dict[str, np.ndarray]:
    """The arrays of one kind, by the names behind it."""
    prefix = f"{kind} "
    return {key.removeprefix(prefix): array for key, array in arrays.items() if key.startswith(prefix)}
