"""The networks of a scaling study, and the shards of each for a number of ranks.

*Strong*: the user's model, or a synthetic network, the same for every number of ranks.  *Weak*: synthetic
networks whose width grows with the square root of the ranks, so that the weights per rank stay the same.

A synthetic network is a chain of square layers with random weights.  It computes nothing sensible, and how
it is restructured matters only for what is sent: by default the columns of largest norm are kept until
the budget is used up, which takes seconds where fitting the weights to data takes minutes.  Random weights
prefer no neighbour, so every rank sends something to every other one.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import numpy as np

from repurpose_hpc import __version__
from repurpose_hpc.data import Samples, check_width, open_samples
from repurpose_hpc.errors import UserError
from repurpose_hpc.files import replacing, writing
from repurpose_hpc.model.activations import IDENTITY, RELU
from repurpose_hpc.model.chain import chain
from repurpose_hpc.model.load import load_model
from repurpose_hpc.model.network import Network
from repurpose_hpc.plan.files import read_plan, write_plan
from repurpose_hpc.plan.plan import dense_plan
from repurpose_hpc.restructure.job import restructure_to
from repurpose_hpc.restructure.options import Options
from repurpose_hpc.restructure.team import Team
from repurpose_hpc.scaling_table import DENSE
from repurpose_hpc.shard_cache import look_up

# Of a synthetic network's calibration data: enough to restructure without looking at data.
SYNTHETIC_SAMPLES = 256


class Networks(Protocol):
    """The networks of a study, by the number of ranks."""

    def network(self, ranks: int) -> Network:
        """That which so many ranks run."""

    def calibration(self, ranks: int) -> Samples | None:
        """What it is restructured with; None: nothing is."""

    def origin(self) -> dict:
        """What distinguishes them."""


@dataclass(frozen=True, eq=False)
class TrainedNetwork:
    """The user's model.

    Attributes:
        path: its file.
        trained: the network.
        samples: calibration data; None: shards are given.
    """

    path: Path
    trained: Network
    samples: Samples | None

    def network(self, ranks: int) -> Network:
        return self.trained

    def calibration(self, ranks: int) -> Samples | None:
        return self.samples

    def origin(self) -> dict:
        samples = self.samples and {"path": str(self.samples.path), "sha256": self.samples.fingerprint()}
        return {
            "model": {"path": str(self.path), "sha256": self.trained.fingerprint()},
            "calibration": samples,
        }


@dataclass(frozen=True)
class SyntheticNetworks:
    """Chains of square layers.

    Attributes:
        width: neurons of a layer on one rank.
        layers: how many.
        grows: whether the width goes with the square root of the ranks.
        seed: of weights and samples.
        folder: gets the calibration data.
    """

    width: int
    layers: int
    grows: bool
    seed: int
    folder: Path

    def neurons(self, ranks: int) -> int:
        """Width of the network that ``ranks`` ranks run."""
        return round(self.width * math.sqrt(ranks)) if self.grows else self.width

    @lru_cache(maxsize=1)  # noqa: B019 (there is one such object in a process)
    def network(self, ranks: int) -> Network:
        n, draw = self.neurons(ranks), np.random.default_rng(self.seed)
        scale = np.float32(math.sqrt(2 / n))
        weights = [scale * draw.standard_normal((n, n), np.float32) for _ in range(self.layers)]
        biases = [np.zeros(n, np.float32)] * self.layers
        return chain(weights, biases, [RELU] * (self.layers - 1) + [IDENTITY])

    def calibration(self, ranks: int) -> Samples:
        n = self.neurons(ranks)
        path = self.folder / f"calibration-{n}.npy"
        if not path.exists():
            samples = np.random.default_rng([self.seed, 1]).standard_normal(
                (SYNTHETIC_SAMPLES, n), np.float32
            )
            with replacing(path) as temporary, open(temporary, "wb") as file:
                np.save(file, samples)
        return open_samples(path)

    def origin(self) -> dict:
        return {"width": self.width, "layers": self.layers, "grows": self.grows}


@dataclass(frozen=True, eq=False)
class Subject:
    """What is measured.

    Attributes:
        networks: by the number of ranks.
        options: of restructuring; the workers are as many as the ranks.
        dtype: to compute in, and of the shards.
        given: where the restructured shards are, with ``{ranks}`` in it; None: they are made.
    """

    networks: Networks
    options: Options
    dtype: np.dtype
    given: str | None

    def origin(self) -> dict:
        """What the points of a table must have in common (see ``scaling_table.Table``)."""
        options = {name: value for name, value in asdict(self.options).items() if name != "workers"}
        return {
            "version": __version__,
            **self.networks.origin(),
            "options": options,
            "dtype": self.dtype.name,
            "shards": self.given,
        }

    def shards(self, ranks: int, form: str, team: Team, log: Callable[[str], None]) -> Path:
        """Where the shards of a point are; they are made if they are not there.

        Raises:
            UserError: they cannot be made, or those given are of another model.
        """
        if form == DENSE:
            return self._dense(ranks)
        return self._check_given(ranks) if self.given else self._restructured(ranks, team, log)

    def _dense(self, ranks: int) -> Path:
        network = self.networks.network(ranks)
        options = replace(self.options, workers=ranks, comm_budget=1.0)
        directory, there = look_up(network, None, options, self.dtype)
        if not there:
            plan = dense_plan(network, ranks, options.input_placement, np.ones(ranks))
            provenance = {"model_fingerprint": network.fingerprint(), "options": asdict(options)}
            write_plan(directory, network, plan, provenance, self.dtype.type)
        return directory

    def _restructured(self, ranks: int, team: Team, log: Callable[[str], None]) -> Path:
        network, samples = self.networks.network(ranks), self.networks.calibration(ranks)
        options = replace(self.options, workers=ranks)
        directory, there = look_up(network, samples, options, self.dtype)
        if not there:
            restructure_to(directory, network, samples, options, self.dtype.type, log, team)
        return directory

    def _check_given(self, ranks: int) -> Path:
        directory = Path(self.given.replace("{ranks}", str(ranks)))
        stored = read_plan(directory)
        found, expected = (
            stored.provenance.get("model_fingerprint"),
            self.networks.network(ranks).fingerprint(),
        )
        if found != expected:
            raise UserError(
                f"{directory}: expected shards of the model (fingerprint {expected[:12]}), found those of "
                f"another one ({str(found)[:12]}); name the model that was restructured"
            )
        if stored.plan.workers < ranks:
            raise UserError(
                f"{directory}: expected shards for {ranks} workers, found {stored.plan.workers}; put "
                "{ranks} into --shards, or leave these ranks out"
            )
        return directory


def open_subject(args: argparse.Namespace) -> Subject:
    """Open the files that a command line names, and make the output directory.

    Raises:
        UserError: a file cannot be read, model and data do not fit, or nothing can be written.
    """
    with writing(args.out):
        args.out.mkdir(parents=True, exist_ok=True)
    if args.model is None:
        networks = SyntheticNetworks(args.width, args.layers, args.kind == "weak", args.seed, args.out)
    else:
        samples = open_samples(args.calibration) if args.calibration else None
        networks = TrainedNetwork(args.model, load_model(args.model), samples)
        if samples is not None:
            check_width(samples, networks.trained.inputs)
    return Subject(networks, args.options, np.dtype(args.dtype), args.shards)
