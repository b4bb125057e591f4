"""The network that shards were made from, as their plan knows it."""

from __future__ import annotations

from repurpose_hpc.model.lossless import reduced
from repurpose_hpc.model.network import Network
from repurpose_hpc.plan.files.store import StoredPlan


def as_it_was_cut(stored: StoredPlan, original: Network) -> Network:
    """The original with the neurons that the plan has: of ``--lossless`` what that left.

    For all that compares tensors or mixings; outputs are those of the original.

    Args:
        stored: the plan.
        original: as ``store.check_model`` wants it.
    """
    return reduced(original) if "lossless" in stored.provenance else original
