"""Options of scaling studies."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from repurpose_hpc.fields import (
    Access,
    Declared,
    batches,
    choice,
    integer,
    like,
    listed,
    number,
    option,
    path,
    precision,
    text,
)
from repurpose_hpc.model.importers.input_shapes import option_of_shapes
from repurpose_hpc.model.importers.nir.options import SpikingOptions
from repurpose_hpc.restructure.options import Options
from repurpose_hpc.studies.scaling.table import DENSE, RESTRUCTURED

STRONG, WEAK = "strong", "weak"


@dataclass(frozen=True, kw_only=True)
class ScalingOptions(Declared):
    """The network that is measured, how often, and with which launcher."""

    kind: str = option(
        kind=choice(STRONG, WEAK),
        positional=True,
        help="strong: one network; weak: as many weights for every rank",
    )
    model: Path | None = option(
        None,
        kind=path("model.npz"),
        positional=True,
        default_text="a synthetic network",
        help=".npz, .safetensors, .onnx or .nir, for strong",
    )
    input_shape: tuple[str, ...] = option_of_shapes()
    ranks: tuple[int, ...] = option(
        kind=listed(integer(1), "integers", (1, 2, 4)), metavar="P,P,...", help="numbers of ranks"
    )
    out: Path = option(
        kind=path("scaling", Access.ADDS), metavar="DIR", help="gets scaling.csv, .json and .png"
    )
    launcher: str = option(
        "mpirun",
        kind=text("a command line", "mpirun"),
        metavar="L",
        help="mpirun, srun, or a command line such as 'mpirun --bind-to core'; '-n P' is added, or put where "
        "it says {ranks}",
    )
    batches: tuple[int, ...] = batches()
    width: int = option(
        1024, kind=integer(1), metavar="N", help="neurons of a layer of the synthetic network, on one rank"
    )
    layers: int = option(4, kind=integer(1), metavar="L", help="layers of the synthetic network")
    shards: str | None = option(
        None,
        kind=text("a path", "shards-{ranks}"),
        metavar="PATTERN",
        help="take the restructured shards from here instead; {ranks} stands for the number of ranks",
    )
    repeat: int = option(50, kind=integer(1), metavar="N", help="most forwards to time")
    seconds: float = option(
        2.0,
        kind=number(least=0),
        metavar="S",
        unit="seconds",
        help="fewer, but 5, where they would take longer than this",
    )
    timeout: float = option(
        1800.0,
        kind=number(above=0),
        metavar="S",
        unit="seconds",
        help="a launch that takes longer has failed",
    )
    dtype: str = precision()
    calibration: Path | None = option(
        None, kind=path("samples.npz"), metavar="DATA", help="samples to restructure MODEL with"
    )
    comm_budget: float = like(Options, "comm_budget", excludes="")
    input_placement: str = like(Options, "input_placement")
    method: str | None = like(Options, "method", None, default_text=Options.method)
    assignment: str | None = like(Options, "assignment", None, default_text=Options.assignment)
    seed: int = like(Options, "seed")
    spiking: SpikingOptions = SpikingOptions()

    @property
    def options(self) -> Options:
        """Options of restructuring; every point replaces the number of workers by its own."""
        synthetic = self.model is None
        return Options(
            workers=1,
            comm_budget=self.comm_budget,
            input_placement=self.input_placement,
            method=self.method or ("magnitude" if synthetic else Options.method),
            assignment=self.assignment or ("contiguous" if synthetic else Options.assignment),
            seed=self.seed,
        )

    @property
    def batch_sizes(self) -> list[int]:
        """Samples per forward, ascending, each once."""
        return sorted(set(self.batches))

    @property
    def points(self) -> list[tuple[int, str]]:
        """Ranks and forms, in the order of measuring."""
        # One rank sends nothing to anybody: dense is all there is.
        forms = {ranks: (DENSE, RESTRUCTURED) if ranks > 1 else (DENSE,) for ranks in sorted(set(self.ranks))}
        return [(ranks, form) for ranks, forms_of_ranks in forms.items() for form in forms_of_ranks]
