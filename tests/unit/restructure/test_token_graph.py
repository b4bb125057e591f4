"""Networks whose halves have their forms compute what was fitted, and cost what forms say."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.small_plans import assert_same
from helpers.small_transformers import decoder, encoder, normalised_behind, texts
from helpers.token_forms import WISHES, cut_of, decided, original_compute
from repurpose_hpc.errors import UserError
from repurpose_hpc.model.forward import forward, trace
from repurpose_hpc.plan.files.store import open_plan, read_network, read_shard, write_plan
from repurpose_hpc.plan.masks import EVERYBODY
from repurpose_hpc.plan.rounds import rounds_of
from repurpose_hpc.plan.shard import make_shard
from repurpose_hpc.restructure.exact import with_copied_outputs
from repurpose_hpc.restructure.tokens.graph import cut_for
from repurpose_hpc.restructure.tokens.propagation import embedded

EXACT = ("direct", "gathered", "shared", "all in one round", "all in two rounds")
NETWORKS = {
    "decoder": decoder(1),
    "encoder": encoder(2),
    "normalised behind": normalised_behind(3),
    "one head": decoder(4, heads=1, groups=1),
}
TEXTS = texts(5, (9, 1, 14))


def mixed(network, cut, halves, ids):
    """What halves add for a text in the restructured network, and in the original as it was fitted."""
    x = embedded(network, ids[None]).astype(np.float64)
    found = trace(cut.network.at(ids.size), x)
    expected = trace(network.at(ids.size), x, compute=original_compute(halves))
    for half, *_ in halves:
        yield found[half.out.target], expected[half.out.target]
    for one, other in zip(cut.network.output_tensors, network.output_tensors, strict=True):
        yield found[one], expected[other]


def check(network, wishes, part_weights):
    """The cut, and its halves."""
    network = with_copied_outputs(network.astype(np.float64))
    halves = decided(network, wishes)
    cut = cut_for(network, halves, np.array(part_weights, float))
    for ids in TEXTS:
        for found, expected in mixed(network, cut, halves, ids):
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-11 * max(1, np.abs(expected).max()))
    return network, halves, cut


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("wish", WISHES)
def test_a_form_for_all_halves(network, wish):
    """The network computes what was fitted; values and rounds are those of the form, or fewer."""
    workers = 4
    network, halves, cut = check(NETWORKS[network], [WISHES[wish]], np.ones(workers))
    forecast = sum(each.form.values(each.half, workers) for each in halves)
    assert cut.traffic_matrix().sum() <= forecast
    assert rounds_of(cut.network, cut.plan) <= sum(each.form.rounds for each in halves)


@pytest.mark.parametrize("wish", EXACT)
def test_forms_in_which_all_crosses_change_nothing(wish):
    for network in NETWORKS.values():
        cut = cut_of(network.astype(np.float64), [WISHES[wish]], np.ones(3))
        for ids in TEXTS:
            found, expected = (forward(each.at(ids.size), ids[None]) for each in (cut.network, network))
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


@settings(max_examples=40)
@given(
    network=st.sampled_from([*NETWORKS]),
    wishes=st.lists(st.sampled_from([*WISHES]), min_size=4, max_size=4),
    part_weights=st.lists(st.sampled_from([1.0, 2.0, 5.0]), min_size=2, max_size=9),
)
def test_forms_of_all_kinds_together(network, wishes, part_weights):
    workers = len(part_weights)
    _, halves, cut = check(NETWORKS[network], [WISHES[wish] for wish in wishes], part_weights)
    assert cut.traffic_matrix().sum() <= sum(each.form.values(each.half, workers) for each in halves)
    assert rounds_of(cut.network, cut.plan) <= sum(each.form.rounds for each in halves)
    # What needs no exchange is in nobody's way: pruning finds nothing that is not allowed.
    for mixing in cut.plan.pruned(cut.network).mixings:
        kept = next(other for other in cut.network.mixings if other.name == mixing.name)
        np.testing.assert_array_equal(mixing.weights, kept.weights)


@pytest.mark.parametrize("wish", sorted({*WISHES} - {"all shared but one"}))
def test_where_sizes_divide_costs_are_those_of_the_form(wish):
    workers = 4
    network, halves, cut = check(
        decoder(6, hidden=16, groups=4, layers=2, width=16), [WISHES[wish]], np.ones(workers)
    )
    rest = sum(
        loads.sum(axis=1)
        for mixing in cut.network.mixings
        if mixing.fixed or mixing.target in network.output_tensors
        for loads in [cut.plan.column_loads(cut.network, mixing)]
    )
    assert cut.traffic_matrix().sum() == sum(each.form.values(each.half, workers) for each in halves)
    assert rounds_of(cut.network, cut.plan) == sum(each.form.rounds for each in halves)
    found = cut.plan.multiply_adds(cut.network) - rest
    forecast = sum(each.form.multiply_adds(each.half, workers) for each in halves)
    assert found.max() == pytest.approx(forecast, rel=0.35)
    assert found.sum() == pytest.approx(workers * forecast, rel=0.05)


@pytest.mark.parametrize("wishes", [[wish] for wish in WISHES] + [[*WISHES]])
def test_round_trip(tmp_path, wishes):
    network = decoder(7, layers=8 if len(wishes) > 1 else 1)
    cut = cut_of(network, [WISHES[wish] for wish in wishes], np.ones(3), "int8")
    write_plan(tmp_path / "plan", cut.network, cut.plan, {})
    stored = open_plan(tmp_path / "plan")
    assert_same(stored.plan, cut.plan)
    for worker in range(3):
        assert_same(read_shard(stored, worker), make_shard(cut.network, cut.plan, worker, np.float32))
    ids = TEXTS[0]
    found = forward(read_network(stored).at(ids.size), ids[None], np.float32)
    np.testing.assert_allclose(found, forward(cut.network.at(ids.size), ids[None], np.float32), atol=1e-5)


def spoilt(cut, name, **changed):
    """The plan with another for the mixing of that name."""
    mixing = replace(cut.plan.mixings[name], **changed)
    return replace(cut.plan, mixings={**cut.plan.mixings, name: mixing})


def test_common_neurons_that_some_workers_cannot_compute_are_refused(tmp_path):
    """Every worker needs all ghosts, or sums of all: with less, copies would differ."""
    cut = cut_of(decoder(8), [WISHES["gathered"], WISHES["narrow in two rounds"]], np.ones(3))
    plan, network = cut.plan, cut.network
    everywhere = [mixing.name for mixing in network.mixings if plan.is_everywhere(network, mixing)]
    assert everywhere
    for number, name in enumerate(everywhere):
        ghosts = plan.mixings[name].ghosts.copy()
        ghosts[tuple(np.argwhere(ghosts)[0])] = False
        directory = tmp_path / str(number)
        write_plan(directory, network, spoilt(cut, name, ghosts=ghosts), {})
        stored = open_plan(directory)
        with pytest.raises(UserError, match="has neurons without an owner"):
            read_shard(stored, 0)


def test_halves_that_nobody_computes_leave_nothing_behind():
    cut = cut_of(decoder(9), [WISHES["a mean"]], np.ones(3))
    names = {mixing.name for mixing in cut.network.mixings if not mixing.fixed}
    assert names == {cut.network.mixings[-1].name} and cut.traffic_matrix().sum() == 0
    assert rounds_of(cut.network, cut.plan) == 0


def test_what_all_compute_has_no_owner():
    network = decoder(10, layers=1)
    cut = cut_of(network, [WISHES["shared"]], np.ones(3))
    heads = next(each.half for each in decided(with_copied_outputs(network), [WISHES["shared"]]))
    assert all((cut.plan.owner(cut.network, op.target) == EVERYBODY).all() for op in heads.inner)
    assert cut.traffic_matrix().sum() == 0
