"""``Options.late``: weights of each sweep, what they are adjusted to, and what is said of them."""

from dataclasses import replace

import numpy as np
import pytest

from helpers import small_plans
from helpers.example_operations import NETWORKS
from helpers.interruption import assert_same_bits
from repurpose_hpc.errors import UserError
from repurpose_hpc.fields import FieldError
from repurpose_hpc.io.samples import Samples
from repurpose_hpc.model.forward import forward
from repurpose_hpc.model.spec import check
from repurpose_hpc.model.weights import as_sparse
from repurpose_hpc.plan.files.origin import sweeps_of
from repurpose_hpc.plan.files.store import open_plan, read_network
from repurpose_hpc.plan.late import late, without_sweeps
from repurpose_hpc.plan.relays import mixings_of_original
from repurpose_hpc.plan.rounds import rounds_of
from repurpose_hpc.report.shards import read_contents
from repurpose_hpc.restructure.calibration.moments import RIDGE
from repurpose_hpc.restructure.cut import Cut
from repurpose_hpc.restructure.driver import restructure
from repurpose_hpc.restructure.job import restructure_network
from repurpose_hpc.restructure.late import with_late_weights
from repurpose_hpc.restructure.options import Options
from repurpose_hpc.restructure.team import Team

WORKERS = 3
WIDTHS = (14, 30, 30, 30, 6)
NETWORK = small_plans.random_network(4, WIDTHS, "identity")
OPTIONS = Options(WORKERS, 0.2, forms=small_plans.WITHOUT_RELAYS)


def data(network, count=300):
    """Samples that have something in common."""
    draw = np.random.default_rng(7)
    return draw.standard_normal((count, 5)) @ draw.standard_normal((5, network.inputs))


@pytest.fixture(scope="module")
def samples():
    return Samples.of(data(NETWORK))


@pytest.fixture(scope="module")
def cut(samples):
    return restructure(NETWORK, samples, OPTIONS)


def error(network, x, original=NETWORK):
    """Distance of the outputs from those of the original, relative to these."""
    y = forward(original, x)
    return np.linalg.norm(forward(network, x) - y) / np.linalg.norm(y)


def test_sweeps_of_their_own_weights_are_nearer_to_the_original(samples, cut):
    x = data(NETWORK)
    fitted = {sweeps: with_late_weights(NETWORK, cut, sweeps, samples) for sweeps in (1, 2, 3)}
    errors = {sweeps: error(check(one.network), x) for sweeps, one in fitted.items()}
    for sweeps, one in fitted.items():
        plain = late(cut.network, cut.plan, sweeps)
        assert errors[sweeps] < 0.8 * error(plain.network(cut.network), x)
        assert rounds_of(one.network, one.plan) == rounds_of(plain.graph, plain.plan) == sweeps - 1
        assert one.traffic_matrix().sum() == Cut(plain.graph, plain.plan).traffic_matrix().sum()
    assert errors[1] > errors[2] > errors[3]


@pytest.mark.parametrize("name", ["residual", "convolutional", "branching", "normalised", "spiking"])
@pytest.mark.parametrize("placement", ["replicated", "partitioned"])
def test_other_networks(name, placement):
    """On random masks; the last tensors of the sweeps have the names of the original's."""
    network = NETWORKS[name]()
    plan = small_plans.random_plan(network, WORKERS, placement)
    cut, x = Cut(small_plans.pruned(network, plan), plan), data(network)
    fitted = with_late_weights(network, cut, 2, Samples.of(x))
    plain = late(cut.network, plan, 2).network(cut.network)
    assert error(check(fitted.network), x, network) < error(plain, x, network)
    assert {op.target for op in network.operations} <= {op.target for op in fitted.network.operations}
    merged = check(without_sweeps(fitted.network, fitted.plan))
    graphs = ({(op.name, op.sources, op.target) for op in one.operations} for one in (merged, network))
    assert next(graphs) == next(graphs)


def test_weights_of_a_sweep_are_those_of_least_squares(samples, cut):
    """From the definition, with another solver: the third layer in its first and in its second sweep."""
    fitted, x = with_late_weights(NETWORK, cut, 2, samples), data(NETWORK).T
    relu = NETWORK.operations[1]
    y, by_name = x, {mixing.name: mixing for mixing in fitted.network.mixings}
    for mixing in NETWORK.mixings[:3]:
        y = mixing.compute(y if mixing is NETWORK.mixings[0] else relu.compute(y))
    first, second, third, _ = (mixing.name for mixing in NETWORK.mixings)
    # Nothing crosses for the first layer, which reads an input that everybody has.
    x1 = relu.compute(by_name[first].compute(x))
    x2 = [relu.compute(by_name[f"{second} alone 1"].compute(x1))]
    x2.append(relu.compute(by_name[second].compute(x1) + by_name[f"{second} between 1"].compute(x1)))
    exact = {mixing.name: mixing for mixing in cut.network.mixings}[third].W
    for names, sources in (
        ([f"{third} alone 1"], x2[:1]),
        ([third, f"{third} between 1"], x2[::-1]),
    ):
        parts = [by_name[name] for name in names]
        W, wide = np.hstack([part.W for part in parts]), np.hstack([exact] * len(parts))
        used = W.any(axis=0)
        columns = np.vstack(sources)[used]
        centred = (columns - columns.mean(axis=1, keepdims=True)).T
        ridge = RIDGE * np.mean(centred**2)
        for row in range(len(W)):
            S = W[row, used] != 0
            A = np.vstack([centred[:, S], np.sqrt(len(centred) * ridge) * np.eye(S.sum())])
            wanted = [y[row] - y[row].mean(), np.sqrt(len(centred) * ridge) * wide[row, used][S]]
            expected, *_ = np.linalg.lstsq(A, np.hstack(wanted), rcond=None)
            np.testing.assert_allclose(W[row, used][S], expected, atol=1e-8)
        made = sum(part.compute(source) for part, source in zip(parts, sources, strict=True))
        np.testing.assert_allclose(made.mean(axis=1), y.mean(axis=1), atol=1e-10)


def test_an_exact_copy_shares_no_weights_with_one_that_is_not(samples, cut):
    """The third sweep of the third layer has the inputs of the exact order, and its weights."""
    fitted = with_late_weights(NETWORK, cut, 3, samples)
    name = NETWORK.mixings[2].name
    merged = without_sweeps(fitted.network, fitted.plan)
    found, exact = ({m.name: m for m in one.mixings}[name] for one in (merged, cut.network))
    np.testing.assert_allclose(found.W, exact.W, atol=1e-12)


def test_after_all_sweeps_it_is_the_exact_order(samples, cut):
    x, sweeps = data(NETWORK), 1 + rounds_of(cut.network, cut.plan)
    for count in (sweeps, sweeps + 2):
        fitted = with_late_weights(NETWORK, cut, count, samples)
        np.testing.assert_allclose(forward(fitted.network, x), forward(cut.network, x), atol=1e-10)
    # So the weights of the last sweep are those of the exact order.
    merged = check(without_sweeps(fitted.network, fitted.plan))
    assert [op.name for op in merged.operations] == [op.name for op in NETWORK.operations]
    np.testing.assert_allclose(forward(merged, x), forward(cut.network, x), atol=1e-10)
    assert without_sweeps(cut.network, cut.plan) is cut.network


def test_the_result_does_not_depend_on_who_shares_the_work(samples, cut):
    expected = with_late_weights(NETWORK, cut, 2, samples)
    assert_same_bits(with_late_weights(NETWORK, cut, 2, samples, team=Team(threads=2)), expected)


def test_removed_neurons_stay_removed(samples):
    cut = restructure(NETWORK, samples, replace(OPTIONS, compute_budget=0.4))
    assert cut.plan.removed
    fitted = with_late_weights(NETWORK, cut, 2, samples)
    removed = fitted.plan.removed_neurons(fitted.network)
    for mixing in fitted.network.mixings:
        gone = removed[fitted.network.space_of[mixing.target]]
        assert not mixing.W[gone].any() and not mixing.bias[gone].any()
    plain = late(cut.network, cut.plan, 2).network(cut.network)
    assert error(fitted.network, data(NETWORK)) < error(plain, data(NETWORK))


def test_the_original_is_counted_once(samples, cut):
    fitted = with_late_weights(NETWORK, cut, 3, samples)
    names = [mixing.name for mixing in NETWORK.mixings]
    assert [mixing.name for mixing in mixings_of_original(fitted.network, fitted.plan)] == names
    dense = [cut.plan.dense_values(NETWORK, mixing) for mixing in NETWORK.mixings]
    found = {m.name: fitted.plan.dense_values(fitted.network, m) for m in fitted.network.mixings}
    assert [found[name] for name in names] == dense and sum(found.values()) == sum(dense)


def test_shards_and_the_report_say_what_they_are_for(samples, tmp_path):
    result = restructure_network(NETWORK, samples, OPTIONS, late=2, dtype=np.float64)
    report, x = result.report, data(NETWORK)
    assert (report["sweeps"], report["rounds"], report["bound"]) == (2, 1, None)
    assert [layer["name"] for layer in report["layers"]] == [mixing.name for mixing in NETWORK.mixings]
    assert sum(layer["values_sent"] for layer in report["layers"]) == report["values_sent"] > 0
    assert report["output_error"] == pytest.approx(error(result.network, x), rel=1e-9)
    # The last relative error is that of the outputs, which are no activations.
    assert report["layers"][-1]["relative_error"] == pytest.approx(report["output_error"])
    assert 0 < report["output_error_held_out"] < 1
    result.save(tmp_path / "shards")
    stored = open_plan(tmp_path / "shards")
    assert sweeps_of(stored) == 2 and dict(stored.plan.copies) == dict(result.plan.copies)
    assert stored.plan.identity() == result.plan.identity() != replace(result.plan, copies={}).identity()
    np.testing.assert_array_equal(forward(read_network(stored), x), forward(result.network, x))
    # Pictures show the layers of the original, and the links of the last sweep.
    contents = read_contents(tmp_path / "shards")
    assert [layer.name for layer in contents.layers] == [mixing.name for mixing in NETWORK.mixings]
    assert sum(layer.values for layer in contents.layers) == report["values_sent"]
    assert {layer.round for layer in contents.layers} == {0, 1}
    merged = without_sweeps(result.network, result.plan)
    for mask, mixing in zip(contents.masks, merged.mixings, strict=True):
        assert mask.blocks.sum() == np.count_nonzero(mixing.W)


def test_a_promise_is_one_of_the_sweeps(samples):
    result = restructure_network(
        NETWORK, samples, workers=2, max_output_error=0.2, forms=small_plans.WITHOUT_RELAYS, late=2
    )
    assert result.report["sweeps"] == 2 and result.report["output_error_held_out"] <= 0.2


@pytest.mark.parametrize(
    "fields",
    [
        {"forms": ("ghosts", "relays")},
        {"by_position": 1},
        {"stages": 2},
        {"comm_dtype": "int8"},
        {"method": "magnitude"},
    ],
)
def test_what_does_not_go_with_it(fields):
    with pytest.raises(FieldError, match=f"{next(iter(fields))}: expected .* with late=2, got .*; leave one"):
        Options(WORKERS, late=2, **fields)


def test_numbers_and_weights_that_are_none(samples, cut):
    with pytest.raises(FieldError, match="late: expected an integer, 1 or more, got 0"):
        Options(WORKERS, late=0)
    sparse = {mixing.name: replace(mixing, weights=as_sparse(mixing.W)) for mixing in NETWORK.mixings}
    with pytest.raises(UserError, match="late: expected arrays of weights, found sparse ones"):
        with_late_weights(NETWORK.with_mixings(sparse), cut, 2, samples)
    assert "relays" in Options(WORKERS).may_travel and "relays" not in Options(WORKERS, late=2).may_travel
