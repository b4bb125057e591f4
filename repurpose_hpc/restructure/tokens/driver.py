"""The method for networks of tokens: measure, choose a form for every half, fit, and go on to the next.

All workers have copies of the stream.  First the original network alone is looked at: what each form of each
half would leave unexplained, and what an error there does to the outputs; that chooses the forms
(``choice``).  Then halves are fitted in the order of execution, on what the ones before them really make.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from repurpose_hpc.fields import count
from repurpose_hpc.model.network import Network
from repurpose_hpc.model.texts import UNPOOLED, Pooling
from repurpose_hpc.restructure.context import Log, silent
from repurpose_hpc.restructure.cut import Cut
from repurpose_hpc.restructure.exact import with_copied_outputs
from repurpose_hpc.restructure.tokens.balance import Balance
from repurpose_hpc.restructure.tokens.budget import dense_cost
from repurpose_hpc.restructure.tokens.choice import Budget, choose
from repurpose_hpc.restructure.tokens.fits import Fit, Moments, Shape, fit, most_active, unexplained
from repurpose_hpc.restructure.tokens.forms import DIRECT, Choices, Form, choices_of
from repurpose_hpc.restructure.tokens.graph import Decided, cut_for
from repurpose_hpc.restructure.tokens.halves import Half, halves_of
from repurpose_hpc.restructure.tokens.method import FULL, TokenMethod
from repurpose_hpc.restructure.tokens.options import TokenOptions
from repurpose_hpc.restructure.tokens.propagation import Propagation, fitting_moments, joint_moments
from repurpose_hpc.restructure.tokens.quality import first_texts
from repurpose_hpc.restructure.tokens.scales import with_scales
from repurpose_hpc.restructure.tokens.sensitivity import Sensitivity

# Tokens to choose forms with, at least, and for each neuron of the stream and of a half; and those among them
# on which sensitivities are measured.
CHOOSING, FOR_EACH, SENSING = 8_192, 4, 2_048
# Of the variance of what a half adds, what is left of it where its sensitivity is measured, at least.
PROBED = 0.1


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
    drawn = [texts[place] for place in np.random.default_rng(options.seed).permutation(len(texts))]
    tokens = max(CHOOSING, FOR_EACH * max(half.width + half.neurons for half in halves))
    propagation = Propagation(single, first_texts(drawn, tokens))
    sensitivity = Sensitivity(single, first_texts(drawn, SENSING), pooling)
    choices, orders, slopes = [], [], []
    for half in halves:
        propagation.reach(half)
        moments = joint_moments(propagation, half)
        order = most_active(half, np.diag(moments.covariance)[-half.neurons :])
        slopes.append(_slope(half, moments, order, propagation, sensitivity) if method.senses else 1.0)
        choices.append(choices_of(half, moments, order, options.workers, options.comm_dtype, method))
        orders.append(order)
        propagation.replace(half, None)
    return Measured(network, halves, choices, orders, np.array(slopes))


def _slope(
    half: Half, moments: Moments, order: np.ndarray, propagation: Propagation, sensitivity: Sensitivity
) -> float:
    """What a unit of error of a half does to the outputs, measured with an error that is not small."""
    left = unexplained(half, moments.covariance, Shape(0, 0, False), order)
    if not left[0] > 0:  # y does not vary
        return 1.0
    shape = Shape(int(np.count_nonzero(left > PROBED * left[0])) - 1, 0, False)
    trial = fit(half, fitting_moments(propagation, half, order[:0]), shape, order[:0])
    return sensitivity.difference(half, trial) / float(left[shape.width])


def restructure_tokens(
    texts: Sequence[np.ndarray],
    options: TokenOptions,
    measured: Measured,
    log: Log = silent,
    method: TokenMethod = FULL,
) -> Cut:
    """Restructure a network of tokens for ``options.workers`` workers, two or more.

    Args:
        texts: calibration data, ids (tokens,) of each text.
        options: how; ``comm_budget`` counts, not a promise.
        measured: as ``measure_halves`` returns it, for the same texts, workers and ``comm_dtype``.
        log: is given one line for each step.
        method: how what stands for y is made.

    Raises:
        BudgetTooSmall: no choice of forms keeps ``comm_budget`` and ``load``.
    """
    weights = np.ones(options.workers) if options.part_weights is None else np.array(options.part_weights)
    forms = _chosen(measured, options, weights)
    propagation, decided = Propagation(measured.network.astype(np.float32), texts), []
    for half, form, order in zip(measured.halves, forms, measured.orders, strict=True):
        decided.append(_decided(propagation, half, form, order, method))
        log(f"{half.name}: {_described(half, form)}")
    cut = cut_for(measured.network, decided, weights)
    return with_scales(cut, texts, options.comm_dtype)


def _chosen(measured: Measured, options: TokenOptions, weights: np.ndarray) -> list[Form]:
    """The forms of all halves; with less computation for equal workers where they are not equally busy."""
    balance = Balance(measured.network, measured.halves, weights)
    most = options.load * balance.busiest([DIRECT] * len(measured.halves))
    cost = options.comm_budget * dense_cost(measured.halves, options.workers, options.round_cost)
    even = most
    while True:
        budget = Budget(cost, (even - balance.others) / options.workers)
        chosen = choose(measured.choices, measured.sensitivity, options.round_cost, budget)
        forms = [choice.forms[place] for choice, place in zip(measured.choices, chosen, strict=True)]
        busiest = balance.busiest(forms)
        if busiest <= most * (1 + 1e-9):
            return forms
        even *= min(most / busiest, 0.99)


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


def _described(half: Half, form: Form) -> str:
    """A form in words."""
    if form.shape is None:
        return form.kind.value
    shape, rounds = form.shape, count(form.rounds, "round")
    shared = f", {shape.shared:,} of {half.neurons:,} neurons shared" if shape.shared else ""
    predicted = ", the rest predicted" if shape.predicts else ""
    return f"{shape.width} of {half.width} numbers in {rounds}{shared}{predicted}"
