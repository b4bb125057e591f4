"""Shards that are what their plan says: owners, lists, shapes and numbers.

Kernels check no bounds, so that a list that does not fit would read or write elsewhere in memory, and two
workers whose lists differ would wait for each other.  Everything but the weights follows from graph and plan;
it is made anew and compared.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from repurpose_hpc.model.comm_dtype import COMM_DTYPES
from repurpose_hpc.model.ends import Ends
from repurpose_hpc.model.network import Network
from repurpose_hpc.model.operations import Mixing
from repurpose_hpc.model.weights import values_of
from repurpose_hpc.plan.files.mapped import release
from repurpose_hpc.plan.masks import EVERYBODY, common_mixing_plan, everywhere_plan
from repurpose_hpc.plan.plan import PLACEMENTS, Plan
from repurpose_hpc.plan.shard import Block, Shard, local_neurons, traffic_of

_PIECE_BYTES = 1 << 20


def check_counts(workers: int, digests: Sequence[str], traffic: Mapping[str, np.ndarray]) -> None:
    """Refuse a plan whose parts are not for as many workers as it says.

    Args:
        workers: that it says.
        digests: of their shards.
        traffic: see ``StoredPlan``.

    Raises:
        ValueError: names what does not fit.
    """
    if workers < 1 or len(digests) != workers:
        raise ValueError(f"it is for {workers} workers and has hashes of {len(digests)} shards")
    for name, values in traffic.items():
        if values.shape != (workers, workers) or values.dtype.kind != "i" or values.min() < 0:
            raise ValueError(f"the traffic of mixing {name} is no table of {workers} by {workers} counts")


def check_tokens(longest: int, ends: Ends) -> None:
    """Refuse a plan of a network of tokens without embeddings, or with others than finite numbers.

    Args:
        longest: see ``StoredPlan``.
        ends: of the model.

    Raises:
        ValueError: there are none, or they are something else; the id of padding is that of no token.
    """
    if not longest:
        return
    embeddings = ends.embeddings
    if np.ndim(embeddings) != 2 or not len(embeddings):
        raise ValueError("its network of tokens has no embeddings of them")
    if embeddings.dtype.kind != "f" or not _is_finite(embeddings):
        raise ValueError("its embeddings are not finite real numbers")
    padding = ends.padding
    if padding is not None and (type(padding) is not int or not 0 <= padding < len(embeddings)):
        raise ValueError(f"its id of padding is {padding!r}, which is none of {len(embeddings)} tokens")


def check_shard(shard: Shard, plan: Plan) -> None:
    """Refuse a shard that is not what the plan, and its own graph, say.

    Raises:
        ValueError: names what does not fit.
    """
    for faults in (_plan_faults(plan, shard.graph), _shard_faults(shard, plan)):
        for fault in faults:
            raise ValueError(fault)


def _plan_faults(plan: Plan, graph: Network) -> Iterator[str]:
    if plan.workers < 1 or plan.input_placement not in PLACEMENTS or plan.comm_dtype not in COMM_DTYPES:
        yield f"its plan is for {plan.workers} workers, {plan.input_placement} and {plan.comm_dtype}"
    yield from _owner_faults(plan, graph)
    yield from _same_names("plans of mixings", plan.mixings, [mixing.name for mixing in graph.mixings])
    names = {mixing.name for mixing in graph.mixings}
    if not {*plan.relays, *plan.relays.values()} <= names:
        yield f"its relays are of mixings {', '.join(plan.relays)}, read by {', '.join(plan.relays.values())}"
    if not {*plan.copies, *plan.copies.values()} <= names:
        yield f"its copies are {', '.join(plan.copies)}, of {', '.join(plan.copies.values())}"
    for mixing in graph.mixings:
        masks = plan.mixings[mixing.name]
        sizes = [graph.space(tensor).neurons for tensor in (mixing.source, mixing.target)]
        for mask, size in zip((masks.ghosts, masks.sums), sizes, strict=True):
            if mask.shape != (plan.workers, size) or mask.dtype != bool:
                yield f"a mask of mixing {mixing.name} has shape {mask.shape}"
        scales = plan.scales.get(mixing.source)
        if scales is not None and (scales.shape != (sizes[0],) or not np.isfinite(scales).all()):
            yield f"the scales of {mixing.source} are not {sizes[0]} finite numbers"
        outliers = plan.outliers.get(mixing.source)
        if outliers is not None and outliers.shape != (sizes[0],):
            yield f"the outliers of {mixing.source} are a mask of shape {outliers.shape}"
    if not {*plan.outliers} <= {mixing.source for mixing in graph.mixings}:
        yield f"its outliers are of {', '.join(plan.outliers)}, some of which no mixing reads"
    yield from _removed_faults(plan, graph)


def _removed_faults(plan: Plan, graph: Network) -> Iterator[str]:
    sizes = {space.name: space.neurons for space in graph.free_spaces}
    for name, removed in plan.removed.items():
        if removed.shape != (sizes.get(name),):
            yield f"it removes neurons of space {name} in a mask of shape {removed.shape}"
    gone = plan.removed_neurons(graph)
    for tensor in graph.output_tensors:
        if gone[graph.space_of[tensor]].any():
            yield f"it removes neurons of the output {tensor}"
    for mixing in graph.mixings:
        masks = plan.mixings[mixing.name]
        for mask, tensor in ((masks.ghosts, mixing.source), (masks.sums, mixing.target)):
            if (mask & gone[graph.space_of[tensor]]).any():
                yield f"mixing {mixing.name} needs removed neurons of {tensor}"


def _owner_faults(plan: Plan, graph: Network) -> Iterator[str]:
    yield from _same_names("owners of spaces", plan.owners, [space.name for space in graph.spaces])
    may_be_common = graph.input_spaces | _common_spaces(plan, graph)
    for space in graph.spaces:
        owner = plan.owners[space.name]
        if owner.shape != (space.neurons,) or owner.dtype.kind != "i":
            yield f"space {space.name} has owners of shape {owner.shape}, expected ({space.neurons},)"
        elif not EVERYBODY <= owner.min() <= owner.max() < plan.workers:
            yield f"space {space.name} has owners from {owner.min()} to {owner.max()}"
        elif owner.min() == EVERYBODY and not {*space.parts, space.name} & may_be_common:
            yield f"space {space.name}, which is no input, has neurons without an owner"
    derived = graph.derive({space.name: plan.owners[space.name] for space in graph.free_spaces})
    for name, owner in derived.items():
        if not np.array_equal(owner, plan.owners[name]):
            yield f"space {name} has other owners than the spaces that it is made of"


def _common_spaces(plan: Plan, graph: Network) -> set[str]:
    """The free spaces of a network of tokens of which every worker has a copy, made by all that it takes."""
    outputs = {part for tensor in graph.output_tensors for part in graph.parts(tensor)}
    common = {
        space.name
        for space in graph.free_spaces
        if graph.longest and space.name not in outputs and (plan.owners[space.name] == EVERYBODY).all()
    }
    for mixing in graph.mixings:
        source, target = plan.ends(graph, mixing)
        if (target == EVERYBODY).all():
            found = plan.mixings[mixing.name]
            legal = (make(source, target, plan.workers) for make in (common_mixing_plan, everywhere_plan))
            if not any(_equal(found.ghosts, one.ghosts) and _equal(found.sums, one.sums) for one in legal):
                common -= {*graph.parts(mixing.target)}
    return common


def _shard_faults(shard: Shard, plan: Plan) -> Iterator[str]:
    if (shard.workers, shard.comm_dtype) != (plan.workers, plan.comm_dtype):
        yield f"it is for {shard.workers} workers and {shard.comm_dtype}"
    graph = shard.graph
    if graph.longest and (width := graph.ends.embeddings.shape[1]) != graph.inputs:
        yield f"the embeddings have {width} columns, its network of tokens {graph.inputs} inputs"
    if not 0 <= shard.worker < plan.workers:
        yield f"it is of worker {shard.worker} of {plan.workers}"
    own = local_neurons(shard.graph, plan, shard.worker)
    yield from _same_names("own neurons", shard.own, [*own])
    for name, neurons in own.items():
        if not _equal(shard.own[name], neurons):
            yield f"its own neurons of space {name} are others than the plan says"
    yield from _same_names("blocks", shard.blocks, [mixing.name for mixing in shard.graph.mixings])
    for mixing in shard.graph.mixings:
        for fault in _block_faults(shard, plan, mixing, own):
            yield f"mixing {mixing.name}: {fault}"


def _block_faults(shard: Shard, plan: Plan, mixing: Mixing, own: Mapping[str, np.ndarray]) -> Iterator[str]:
    block, traffic = shard.blocks[mixing.name], traffic_of(shard.graph, plan, mixing, shard.worker)
    if not _equal(block.ghost_neurons, traffic.ghost_neurons):
        yield "its ghost neurons are others than the plan says"
    for name in ("ghosts", "sums"):
        found, expected = vars(getattr(block, name)), vars(getattr(traffic, name))
        yield from _same_names(f"lists of {name}", found, [*expected])
        for part, neurons in expected.items():
            if not _equal(found[part], neurons):
                yield f"its list {part} of {name} is another than the plan says"
    columns, rows = (own[shard.graph.space_of[tensor]] for tensor in (mixing.source, mixing.target))
    taps, ghosts = mixing.taps, len(traffic.ghost_neurons)
    is_common = plan.is_common(shard.graph, mixing)
    shapes = {
        "own_weights": (len(rows), len(columns) * taps),
        "ghost_weights": (len(rows), ghosts * taps),
        # Of common neurons what is sent is what the worker has computed.
        "sum_weights": (0 if is_common else len(traffic.sums.sent), len(columns) * taps),
        "bias": (len(rows),),
    }
    has_scales = mixing.source in plan.scales
    for name, count in (("sent_scales", traffic.ghosts.sent), ("received_scales", traffic.ghosts.received)):
        shapes[name] = (len(count) if has_scales else 0,)
    yield from _number_faults(block, shapes)


def _number_faults(block: Block, shapes: Mapping[str, tuple[int, ...]]) -> Iterator[str]:
    for name, shape in shapes.items():
        array = getattr(block, name)
        if array.shape != shape:
            yield f"its {name} have shape {array.shape}, expected {shape}"
        elif array.dtype.name not in ("float32", "float64"):
            yield f"its {name} are {array.dtype}"
        elif not _is_finite(values_of(array)):
            yield f"its {name} hold NaN or infinity"


def _is_finite(array: np.ndarray) -> bool:
    """Tell whether there is neither NaN nor infinity; no more than a piece of it is in memory."""
    finite = True
    for piece in np.array_split(array, max(1, array.nbytes // _PIECE_BYTES)):
        finite &= bool(np.isfinite(piece).all())
        release(piece)  # it may be mapped, and is not needed yet
    return finite


def _same_names(what: str, found: Mapping[str, object], expected: list[str]) -> Iterator[str]:
    if {*found} != {*expected}:
        yield f"its {what} are {', '.join(sorted(found))}, expected {', '.join(sorted(expected))}"


def _equal(found: np.ndarray, expected: np.ndarray) -> bool:
    return found.dtype == expected.dtype and np.array_equal(found, expected)
