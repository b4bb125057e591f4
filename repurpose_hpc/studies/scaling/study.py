"""The networks of a scaling study, and the shards of each for a number of ranks.

*Strong*: the user's model, or a synthetic network, the same for every number of ranks.  *Weak*: synthetic
networks whose width grows with the square root of the ranks, so that the weights per rank stay the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from repurpose_hpc import __version__
from repurpose_hpc.errors import UserError
from repurpose_hpc.io.atomic import writing
from repurpose_hpc.io.samples import Samples, open_samples
from repurpose_hpc.model.importers.input_shapes import shapes_of
from repurpose_hpc.model.importers.load import load_model
from repurpose_hpc.model.network import Network
from repurpose_hpc.plan.files.store import check_model, open_plan, write_plan
from repurpose_hpc.plan.plan import dense_plan
from repurpose_hpc.restructure.cache import look_up
from repurpose_hpc.restructure.job import restructure_to
from repurpose_hpc.restructure.options import Options
from repurpose_hpc.restructure.synthetic import cut_at_budget, random_network
from repurpose_hpc.restructure.team import Team
from repurpose_hpc.studies.scaling.options import ScalingOptions
from repurpose_hpc.studies.scaling.table import DENSE

Log = Callable[[str], None]


class Networks(Protocol):
    """The networks of a study, by the number of ranks.

    Attributes:
        samples: calibration data; None: there are none.
    """

    @property
    def samples(self) -> Samples | None: ...

    def network(self, ranks: int) -> Network:
        """The network that so many ranks run."""

    def origin(self) -> dict[str, Any]:
        """The values that distinguish them."""

    def restructure(self, directory: Path, options: Options, dtype: type, team: Team, log: Log) -> None:
        """Write the shards for ``options.workers`` ranks."""


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

    def origin(self) -> dict[str, Any]:
        model = {"path": str(self.path), "sha256": self.trained.fingerprint()}
        if self.samples is None:
            return {"model": model}
        calibration = {"path": self.samples.name, "sha256": self.samples.fingerprint()}
        return {"model": model, "calibration": calibration}

    def restructure(self, directory: Path, options: Options, dtype: type, team: Team, log: Log) -> None:
        if self.samples is None:
            raise ValueError("shards are given")
        restructure_to(directory, self.trained, self.samples, options, dtype, log, team, measures=False)


@dataclass(frozen=True)
class SyntheticNetworks:
    """Chains of square layers with random weights; see ``restructure.synthetic``.

    Attributes:
        width: neurons of a layer on one rank.
        layers: number of layers.
        grows: whether the width goes with the square root of the ranks.
        seed: of the weights.
    """

    width: int
    layers: int
    grows: bool
    seed: int

    @property
    def samples(self) -> None:
        """None: they are cut by their weights."""
        return None

    def network(self, ranks: int) -> Network:
        width = round(self.width * math.sqrt(ranks)) if self.grows else self.width
        return random_network(width, self.layers, self.seed)

    def origin(self) -> dict[str, Any]:
        return {"width": self.width, "layers": self.layers}

    def restructure(self, directory: Path, options: Options, dtype: type, team: Team, log: Log) -> None:
        network = self.network(options.workers)
        cut, plan = cut_at_budget(network, options)
        write_plan(directory, cut, plan, _provenance(network, options), dtype)


@dataclass(frozen=True, eq=False)
class ScalingStudy:
    """Networks to measure.

    Attributes:
        networks: by the number of ranks.
        options: of restructuring; the workers are as many as the ranks.
        dtype: to compute in, and of the shards.
        shard_pattern: where the restructured shards are, with ``{ranks}`` in it; None: they are made.
    """

    networks: Networks
    options: Options
    dtype: np.dtype
    shard_pattern: str | None

    def origin(self) -> dict[str, Any]:
        """Origin that the points of a table have in common (see ``ScalingTable``)."""
        options = {name: value for name, value in asdict(self.options).items() if name != "workers"}
        return {
            "version": __version__,
            **self.networks.origin(),
            "options": options,
            "dtype": self.dtype.name,
            "shards": self.shard_pattern,
        }

    def shards(self, ranks: int, form: str, team: Team, log: Log) -> Path:
        """Directory of the shards of a point, which are made unless they are in the cache.

        Raises:
            UserError: they cannot be made, or those given are of another model.
        """
        if form == DENSE:
            return self._dense(ranks)
        if self.shard_pattern is not None:
            return self._checked(Path(self.shard_pattern.replace("{ranks}", str(ranks))), ranks)
        return self._restructured(ranks, team, log)

    def _dense(self, ranks: int) -> Path:
        network = self.networks.network(ranks)
        options = replace(self.options, workers=ranks, comm_budget=1.0)
        directory, is_cached = look_up(network, None, options, self.dtype)
        if not is_cached:
            plan = dense_plan(network, ranks, options.input_placement, np.ones(ranks))
            write_plan(directory, network, plan, _provenance(network, options), self.dtype.type)
        return directory

    def _restructured(self, ranks: int, team: Team, log: Log) -> Path:
        options = replace(self.options, workers=ranks)
        network = self.networks.network(ranks)
        directory, is_cached = look_up(network, self.networks.samples, options, self.dtype)
        if not is_cached:
            self.networks.restructure(directory, options, self.dtype.type, team, log)
        return directory

    def _checked(self, directory: Path, ranks: int) -> Path:
        """``directory`` if its shards are of the network, for so many ranks."""
        stored = open_plan(directory)
        stored.check_samples()
        network = self.networks.network(ranks)
        check_model(stored, network, "the model", "name the model that was restructured")
        if stored.plan.workers < ranks:
            raise UserError(
                f"{directory}: expected shards for {ranks} workers, found {stored.plan.workers}; put "
                "{ranks} into --shards, or leave these ranks out"
            )
        return directory


def _provenance(network: Network, options: Options) -> dict[str, Any]:
    return {"model_fingerprint": network.fingerprint(), "options": asdict(options)}


def open_study(args: ScalingOptions) -> ScalingStudy:
    """Open the files that a command line names, and make the output directory.

    Raises:
        UserError: a file cannot be read, model and data do not fit, or nothing can be written.
    """
    with writing(args.out):
        args.out.mkdir(parents=True, exist_ok=True)
    return ScalingStudy(_networks(args), args.options, np.dtype(args.dtype), args.shards)


def _networks(args: ScalingOptions) -> Networks:
    if args.model is None:
        return SyntheticNetworks(args.width, args.layers, args.kind == "weak", args.seed)
    trained = load_model(args.model, shapes_of(args.input_shape), spiking=args.spiking)
    if not args.calibration:
        return TrainedNetwork(args.model, trained, None)
    samples = open_samples(args.calibration)
    trained.ends.check(samples, trained.input_shape)
    return TrainedNetwork(args.model, trained, samples)
