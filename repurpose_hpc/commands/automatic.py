"""Options that command lines may leave to a machine file, with the words ``auto`` and ``time``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from repurpose_hpc.errors import UserError
from repurpose_hpc.fields import Declared, FieldError
from repurpose_hpc.forecast.machine import THIS, THIS_FILE, MachineModel, machine_file, read_machine, shipped

if TYPE_CHECKING:
    from repurpose_hpc.forecast.modelled import ModelledTime


@dataclass(frozen=True, kw_only=True)
class MachineSource(Declared):
    """The machine that ``auto`` and ``time`` go by."""

    machine: str = machine_file(
        THIS,
        help=f"the machine file that auto and time go by, such as {', '.join(shipped())}; {THIS}: written by "
        "probe; with texts also for the forecast in the report",
        more="the machine file that `--part-weights auto` goes by, with the rate of every rank, and "
        "`--round-cost auto` and `--minimise time`, with links ([some](docs/forecast.md#machine-files) come "
        "with the package); "
        f"with texts also for the forecast in the report; `{THIS}`: where `probe` writes it",
    )


def measured_part_weights(machine: str, workers: int, hosts: int | None) -> tuple[float, ...]:
    """The part weights that suit the ranks of a machine file.

    The ranks host the workers as those of ``infer`` do.

    Args:
        machine: its name, see ``read_machine``.
        workers: parts of the network.
        hosts: ranks that will run it; None: as many as were measured.

    Raises:
        UserError: there is no such file, it has no rates, or those of another number of ranks.
    """
    # Imported where they are needed: they bring Numba and h5py along.
    from repurpose_hpc.runtime.balance import part_weights

    rates = named_machine(machine).all_ranks_gb_per_s
    if rates is None:
        raise FieldError(
            "machine",
            f"expected a machine file with the rate of every rank, found none in {machine}; write one: "
            f"mpirun -n {hosts or workers} python -m repurpose_hpc probe, or give part weights as numbers",
        )
    if hosts not in (None, len(rates)):
        raise FieldError(
            "machine",
            f"expected rates of the {hosts} ranks that run, found those of {len(rates)} in {machine}; probe "
            f"again: mpirun -n {hosts} python -m repurpose_hpc probe",
        )
    if len(rates) > workers:
        raise FieldError(
            "machine",
            f"expected rates of at most {workers} ranks, one for each worker, found {len(rates)} in "
            f"{machine}; probe again: mpirun -n {workers} python -m repurpose_hpc probe, or restructure for "
            f"workers={len(rates)}",
        )
    return part_weights(rates, workers)


def modelled_round_cost(machine: str, ranks: int) -> float:
    """The price of a round between so many ranks of a machine, in values.

    Args:
        machine: its name, see ``read_machine``.
        ranks: that will run the network.

    Raises:
        UserError: there is no such file, or it has no links for so many ranks.
    """
    from repurpose_hpc.forecast.rounds import round_cost

    return round_cost(named_machine(machine), ranks)


def modelled_time(machine: str, workers: int, hosts: int | None) -> ModelledTime:
    """The model of time of a machine.

    Args:
        machine: its name, see ``read_machine``.
        workers: parts of the network.
        hosts: ranks that will run it; None: as many.

    Raises:
        UserError: there is no such file, it has no links for so many ranks, or ranks host several workers.
    """
    from repurpose_hpc.forecast.modelled import ModelledTime

    if hosts not in (None, workers):
        raise FieldError(
            "minimise",
            f"expected as many ranks as workers, since the model of time has a worker on each, found {hosts} "
            f"ranks for workers={workers}; start {workers} ranks, or run restructure and then infer",
        )
    model = ModelledTime(named_machine(machine))
    model.machine.check_links(workers)
    return model


def known_machine(machine: str | None, workers: int) -> MachineModel | None:
    """The machine that a network is forecast on: the one that is named, else this one if it is known.

    Args:
        machine: its name, see ``read_machine``; None: ``THIS``.
        workers: parts of the network, a rank for each.

    Returns:
        None: none is named, and of this one there is no file that can be read and has such links.

    Raises:
        UserError: there is no such file, or it has no links for so many ranks.
    """
    try:
        model = named_machine(machine or THIS)
        model.check_links(workers)
    except UserError:
        if machine is None:  # nobody has asked for it
            return None
        raise
    return model


def named_machine(machine: str) -> MachineModel:
    """The machine of that name, see ``read_machine``.

    Raises:
        UserError: there is no such file, or what it says is no machine.
    """
    from repurpose_hpc.restructure.cache import cache_directory

    return read_machine(machine, cache_directory() / THIS_FILE)
