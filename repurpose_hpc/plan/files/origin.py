"""The network that shards were made from, as their plan knows it."""

from __future__ import annotations

from repurpose_hpc.model.lossless import reduced
from repurpose_hpc.model.network import Network
from repurpose_hpc.model.tiles import Division, tiled
from repurpose_hpc.plan.files.store import StoredPlan
from repurpose_hpc.plan.plan import REPLICATED


def sweeps_of(stored: StoredPlan) -> int | None:
    """The sweeps of shards with weights for late exchanges; None: they are for the exact order."""
    return stored.provenance.get("options", {}).get("late")


def as_it_was_cut(stored: StoredPlan, original: Network) -> Network:
    """The original with the neurons that the plan has: what ``--lossless`` left, tiles of ``--by-position``.

    For all that compares tensors or mixings; outputs are those of the original.

    Args:
        stored: the plan.
        original: as ``store.check_model`` wants it.
    """
    made = stored.provenance
    network = reduced(original) if "lossless" in made else original
    if "by_position" not in made:
        return network
    shared, counts = made["by_position"], stored.plan.input_placement != REPLICATED
    return tiled(network, shared["layers"], Division.of(shared["division"]), shared["repeated"], counts)
