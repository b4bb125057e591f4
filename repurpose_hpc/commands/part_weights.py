"""Part weights as command lines name them: numbers, or ``auto`` for what ``probe`` measured."""

from __future__ import annotations

from dataclasses import dataclass

from repurpose_hpc.fields import Declared, FieldError
from repurpose_hpc.forecast.machine import THIS, THIS_FILE, machine_file, read_machine


@dataclass(frozen=True, kw_only=True)
class RateSource(Declared):
    """The machine whose ranks ``auto`` goes by."""

    machine: str = machine_file(
        THIS,
        help=f"the machine file that --part-weights auto goes by; {THIS}: where probe writes it",
        more="the machine file, with the rate of every rank, that `--part-weights auto` goes by; "
        f"`{THIS}`: where `probe` writes it",
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
    from repurpose_hpc.restructure.cache import cache_directory
    from repurpose_hpc.runtime.balance import part_weights

    rates = read_machine(machine, cache_directory() / THIS_FILE).all_ranks_gb_per_s
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
