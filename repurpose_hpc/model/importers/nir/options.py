"""What ``.nir`` files do not say, as options."""

from __future__ import annotations

from dataclasses import dataclass, replace

from repurpose_hpc.fields import Declared, FieldError, choice, integer, number, option, yes
from repurpose_hpc.model.coding import CODINGS, coded
from repurpose_hpc.model.importers.nir.conventions import CONVENTIONS, Convention
from repurpose_hpc.model.importers.spiking.readout import READ_OUTS, TRAINS
from repurpose_hpc.model.network import Network
from repurpose_hpc.model.operations.membrane import RESETS


@dataclass(frozen=True, kw_only=True)
class SpikingOptions(Declared):
    """How a spiking network in a .nir file is read."""

    steps: int | None = option(
        None,
        kind=integer(1),
        metavar="T",
        default_text="required for .nir files",
        help="of a .nir file: steps of a sample",
    )
    convention: str | None = option(
        None,
        kind=choice(*CONVENTIONS, example="snntorch"),
        default_text="required for .nir files",
        help="of a .nir file: the program that wrote it, or nir for Euler steps of NIR's equations",
        more="of a `.nir` file: the program that wrote it, which says what time constants mean, how a step "
        "is computed and what a spike does ([the table](docs/spiking.md#what-a-step-computes)); `nir`: Euler "
        "steps of NIR's equations",
    )
    time_step: float | None = option(
        None,
        kind=number(above=0, example=1e-4),
        metavar="S",
        unit="seconds",
        default_text="that of the convention",
        help="of a .nir file: length of a step",
    )
    reset: str | None = option(
        None,
        kind=choice(*RESETS),
        default_text="that of the convention",
        help="of a .nir file: a spike subtracts the threshold, sets the potential to v_reset, or does "
        "nothing to it",
    )
    reset_delay: bool | None = option(
        None,
        kind=yes(),
        negatable=True,
        default_text="that of the convention",
        help="of a .nir file: spikes reset in the next step, not at once",
    )
    read_out: str = option(
        "count",
        kind=choice(*READ_OUTS),
        help="of a .nir file: outputs are sums over all steps, the last ones, the largest ones, means, or "
        "whole trains (steps, outputs)",
    )

    coding: str = option(
        TRAINS,
        kind=choice(TRAINS, *CODINGS),
        help="of a .nir file: what samples are; trains: as they are, else without steps: the same value in "
        "every step, spikes with the value as probability, or one that comes the sooner the larger it is",
        more="of a `.nir` file: what samples are. `trains`: (steps, ...), as they are; else they have no "
        "steps: `constant` reads the same value in every step, `rate` fires with the value as probability, "
        "`latency` once, the sooner the larger the value is ([how](docs/spiking.md#samples-without-steps))",
    )
    coding_seed: int = option(0, kind=integer(0), help="of a .nir file: seed of the noise of --coding rate")

    def coded(self, network: Network) -> Network:
        """The network with the coding in front of it."""
        return network if self.coding == TRAINS else coded(network, self.coding, self.coding_seed)

    def settled(self) -> Rules:
        """What holds for a file.

        Raises:
            FieldError: an option is missing, or has no meaning.
        """
        if self.steps is None:
            raise FieldError(
                "steps", "expected how many steps a sample has, which no .nir file says; try steps=100"
            )
        if self.convention is None:
            raise FieldError(
                "convention",
                f"expected one of {', '.join(CONVENTIONS)}: a .nir file does not say which program wrote it, "
                "and they mean different things by the same numbers; try convention='snntorch'",
            )
        convention = CONVENTIONS[self.convention]
        if self.time_step is not None and convention.counts_steps:
            raise FieldError(
                "time_step",
                f"expected none, as {convention.writer} writes time constants in steps, got "
                f"{self.time_step:g} seconds; leave it out",
            )
        step = convention.time_step if self.time_step is None else self.time_step
        if step is None:
            raise FieldError(
                "time_step",
                "expected the length of a step in seconds: the file has time constants in seconds and lacks "
                "the time step; try time_step=0.0001",
            )
        convention = replace(
            convention,
            reset=convention.reset if self.reset is None else self.reset,
            is_delayed=convention.is_delayed if self.reset_delay is None else self.reset_delay,
        )
        return Rules(self.steps, convention, step, self.read_out)


@dataclass(frozen=True)
class Rules:
    """How a file is read.

    Attributes:
        steps: of a sample.
        convention: with what the user wants otherwise.
        time_step: in the unit of time constants, seconds or steps.
        read_out: of the last layer.
    """

    steps: int
    convention: Convention
    time_step: float
    read_out: str

    @property
    def unit(self) -> str:
        """That of times."""
        return "steps" if self.convention.counts_steps else "s"

    def __str__(self) -> str:
        convention = self.convention
        step = "times in steps" if convention.counts_steps else f"a step is {self.time_step:g} s"
        effect = {"subtract": "subtracts the threshold", "set": "sets the potential to v_reset"}
        delay = "in the next step" if convention.is_delayed else "at once"
        reset = f"a spike {effect[convention.reset]} {delay}" if convention.reset in effect else "no reset"
        fires = "from the threshold on" if convention.fires_at_threshold else "above the threshold"
        return (
            f"read by the rules of {convention.writer}: "
            f"{self.steps} steps, {step}, neurons fire {fires}, {reset}, outputs: {self.read_out}"
        )
