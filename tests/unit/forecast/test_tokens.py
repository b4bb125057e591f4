"""Forecasts of networks of tokens: counted by hand, and what must hold for any."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.machines import PLAIN, with_network
from helpers.small_transformers import LONGEST, VOCABULARY, decoder, encoder, normalised_behind, retentive
from helpers.token_forms import WISHES, cut_of
from repurpose_hpc.errors import UserError
from repurpose_hpc.forecast.demand import AttentionDemand, Demand, LocalDemand, MixingDemand, plan_demand
from repurpose_hpc.forecast.timeline import forecast
from repurpose_hpc.forecast.tokens import Piece, piece_demand, piece_seconds
from repurpose_hpc.model.normalisations import normalisations_of
from repurpose_hpc.model.operations import Attention
from repurpose_hpc.plan.plan import single_worker_plan
from repurpose_hpc.plan.rounds import rounds_of
from repurpose_hpc.plan.shard import make_shard
from repurpose_hpc.restructure.cut import Cut
from repurpose_hpc.restructure.exact import split_network

HEADS, GROUPS, SIZE, HIDDEN, LAYERS = 4, 2, 4, 14, 2
WIDTH = 3 * HEADS
STEP = Piece(1, 0)


def _attentions(demand: Demand) -> list[AttentionDemand]:
    return [step for step in demand.steps if isinstance(step, AttentionDemand)]


def _mixings(cut: Cut, demand: Demand) -> dict[str, MixingDemand]:
    """Those that are no part of a normalisation in which nothing is sent."""
    network, steps = cut.network, [step for step in demand.steps if isinstance(step, MixingDemand)]
    sent = {mixing.name for mixing in network.mixings if cut.plan.traffic(network, mixing).any()}
    sums = [one.sums for one in normalisations_of(network)]
    inside = {name for names in sums if sent.isdisjoint(names) for name in names}
    names = [mixing.name for mixing in network.mixings if mixing.name not in inside]
    return dict(zip(names, steps, strict=True))


def _alone(network, piece=STEP) -> Demand:
    return piece_demand(network, single_worker_plan(network), 1, piece)


def _weights(cut: Cut, demand: Demand) -> float:
    """Weights that are trained, of all ranks."""
    trained = {mixing.name for mixing in cut.network.mixings if not mixing.fixed}
    return sum(step.weights.sum() for name, step in _mixings(cut, demand).items() if name in trained)


def test_a_step_of_one_process_reads_every_weight_once():
    network = decoder()
    of_block = WIDTH * SIZE * (2 * HEADS + 2 * GROUPS) + 3 * WIDTH * HIDDEN
    assert _weights(split_network(network, 1), _alone(network)) == LAYERS * of_block + WIDTH * VOCABULARY


def test_a_step_of_retention_takes_as_long_behind_any_text():
    network = retentive()
    assert not _attentions(_alone(network))
    plan = single_worker_plan(network)
    seconds = {piece_seconds(network, plan, PLAIN, Piece(1, context)) for context in (0, LONGEST - 1)}
    assert len(seconds) == 1


def test_a_copied_stream_by_hand():
    """Two workers: each multiplies its own columns into all of what is added, and sends it to the other."""
    network = decoder()
    cut = split_network(network, 2)
    demand = piece_demand(cut.network, cut.plan, 1, STEP)
    assert _weights(cut, demand) == _weights(split_network(network, 1), _alone(network))
    assert demand.values_sent == 2 * LAYERS * 2 * WIDTH and len(demand.exchanges) == 2 * LAYERS
    down = _mixings(cut, demand)["layers.0.down"]
    assert down.sum_rows.tolist() == [WIDTH] * 2 and down.own_depth.tolist() == [HIDDEN // 2] * 2
    assert not down.rows.any() and not down.ghost_depth.any()


@pytest.mark.parametrize("round_cost", [0, 1e9])
def test_normalisations_are_passes_where_nothing_is_sent(round_cost):
    """Of a copied stream; with one that has owners their sums are products, and are sent."""
    cut = split_network(normalised_behind(layers=1), 8, round_cost=round_cost)
    demand = piece_demand(cut.network, cut.plan, 1, STEP)
    sums = {name for one in normalisations_of(cut.network) for name in one.sums}
    assert len(sums) == 10 and len(sums & _mixings(cut, demand).keys()) == (0 if round_cost else 10)
    passes = [step.values.tolist() for step in demand.steps if isinstance(step, LocalDemand)]
    # The mean of the first one is read by others, too.
    assert [passes.count([times * WIDTH] * 8) for times in (2, 3)] == ([1, 2] if round_cost else [0, 0])


@pytest.mark.parametrize(("tokens", "context"), [(1, 0), (1, 9), (5, 0), (5, 9)])
def test_attention_by_hand(tokens, context):
    network = decoder()
    first = _attentions(_alone(network, Piece(tokens, context)))[0]
    seen = sum(context + token + 1 for token in range(tokens))
    assert first.multiply_adds == seen * HEADS * 2 * SIZE and first.scores == seen * HEADS
    assert first.kept == context * GROUPS * 2 * SIZE
    assert (first.rows, first.columns) == (context + tokens, tokens * HEADS // GROUPS)


def test_a_window_bounds_what_is_read():
    network = decoder()
    windowed = tuple(replace(op, before=3) if isinstance(op, Attention) else op for op in network.operations)
    network = replace(network, operations=windowed)
    (step, _) = _attentions(_alone(network, Piece(1, 9)))
    assert (step.rows, step.kept, step.scores) == (4, 3 * GROUPS * 2 * SIZE, 4 * HEADS)
    (many, _) = _attentions(_alone(network, Piece(6, 0)))
    assert many.scores == (1 + 2 + 3 + 4 + 4 + 4) * HEADS and many.kept == 0


def test_tokens_of_an_encoder_see_all():
    (first, *_) = _attentions(_alone(encoder(), Piece(5, 0)))
    assert first.scores == 25 * HEADS


@given(st.integers(1, 8), st.integers(0, 12), st.integers(-1, 9))
def test_what_is_seen_is_the_band(tokens, context, before):
    network = decoder(layers=1)
    ops = [replace(op, before=before) if isinstance(op, Attention) else op for op in network.operations]
    (op,) = [op for op in ops if isinstance(op, Attention)]
    (step,) = _attentions(_alone(replace(network, operations=tuple(ops)), Piece(tokens, context)))
    band = op.band(context + tokens, context + tokens)[context:]
    assert step.scores == HEADS * band.sum()
    assert step.rows == band.any(axis=0).sum()
    assert step.kept == band[:, :context].any(axis=0).sum() * GROUPS * 2 * SIZE


def test_behind_the_last_attention_of_a_decoder_one_token_counts():
    """With a stream that has owners: what the last attention makes travels for one token, too."""
    network = decoder()
    cut = split_network(network, 2, round_cost=0)
    one, many = (piece_demand(cut.network, cut.plan, 1, Piece(tokens, 0)) for tokens in (1, 6))
    positions = {name: step.positions for name, step in _mixings(cut, many).items()}
    last = [name for name in positions if name.startswith(("layers.1.up", "layers.1.down", "output"))]
    assert {positions[name] for name in [*last, "layers.1.attention.out"]} == {1}
    assert {positions[name] for name in ("layers.0.down", "layers.1.queries", "layers.1.values")} == {6}
    assert one.values_sent < many.values_sent < 6 * one.values_sent
    whole = plan_demand(cut.network.at(6), cut.plan, 1)
    assert whole.values_sent == 6 * one.values_sent


def test_all_tokens_of_an_encoder_count():
    cut = split_network(encoder(), 2)
    one, many = (piece_demand(cut.network, cut.plan, 1, Piece(tokens, 0)) for tokens in (1, 6))
    assert many.values_sent == 6 * one.values_sent


@pytest.mark.parametrize("workers", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("make", [decoder, encoder, normalised_behind])
@pytest.mark.parametrize("round_cost", [0, 1e9])
def test_a_split_sends_and_computes_what_its_shards_do(make, workers, round_cost):
    network = make()
    cut = split_network(network, workers, round_cost=round_cost)
    _is_that_of_the_shards(cut)


@pytest.mark.parametrize("workers", [2, 3, 8])
@pytest.mark.parametrize("wish", WISHES)
def test_a_restructured_network_sends_and_computes_what_its_shards_do(wish, workers):
    _is_that_of_the_shards(cut_of(decoder(), [WISHES[wish]], np.ones(workers), "int8"))


def _is_that_of_the_shards(cut):
    demand = piece_demand(cut.network, cut.plan, 1, STEP)
    assert demand.values_sent == cut.traffic_matrix().sum()
    sent = sum(each.bytes_out.sum() for each in demand.exchanges)
    assert sent == cut.plan.bytes_sent(cut.network, cut.plan.comm_dtype)
    assert len(demand.exchanges) == rounds_of(cut.network, cut.plan)
    steps = _mixings(cut, demand)
    for worker in range(cut.plan.workers):
        shard = make_shard(cut.network, cut.plan, worker)
        for name in steps:
            block = shard.blocks[name]
            held = block.own_weights.size + block.ghost_weights.size + block.sum_weights.size
            assert steps[name].weights[worker] == held, name


def test_a_step_by_hand():
    """Two ranks: weights and kept keys are read at 1 GB/s, every round has a latency."""
    network = decoder()
    memory = replace(PLAIN.memory, rank_gb_per_s=(1.0,), node_gb_per_s=(1.0,))
    machine = replace(with_network(latency_us=50, gb_per_s=0.1), memory=memory)
    machine = replace(machine, dense=replace(PLAIN.dense, gflops=((1e6,),)), sparse=PLAIN.dense)
    machine = with_network(machine, overlap=0)
    cut, context = split_network(network, 2), 10
    demand = piece_demand(cut.network, cut.plan, 1, Piece(1, context))
    times = forecast(demand, machine, 1)
    rounds = 2 * LAYERS
    assert times.latency == pytest.approx(rounds * 50e-6)
    assert times.bytes == pytest.approx(rounds * 4 * WIDTH / 0.1e9)
    kept = LAYERS * context * GROUPS * 2 * SIZE / 2
    assert demand.kept.tolist() == [kept] * 2
    busiest = demand.weights.max()
    assert times.compute == pytest.approx(4e-9 * (busiest + kept), rel=0.05)
    without = forecast(piece_demand(cut.network, cut.plan, 1, STEP), machine, 1)
    assert times.compute - without.compute == pytest.approx(4e-9 * kept, rel=1e-3)


def test_many_tokens_are_multiplied_and_sequences_have_keys_of_their_own():
    network = decoder()
    few, many = (forecast(_alone(network, Piece(tokens, 0)), PLAIN, 1).total for tokens in (4, 16))
    assert 3 < many / few < 5
    memory = replace(PLAIN.memory, rank_gb_per_s=(1e-3,), node_gb_per_s=(1e-3,))
    slow = replace(PLAIN, memory=memory, dense=replace(PLAIN.dense, gflops=((1e6,),)))
    slow = replace(slow, sparse=slow.dense)

    def reading(batch: int) -> float:
        """The time for kept keys and values."""
        behind, first = (forecast(_alone(network, Piece(1, c)), slow, batch).total for c in (20, 0))
        return behind - first

    assert reading(3) == pytest.approx(3 * reading(1), rel=1e-3)


@settings(max_examples=20)
@given(
    wish=st.sampled_from(list(WISHES)),
    workers=st.integers(1, 5),
    tokens=st.integers(1, 10),
    context=st.integers(0, 12),
    latency=st.floats(0, 100),
)
def test_more_is_never_faster(wish, workers, tokens, context, latency):
    network = decoder(layers=1)
    plan = cut_of(network, [WISHES[wish]], np.ones(workers)) if workers > 1 else split_network(network, 1)
    machine = replace(with_network(latency_us=latency, gb_per_s=0.01), call_us=1, value_ns=1)

    def seconds(tokens: int, context: int) -> float:
        return piece_seconds(plan.network, plan.plan, machine, Piece(tokens, context))

    least = seconds(tokens, context) * (1 - 1e-9)
    assert least > 0
    assert seconds(tokens + 1, context) >= least and seconds(tokens, context + 1) >= least


def test_pieces_that_cannot_be_read():
    Piece(4, LONGEST - 4).check(decoder())
    with pytest.raises(UserError, match=f"{LONGEST} tokens at most.*tokens=4 behind context={LONGEST - 3}"):
        Piece(4, LONGEST - 3).check(decoder())
    with pytest.raises(UserError, match="context: expected 0, as tokens of this network see those behind"):
        Piece(4, 1).check(encoder())
