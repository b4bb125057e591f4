"""The method, in the steps of docs/method.md: measure, assign, eliminate, adjust, propagate.

The first three look at the whole network: that yields owners chosen for all mixings, and an estimate of what
communication buys everywhere, hence one price λ.  Then every mixing is finished, in the order of execution,
on the activations that the ones before it really produce; the price is set anew from what is left.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from repurpose_hpc.fields import FieldError
from repurpose_hpc.io.progress import PENDING, TimeLeft
from repurpose_hpc.io.samples import Samples, check_shape
from repurpose_hpc.model.comm_dtype import SCALED
from repurpose_hpc.model.network import Network
from repurpose_hpc.model.weights import dense
from repurpose_hpc.plan.masks import RELAY, trimmed
from repurpose_hpc.plan.plan import PARTITIONED, REPLICATED, ROOT
from repurpose_hpc.plan.relays import with_relays
from repurpose_hpc.restructure.adjustment import adjust_mixing
from repurpose_hpc.restructure.calibration.comm_dtype import measure_scales_until
from repurpose_hpc.restructure.calibration.propagation import Propagation
from repurpose_hpc.restructure.checkpoint import Checkpoint
from repurpose_hpc.restructure.computation import ComputeBudgetTooSmall, Workload, limit_computation, workload
from repurpose_hpc.restructure.context import CutContext, Log, open_context, silent
from repurpose_hpc.restructure.cut import Cut
from repurpose_hpc.restructure.decisions import Decisions, nothing_decided
from repurpose_hpc.restructure.duration import works_left
from repurpose_hpc.restructure.method import Method
from repurpose_hpc.restructure.options import Options, method_for
from repurpose_hpc.restructure.owners.choice import choose_owners
from repurpose_hpc.restructure.owners.initial import given_owners
from repurpose_hpc.restructure.relayed import adjust_relayed
from repurpose_hpc.restructure.selection import eliminate, sharing_price, with_form
from repurpose_hpc.restructure.silence import silence
from repurpose_hpc.restructure.support.density import thin_out, weight_shares
from repurpose_hpc.restructure.support.reserve import whole_budget
from repurpose_hpc.restructure.support.tradeoff import Forms, cheapest, price_for
from repurpose_hpc.restructure.team import ALONE, Team
from repurpose_hpc.restructure.unpruned import keep_everything

# Neurons of a sparse layer of which every pair is measured: (n, n) numbers in float64 are 2 GiB.
WIDEST = 1 << 14


def restructure(
    network: Network,
    samples: Samples,
    options: Options,
    log: Log = silent,
    team: Team = ALONE,
    checkpoint: Checkpoint | None = None,
    method: Method | None = None,
) -> Cut:
    """Restructure ``network`` for ``options.workers`` workers; collective.

    Args:
        network: trained.
        samples: calibration data, as the network takes it; labels are used only to tell a classifier.
        options: see there; with a budget.
        log: is given one line for each step.
        team: shares the work; the result does not depend on it.
        checkpoint: is given the decisions after every mixing, and has those of an interrupted run.
        method: instead of the one that the options name.

    Raises:
        UserError: data of another shape, or not finite; no room for the weights; an input in parts, of which
            the front of the model needs all.
        BudgetTooSmall: what is not trained sends more than the budget.
        ComputeBudgetTooSmall: what cannot be removed computes more than the budget.
    """
    check_shape(samples, network.input_shape)
    _check_placement(network, options)
    if options.keeps_everything:
        return keep_everything(network, samples, options, log, team)
    stored, network = network, _dense(network)
    method = method_for(options) if method is None else method
    context = open_context(network, samples, options, method, log, team)  # 1.1, 1.2
    owners = given_owners(context)
    weights = options.density * network.weight_count
    decisions = nothing_decided(owners, whole_budget(context, owners), weights)
    unit = "values" if options.link_costs is None else "units of link cost"
    log(f"budget: {decisions.budget:,.0f} {unit} per sample")
    decisions, estimates = choose_owners(context, decisions)  # 2, 3.1, 3.2
    planned = expected_workloads(context, decisions, estimates)  # 4.1
    decided = _load(context, checkpoint) or decisions
    try:
        decisions = _finish(context, decided, estimates, planned, checkpoint)
    except ComputeBudgetTooSmall:
        if decided.is_careful:
            raise
        log("beginning again, without counting on neurons that later mixings may not need")
        decisions = replace(decisions, is_careful=True)
        context = replace(context, propagation=Propagation(network, context.mixings, samples, team))
        _save(context, checkpoint, decisions)
        decisions = _finish(context, decisions, estimates, planned, checkpoint)
    decisions = measure_scales_until(context, decisions, network.mixings[-1])
    current = context.current(decisions)
    cut_network, plan = with_relays(current.network, current.plan, decisions.relays)
    return Cut(cut_network.stored_like(stored), plan)


def _finish(
    context: CutContext,
    decisions: Decisions,
    estimates: Sequence[Forms],
    workloads: Mapping[str, Workload],
    checkpoint: Checkpoint | None,
) -> Decisions:
    """Finish every mixing that is not; collective; for the arguments see ``finish_mixing``."""
    shares = weight_shares(context)  # 4.1
    if decisions.is_careful:
        workloads = {name: replace(workload, rows={}) for name, workload in workloads.items()}
    works = works_left(context, decisions)
    done, left = 0.0, TimeLeft(sum(works.values()))
    for number, mixing in enumerate(context.mixings):
        if mixing.name in decisions.finished:
            context.log(f"{mixing.name}: finished by an earlier run")
        else:
            place = f"{number + 1} of {len(context.mixings)}"
            context.log(f"{mixing.name} ({place}): measuring{left(done)}{PENDING}")
            decisions = finish_mixing(context, decisions, number, estimates[number:], shares, workloads)
            _save(context, checkpoint, decisions)
            done += works[mixing.name]
        # With workloads all mixings may have to be finished again.
        if not workloads:
            context.statistics.forget(mixing.name)
    return decisions


def _dense(network: Network) -> Network:
    """The network with arrays of all weights that are trained: what is measured of its inputs is as large.

    Raises:
        FieldError: that is too much.
    """
    for mixing in network.mixings:
        if mixing.is_sparse and not mixing.fixed and max(mixing.weights.shape) > WIDEST:
            raise FieldError(
                "comm_budget",
                f"expected sparse layers of at most {WIDEST} neurons where anything is eliminated, whose "
                f"statistics hold every pair of them, found {mixing.weights.shape} of {mixing.name}; "
                "comm_budget=1 sends what the weights need, and no more",
            )
    trained = {m.name: replace(m, weights=dense(m.weights)) for m in network.mixings if not m.fixed}
    return network.with_mixings(trained)


def _check_placement(network: Network, options: Options) -> None:
    """Refuse to partition an input of which every worker needs all, for the front of the model."""
    front = network.ends.front
    if front is not None and options.input_placement == PARTITIONED:
        raise FieldError(
            "input_placement",
            f"expected an input that is read as a whole, got {PARTITIONED}: the front of the model "
            f"({', '.join(front.operators)}) makes what a worker reads from whole samples; choose "
            f"{REPLICATED} or {ROOT}",
        )


def expected_workloads(
    context: CutContext, decisions: Decisions, estimates: Sequence[Forms]
) -> dict[str, Workload]:
    """What workers compute in every mixing if nothing before it changes, by name; collective.

    Empty where computation is not limited.
    """
    workloads: dict[str, Workload] = {}
    if context.options.compute_budget == 1:
        return workloads
    for number, mixing in enumerate(context.mixings):
        problem, owner = context.original_problem(decisions, mixing)
        sharing, budget = sharing_price(context, decisions, number, estimates[number:])
        sharing = silence(context, decisions, number, sharing, budget)
        level = price_for(sharing, budget)
        form = cheapest(sharing[0], level)
        decisions = with_form(decisions, mixing, problem, form, owner, level)
        workloads[mixing.name] = workload(context, decisions, mixing, problem)
    return workloads


def finish_mixing(
    context: CutContext,
    decisions: Decisions,
    number: int,
    estimates: Sequence[Forms],
    shares: list[int],
    workloads: Mapping[str, Workload],
) -> Decisions:
    """Measure, eliminate and adjust mixing ``number``, those before it being finished; collective.

    Args:
        context, decisions: of the run.
        number: of the mixing.
        estimates: trade-offs of this mixing and of all later ones if nothing had changed.
        shares: of the weights, as ``weight_shares`` gives them.
        workloads: as ``expected_workloads`` gives them.
    """
    mixing, network = context.mixings[number], context.network
    if context.options.comm_dtype in SCALED:
        decisions = measure_scales_until(context, decisions, mixing)
    moments = context.scoring_moments(mixing, decisions)  # 1.1
    problem = context.problem(decisions, mixing, decisions.owners, moments)
    context.log(f"{mixing.name}: eliminating{PENDING}")
    decisions, fit = eliminate(context, decisions, number, problem, estimates)  # 3.2 to 3.7
    context.log(f"{mixing.name}: adjusting{PENDING}")
    if workloads:  # 4.1
        decisions, weight_mask = limit_computation(context, decisions, number, problem, workloads)
    else:
        weight_mask = thin_out(context, decisions, number, problem, shares)
    if mixing.name in decisions.relays:
        adjusted, adjusted_relays = adjust_relayed(context, decisions, mixing, problem, weight_mask, fit)
        decisions = decisions.with_relays(mixing.name, adjusted_relays)
    else:
        adjusted = adjust_mixing(context, decisions, mixing, problem, weight_mask, fit)  # 4.2, 4.3
    owner = context.owner(decisions, mixing.target)
    # Relays combine none of the neurons that a worker has as ghosts, so that their links keep none.
    used = trimmed(decisions.masks[mixing.name], adjusted.pattern, problem.source_owner, owner)
    decisions = decisions.with_mask(mixing.name, used)
    unchanged = np.array_equal(adjusted.W, mixing.W)
    exact = unchanged and not context.arrives_rounded(mixing, decisions)
    decisions = decisions.with_weights(adjusted, exact)  # 5
    plan = context.plan(decisions)
    relays = decisions.relays.get(mixing.name)
    relayed = 0 if relays is None else len(relays) * network.values(relays.shaped_as(mixing))
    context.log(
        f"{mixing.name}: {RELAY if relayed else plan.mixings[mixing.name].form} form, "
        f"{plan.values_sent(network, mixing) + relayed:,} of {plan.dense_values(network, mixing):,} values "
        "sent"
    )
    return decisions


def _load(context: CutContext, checkpoint: Checkpoint | None) -> Decisions | None:
    """Decisions of an interrupted run; one rank reads for all, as others may not see the files."""
    return context.team.map(checkpoint.load, [context.network])[0] if checkpoint else None


def _save(context: CutContext, checkpoint: Checkpoint | None, decisions: Decisions) -> None:
    """Save decisions, on the rank that does first tasks."""
    if checkpoint:
        context.team.map(checkpoint.save, [decisions])
