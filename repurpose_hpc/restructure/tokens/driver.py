"""The method for networks of tokens: measure, choose a form for every half, fit, and go on to the next.

All workers have copies of the stream.  First the original network alone is looked at: what each form of each
half would leave unexplained, and what an error there does to the outputs; that chooses the forms
(``choice``).  Then halves are fitted in the order of execution, on what the ones before them really make.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from repurpose_hpc.model.network import Network
from repurpose_hpc.model.texts import UNPOOLED, Pooling
from repurpose_hpc.restructure.context import Log, silent
from repurpose_hpc.restructure.cut import Cut
from repurpose_hpc.restructure.exact import split_network, with_copied_outputs
from repurpose_hpc.restructure.tokens.budget import budget_of
from repurpose_hpc.restructure.tokens.choice import choose
from repurpose_hpc.restructure.tokens.fits import Fit, Shape, fit, most_active, unexplained
from repurpose_hpc.restructure.tokens.forms import Choices, Form, choices_of
from repurpose_hpc.restructure.tokens.graph import Decided, cut_for
from repurpose_hpc.restructure.tokens.halves import Half, halves_of
from repurpose_hpc.restructure.tokens.method import FULL, TokenMethod
from repurpose_hpc.restructure.tokens.options import TokenOptions
from repurpose_hpc.restructure.tokens.propagation import Propagation, fitting_moments, joint_moments
from repurpose_hpc.restructure.tokens.scales import with_scales
from repurpose_hpc.restructure.tokens.sensitivity import Sensitivity

# Tokens to choose forms with, and those among them on which sensitivities are measured.
CHOOSING, SENSING = 8_192, 2_048


class Measured(NamedTuple):
    """What choosing forms needs to know of a network; it depends on no budget.

    Attributes:
        network: whose outputs are not of the stream.
        halves: of its blocks, in order.
        choices: the forms of each half.
        orders: the order in which the neurons of each half are computed by all.
        sensitivity: what an error of each half does to the outputs, (halves,).
    """

    network: Network
    halves: list[Half]
    choices: list[Choices]
    orders: list[np.ndarray]
    sensitivity: np.ndarray


def measure_halves(
    network: Network,
    texts: Sequence[np.ndarray],
    options: TokenOptions,
    pooling: Pooling = UNPOOLED,
    method: TokenMethod = FULL,
) -> Measured:
    """Measure what each form of each half would leave unexplained, and what that would do to the outputs.

    Args:
        network: of tokens.
        texts: calibration data, ids (tokens,) of each text.
        options: how many workers there are, and how ghosts travel.
        pooling: what is made of the outputs of an encoder.
        method: what counts.
    """
    network = with_copied_outputs(network)
    halves, single = halves_of(network), network.astype(np.float32)
    propagation = Propagation(single, _some(texts, CHOOSING))
    sensitivity = Sensitivity(single, _some(texts, SENSING), pooling)
    choices, orders, slopes = [], [], []
    for half in halves:
        propagation.reach(half)
        covariance = joint_moments(propagation, half).covariance
        order = most_active(half, np.diag(covariance)[-half.neurons :])
        # Half of the numbers that y can need, which are no more than the neurons that it is made of.
        probe = Shape(min(half.width, half.neurons) // 2, 0, True)
        left = unexplained(half, covariance, probe, order)[probe.width]
        trial = fit(half, fitting_moments(propagation, half, order[:0]), probe, order[:0])
        senses = method.senses and left > 0
        slopes.append(sensitivity.difference(half, trial) / left if senses else float(not method.senses))
        choices.append(choices_of(half, covariance, order, options.workers, options.comm_dtype, method))
        orders.append(order)
        propagation.replace(half, None)
    return Measured(network, halves, choices, orders, np.array(slopes))


def restructure_tokens(
    network: Network,
    texts: Sequence[np.ndarray],
    options: TokenOptions,
    measured: Measured,
    log: Log = silent,
    method: TokenMethod = FULL,
) -> Cut:
    """Restructure a network of tokens for ``options.workers`` workers.

    Args:
        network: of tokens.
        texts: calibration data, ids (tokens,) of each text.
        options: how; ``comm_budget`` counts, not a promise.
        measured: as ``measure_halves`` returns it for the same network, texts, workers and ``comm_dtype``.
        log: is given one line for each step.
        method: how what stands for y is made.

    Raises:
        BudgetTooSmall: no choice of forms keeps ``comm_budget`` and ``load``.
    """
    weights = np.ones(options.workers) if options.part_weights is None else np.array(options.part_weights)
    if options.workers == 1:
        return split_network(network, options.workers, weights, options.round_cost)
    budget = budget_of(measured.network, measured.halves, options)
    chosen = choose(measured.choices, measured.sensitivity, options.round_cost, budget)
    propagation, decided = Propagation(measured.network.astype(np.float32), texts), []
    for half, choice, order, place in zip(
        measured.halves, measured.choices, measured.orders, chosen, strict=True
    ):
        form = choice.forms[place]
        decided.append(_decided(propagation, half, form, order, method))
        log(f"{half.name}: {_described(half, form)}")
    cut = cut_for(measured.network, decided, weights)
    return with_scales(cut, texts, options.comm_dtype)


def _decided(
    propagation: Propagation, half: Half, form: Form, order: np.ndarray, method: TokenMethod
) -> Decided:
    """A half in its form, fitted to what the halves before it make."""
    found: Fit | None = None
    propagation.reach(half)
    if form.shape is not None:
        shared = np.sort(order[: form.shape.shared])
        found = fit(half, fitting_moments(propagation, half, shared), form.shape, shared, method)
    propagation.replace(half, found)
    return Decided(half, form, found)


def _some(texts: Sequence[np.ndarray], tokens: int) -> list[np.ndarray]:
    """The first texts, with so many tokens together, or one more text."""
    ends = np.cumsum([text.size for text in texts])
    return list(texts[: int(np.searchsorted(ends, tokens)) + 1])


def _described(half: Half, form: Form) -> str:
    """A form in words."""
    if form.shape is None:
        return form.kind.value
    shape, rounds = form.shape, f"{form.rounds} round{'s' * (form.rounds != 1)}"
    shared = f", {shape.shared} of {half.neurons} neurons shared" if shape.shared else ""
    predicted = ", the rest predicted" if shape.predicts else ""
    return f"{shape.width} of {half.width} numbers in {rounds}{shared}{predicted}"
