"""The method for networks of tokens: measure, choose a form for every half, fit, and go on to the next.

All workers have copies of the stream.  First the original network alone is looked at: what each form of each
half would leave unexplained, and what an error there does to the outputs; that chooses the forms
(``choice``).  Then halves are fitted in the order of execution, on what the ones before them really make.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from repurpose_hpc.io.progress import PENDING
from repurpose_hpc.model.comm_dtype import INT8, scales_of
from repurpose_hpc.model.forward import trace
from repurpose_hpc.model.network import Network
from repurpose_hpc.restructure.context import Log, silent
from repurpose_hpc.restructure.cut import Cut
from repurpose_hpc.restructure.exact import split_network, with_copied_outputs
from repurpose_hpc.restructure.tokens.budget import budget_of
from repurpose_hpc.restructure.tokens.choice import choose
from repurpose_hpc.restructure.tokens.fits import Fit, Shape, fit, most_active
from repurpose_hpc.restructure.tokens.forms import Choices, Kind, choices_of
from repurpose_hpc.restructure.tokens.graph import Decided, cut_for
from repurpose_hpc.restructure.tokens.halves import Half, halves_of
from repurpose_hpc.restructure.tokens.options import TokenOptions
from repurpose_hpc.restructure.tokens.propagation import (
    Propagation,
    embedded,
    fitting_moments,
    joint_moments,
)
from repurpose_hpc.restructure.tokens.quality import batches
from repurpose_hpc.restructure.tokens.sensitivity import Sensitivity

# Formats in which ghosts are multiples of a scale.
SCALED = {INT8}
# Tokens to choose forms with, and those among them on which sensitivities are measured.
CHOOSING, SENSING = 8_192, 1_024


def restructure_tokens(
    network: Network, texts: Sequence[np.ndarray], options: TokenOptions, log: Log = silent
) -> Cut:
    """Restructure a network of tokens for ``options.workers`` workers.

    Args:
        network: of tokens.
        texts: calibration data, ids (tokens,) of each text.
        options: how.
        log: is given one line for each step.

    Raises:
        UserError: a budget that cannot be kept.
    """
    weights = np.ones(options.workers) if options.part_weights is None else np.array(options.part_weights)
    copied = with_copied_outputs(network)
    halves = halves_of(copied)
    if options.workers == 1 or not halves:
        return split_network(network, options.workers, weights, options.round_cost)
    log(f"measuring what each half of {len(halves)} adds{PENDING}")
    choices, orders, sensitivity = _measured(copied, halves, texts, options.workers)
    budget = budget_of(copied, halves, options)
    chosen = choose(choices, sensitivity, options.round_cost, budget)
    forms = [choice.forms[place] for choice, place in zip(choices, chosen, strict=True)]
    propagation, decided = Propagation(copied.astype(np.float32), texts), []
    for half, form, order in zip(halves, forms, orders, strict=True):
        found: Fit | None = None
        shared = np.sort(order[: form.shape.shared]) if form.shape else order[:0]
        moments = fitting_moments(propagation, half, shared)
        if form.shape:
            found = fit(half, moments, form.shape, shared)
        propagation.replace(half, found)
        decided.append(Decided(half, form, found))
        log(f"{half.name}: {_described(half, form.kind, form.shape, form.rounds)}")
    return _with_scales(cut_for(copied, decided, weights), texts, options.comm_dtype)


def _measured(
    network: Network, halves: Sequence[Half], texts: Sequence[np.ndarray], workers: int
) -> tuple[list[Choices], list[np.ndarray], np.ndarray]:
    """The forms of each half, the order in which its neurons are shared, and its sensitivity."""
    few = network.astype(np.float32)
    propagation = Propagation(few, _some(texts, CHOOSING))
    sensitivity = Sensitivity(few, _some(texts, SENSING))
    choices, orders, slopes = [], [], []
    for half in halves:
        moments = joint_moments(propagation, half)
        covariance = moments.covariance
        order = most_active(half, np.diag(covariance)[-half.neurons :])
        choice = choices_of(half, covariance, order, workers)
        probe = Shape(half.width // 2, 0, True)
        left = next(
            error for form, error in zip(choice.forms, choice.error, strict=True) if form.shape == probe
        )
        trial = fit(half, fitting_moments(propagation, half, order[:0]), probe, order[:0])
        slopes.append(sensitivity.difference(half, trial) / left if left > 0 else 0.0)
        propagation.replace(half, None)
        choices.append(choice)
        orders.append(order)
    return choices, orders, np.array(slopes)


def _some(texts: Sequence[np.ndarray], tokens: int) -> list[np.ndarray]:
    """The first texts, with so many tokens together, or one more text."""
    ends = np.cumsum([text.size for text in texts])
    return list(texts[: int(np.searchsorted(ends, tokens)) + 1])


def _described(half: Half, kind: Kind, shape: Shape | None, rounds: int) -> str:
    if shape is None:
        return kind.value
    terms = f", {shape.shared} of {half.neurons} neurons shared" if shape.shared else ""
    predicted = ", the rest predicted" if shape.predicts else ""
    return f"{shape.width} of {half.width} numbers in {rounds} rounds{terms}{predicted}"


def _with_scales(cut: Cut, texts: Sequence[np.ndarray], comm_dtype: str) -> Cut:
    """The network with ghosts in ``comm_dtype``, and the scales of those that travel in steps."""
    plan = replace(cut.plan, comm_dtype=comm_dtype)
    if comm_dtype not in SCALED:
        return replace(cut, plan=plan)
    network = cut.network.astype(np.float32)
    sources = {m.source for m in network.mixings if plan.ghost_traffic(network, m).any()}
    largest = {source: np.zeros(network.space(source).neurons) for source in sources}
    for ids in batches(network, texts):
        tensors = trace(network.at(ids.shape[1]), embedded(network, ids))
        for source, values in largest.items():
            np.maximum(values, np.abs(tensors[source]).reshape(len(values), -1).max(axis=1), out=values)
    scales = {
        mixing.source: np.zeros(network.space(mixing.source).neurons, np.float32)
        for mixing in network.mixings
    }
    return replace(cut, plan=replace(plan, scales=scales | {s: scales_of(v) for s, v in largest.items()}))
