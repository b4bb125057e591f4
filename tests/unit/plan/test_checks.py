"""Shards with the right checksums and wrong content: kernels, which check no bounds, never see them."""

from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.small_transformers import decoder
from repurpose_hpc.errors import UserError
from repurpose_hpc.model.chain import sequence
from repurpose_hpc.plan.files import store
from repurpose_hpc.plan.files.store import open_plan, read_network, read_shard, write_plan
from repurpose_hpc.plan.masks import MixingPlan, mixing_plan
from repurpose_hpc.plan.plan import Plan, input_owners
from repurpose_hpc.plan.shard import Block, Lists, make_shard
from repurpose_hpc.restructure.exact import split_network

WORKERS = 3
LISTS = [(name, field.name) for name in ("ghosts", "sums") for field in fields(Lists)]
WEIGHTS = ("own_weights", "ghost_weights", "sum_weights", "bias")


def make_case():
    rng = np.random.default_rng(2)
    network = sequence(
        6, [(rng.normal(size=(7, 6)), rng.normal(size=7)), (rng.normal(size=(4, 7)), np.zeros(4))]
    )
    owners = {space.name: np.arange(space.neurons, dtype=np.int32) % WORKERS for space in network.spaces}
    owners["input"] = input_owners(6, "partitioned", np.ones(WORKERS))
    plans = {}
    for mixing in network.mixings:
        ends = [owners[network.space_of[tensor]] for tensor in (mixing.source, mixing.target)]
        masks = [rng.random((WORKERS, len(owner))) < 0.7 for owner in ends]
        plans[mixing.name] = mixing_plan(*masks, *ends)
    scales = {
        mixing.source: np.ones(len(owners[network.space_of[mixing.source]]), np.float32)
        for mixing in network.mixings
    }
    plan = Plan(WORKERS, "partitioned", owners, plans, scales)
    return plan.pruned(network), plan


def written(folder, monkeypatch, change, changed_plan=lambda plan: plan):
    """A plan whose worker 1 has a shard that ``change`` made of the right one."""
    network, plan = make_case()

    def make(network, plan, worker, dtype):
        shard = make_shard(network, make_case()[1], worker, dtype)
        shard = change(shard) if worker == 1 else shard
        return replace(shard, plan_identity=plan.identity())

    monkeypatch.setattr(store, "make_shard", make)
    write_plan(folder / "plan", network, changed_plan(plan), {})
    return open_plan(folder / "plan")


def with_block(shard, **changed):
    return replace(shard, blocks={**shard.blocks, "layer0": replace(shard.blocks["layer0"], **changed)})


def with_list(shard, name, part, values):
    block = shard.blocks["layer0"]
    return with_block(shard, **{name: replace(getattr(block, name), **{part: values})})


def refusal(stored):
    with pytest.raises(UserError, match="expected a readable file of a restructured network") as refused:
        read_shard(stored, 1)
    return str(refused.value)


def test_the_right_shard(tmp_path, monkeypatch):
    block: Block = read_shard(written(tmp_path, monkeypatch, lambda shard: shard), 1).blocks["layer0"]
    assert all(len(getattr(getattr(block, name), part)) for name, part in LISTS), (
        "the case must have all lists"
    )


@given(data=st.data())
@pytest.mark.parametrize(("name", "part"), LISTS)
def test_a_list_with_another_entry(tmp_path_factory, name, part, data):
    wrong = data.draw(st.sampled_from([-1, 7, (1 << 31) - 1, -(1 << 31)]))  # all fit the 32 bits of a list

    def change(shard):
        values = getattr(getattr(shard.blocks["layer0"], name), part).copy()
        place = data.draw(st.integers(0, len(values) - 1))
        values[place] = wrong
        return with_list(shard, name, part, values)

    with pytest.MonkeyPatch.context() as patch:
        message = refusal(written(tmp_path_factory.mktemp("case"), patch, change))
    assert f"mixing layer0: its list {part} of {name} is another" in message


@pytest.mark.parametrize(("name", "part"), LISTS)
def test_a_list_of_another_length_or_type(tmp_path, monkeypatch, name, part):
    for number, change in enumerate(
        [lambda v: v[:-1], lambda v: np.append(v, v[-1:]), lambda v: v.astype(np.int16)]
    ):
        stored = written(
            tmp_path / str(number),
            monkeypatch,
            lambda shard, change=change: with_list(
                shard, name, part, change(getattr(getattr(shard.blocks["layer0"], name), part))
            ),
        )
        assert f"its list {part} of {name} is another" in refusal(stored)


@pytest.mark.parametrize("name", WEIGHTS)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_numbers_that_are_not_finite(tmp_path, monkeypatch, name, value):
    def change(shard):
        array = getattr(shard.blocks["layer0"], name).copy()
        array.flat[-1] = value
        return with_block(shard, **{name: array})

    assert f"its {name} hold NaN or infinity" in refusal(written(tmp_path, monkeypatch, change))


@pytest.mark.parametrize("name", [*WEIGHTS, "sent_scales", "received_scales"])
def test_another_shape_or_type(tmp_path, monkeypatch, name):
    def shorter(shard):
        return with_block(shard, **{name: getattr(shard.blocks["layer0"], name)[:-1]})

    def integers(shard):
        return with_block(shard, **{name: getattr(shard.blocks["layer0"], name).astype(np.int32)})

    assert f"its {name} have shape" in refusal(written(tmp_path / "a", monkeypatch, shorter))
    assert f"its {name} are int32" in refusal(written(tmp_path / "b", monkeypatch, integers))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda shard: replace(shard, workers=4), "it is for 4 workers"),
        (lambda shard: replace(shard, comm_dtype="int8"), "it is for 3 workers and int8"),
        (
            lambda shard: replace(shard, own={**shard.own, "layer0": np.arange(7)}),
            "own neurons of space layer0",
        ),
        (lambda shard: replace(shard, own={}), "its own neurons are"),
        (lambda shard: replace(shard, blocks={"layer0": shard.blocks["layer0"]}), "its blocks are layer0"),
        (lambda shard: with_block(shard, ghost_neurons=np.array([99])), "its ghost neurons are others"),
    ],
)
def test_other_faults(tmp_path, monkeypatch, change, words):
    assert words in refusal(written(tmp_path, monkeypatch, change))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda plan: {"owners": {**plan.owners, "layer0": np.full(7, 3, np.int32)}}, "owners from 3 to 3"),
        (lambda plan: {"owners": {**plan.owners, "layer0": np.full(7, -1, np.int32)}}, "without an owner"),
        (lambda plan: {"owners": {**plan.owners, "layer0": np.zeros(8, np.int32)}}, "owners of shape (8,)"),
        (lambda plan: {"owners": {"input": plan.owners["input"]}}, "its owners of spaces are input"),
        (lambda plan: {"scales": {"x0": np.full(6, np.nan, np.float32)}}, "are not 6 finite numbers"),
        (lambda plan: {"outliers": {"x0": np.ones(5, bool)}}, "the outliers of x0 are a mask of shape (5,)"),
        (lambda plan: {"outliers": {"other": np.ones(5, bool)}}, "its outliers are of other"),
        (lambda plan: {"removed": {"layer0": np.ones(6, bool)}}, "in a mask of shape (6,)"),
        (lambda plan: {"removed": {"elsewhere": np.ones(7, bool)}}, "neurons of space elsewhere"),
        (lambda plan: {"removed": {"layer1": np.arange(4) == 2}}, "it removes neurons of the output"),
        (lambda plan: {"removed": {"layer0": np.ones(7, bool)}}, "needs removed neurons of"),
    ],
)
def test_a_plan_that_is_wrong(tmp_path, monkeypatch, change, words):
    """Every shard carries the identity of the plan, whatever is in it."""
    network, plan = make_case()
    traffic = {mixing.name: plan.traffic(network, mixing) for mixing in network.mixings}
    monkeypatch.setattr(Plan, "traffic", lambda self, network, mixing: traffic[mixing.name])
    stored = written(tmp_path, monkeypatch, lambda shard: shard, lambda plan: replace(plan, **change(plan)))
    assert words in refusal(stored)


@pytest.mark.parametrize("round_cost", [0.0, 1e9])
@pytest.mark.parametrize("workers", [1, 3, 8])
def test_networks_of_tokens(tmp_path, workers, round_cost):
    """With a stream that has owners, or of which every worker has a copy."""
    cut = split_network(decoder(layers=1), workers, round_cost=round_cost)
    write_plan(tmp_path / "shards", cut.network, cut.plan, {})
    stored = open_plan(tmp_path / "shards")
    for worker in range(workers):
        found, expected = read_shard(stored, worker), make_shard(cut.network, cut.plan, worker)
        assert found.graph.longest == cut.network.longest
        for name, block in expected.blocks.items():
            assert found.blocks[name].is_common == block.is_common
            np.testing.assert_array_equal(found.blocks[name].own_weights, block.own_weights)
    network = read_network(stored).astype(np.float32)
    assert network.fingerprint() == cut.network.astype(np.float32).fingerprint()


def _without_sums(plan, worker):
    masks = plan.mixings["layers.0.down"]
    sums = masks.sums.copy()
    sums[worker] = False
    return replace(plan, mixings={**plan.mixings, "layers.0.down": MixingPlan(masks.ghosts, sums)})


def test_common_neurons_lack_nothing(tmp_path):
    """Workers whose sums differ would have different copies."""
    cut = split_network(decoder(layers=1), 3, round_cost=1e9)
    write_plan(tmp_path / "shards", cut.network, _without_sums(cut.plan, 1), {})
    with pytest.raises(UserError, match=r"space layers.0.*, which is no input, has neurons without an owner"):
        read_shard(open_plan(tmp_path / "shards"), 0)
