"""What is measured of networks with maps: columns, moments and metrics."""

from dataclasses import replace

import numpy as np
import pytest

from helpers.small_graphs import TANH, Draw, residual_network, square_window
from repurpose_hpc.io.samples import open_samples
from repurpose_hpc.model.activations import IDENTITY
from repurpose_hpc.model.chain import chain
from repurpose_hpc.model.forward import compute, trace
from repurpose_hpc.model.network import Network
from repurpose_hpc.model.operations import whole_map
from repurpose_hpc.plan.plan import Plan
from repurpose_hpc.restructure.calibration import moments, propagation
from repurpose_hpc.restructure.calibration.evaluation import compare, evaluate
from repurpose_hpc.restructure.calibration.moments import RIDGE, CalibrationBatches
from repurpose_hpc.restructure.calibration.propagation import CurrentNetwork, Propagation
from repurpose_hpc.restructure.calibration.statistics import UNREPAIRED, measure_statistics
from repurpose_hpc.restructure.team import ALONE, Team

# Ghosts travel as they are, whoever has them.
NO_PLAN = Plan(1, "replicated", {}, {})


@pytest.fixture
def samples_of(tmp_path):
    """A function (network, count) -> so many random samples in a file."""

    def write(network: Network, count: int, seed: int = 0):
        np.save(tmp_path / "x.npy", np.random.default_rng(seed).standard_normal((count, network.inputs)))
        return open_samples(tmp_path / "x.npy")

    return write


def read(samples):
    return np.concatenate(list(samples.batches(100, dtype=np.float64)))


def patches_by_hand(network, mixing, x):
    """Every patch of every sample, entry by entry: (n k, samples, positions out)."""
    flat = trace(network, x.T, mixing.source)[mixing.source]
    entries = np.zeros((len(flat), mixing.taps, x.shape[0], network.values(mixing.target)))
    for (position, tap), at in np.ndenumerate(mixing.window.indices()):
        if at >= 0:
            entries[:, tap, :, position] = flat[:, :, at]
    return entries.reshape(-1, *entries.shape[2:])


def without_some_weights(network, seed=1):
    rng = np.random.default_rng(seed)
    return network.with_mixings(
        {m.name: replace(m, weights=m.weights * (rng.random(m.weights.shape) < 0.8)) for m in network.mixings}
    )


def moments_of(network, restructured, mixing, samples, team):
    before = network.mixings[: network.mixings.index(mixing)]
    finished = {each.name for each in before}
    return Propagation(network, [mixing], samples, team).moments(
        mixing, CurrentNetwork(restructured, NO_PLAN, finished)
    )


@pytest.mark.parametrize("number", range(4))
def test_moments_are_those_of_all_patches(samples_of, number):
    network = residual_network()
    restructured, mixing = without_some_weights(network), network.mixings[number]
    samples = samples_of(network, 30)
    found = moments_of(network, restructured, mixing, samples, ALONE)
    x = patches_by_hand(restructured, mixing, read(samples)).reshape(mixing.weights.shape[1], -1)
    y = trace(network, read(samples).T)[mixing.target].reshape(len(mixing.bias), -1)
    joint = np.cov(np.concatenate([x, y]), bias=True)
    n, W = len(x), mixing.weights
    alpha = RIDGE * np.trace(joint[:n, :n]) / n
    np.testing.assert_allclose(found.H, joint[:n, :n] + alpha * np.eye(n), atol=1e-12)
    np.testing.assert_allclose(found.R, joint[n:, :n] + alpha * W, atol=1e-12)
    np.testing.assert_allclose(found.variance, np.diag(joint)[n:] + alpha * (W**2).sum(axis=1))
    np.testing.assert_allclose(found.mean_x, x.mean(axis=1), atol=1e-12)
    np.testing.assert_allclose(found.mean_y, y.mean(axis=1), atol=1e-12)


@pytest.mark.parametrize("waiting", [0, 1 << 15, 1 << 30])
def test_batches_that_wait_say_the_same_as_those_that_start_anew(samples_of, monkeypatch, waiting):
    monkeypatch.setattr(moments, "BATCH_VALUES", 1 << 14)
    monkeypatch.setattr(propagation, "WAITING_BYTES", waiting)
    network = residual_network()
    restructured, samples = without_some_weights(network), samples_of(network, 40)
    together = Propagation(network, list(network.mixings), samples, Team(threads=2))
    finished = set()
    for mixing in network.mixings:
        # What is not finished yet must not be looked at.
        current = network.with_mixings({m.name: m for m in restructured.mixings if m.name in finished})
        found = together.moments(mixing, CurrentNetwork(current, NO_PLAN, finished))
        expected = Propagation(network, list(network.mixings), samples, ALONE).moments(
            mixing, CurrentNetwork(restructured, NO_PLAN, finished)
        )
        np.testing.assert_array_equal(found.H, expected.H)
        np.testing.assert_array_equal(found.R, expected.R)
        finished.add(mixing.name)


def test_what_is_added_to_a_shortcut_makes_up_for_it(samples_of):
    draw = Draw(1)
    builder = draw.builder
    source = builder.elementwise("a", draw.mixing("first", builder.input("input", 3), 4), TANH)
    total = builder.combine("sum", draw.mixing("second", source, 4), source, "add")
    network = builder.build((draw.mixing("last", total, 2),), ("identity",))
    restructured, samples = without_some_weights(network), samples_of(network, 40)
    second = network.mixings[1]
    found = moments_of(network, restructured, second, samples, ALONE)
    x, x_hat = (trace(net, read(samples).T) for net in (network, restructured))
    y = x[second.target] + x[second.source] - x_hat[second.source]
    np.testing.assert_allclose(found.mean_y, y.mean(axis=1))
    alpha = RIDGE * np.trace(np.cov(x_hat[second.source], bias=True)) / 4
    joint = np.cov(np.concatenate([x_hat[second.source], y]), bias=True)
    np.testing.assert_allclose(found.R, joint[4:, :4] + alpha * second.weights)


def test_columns_are_patches_at_random_positions_of_each_sample(samples_of, monkeypatch):
    monkeypatch.setattr(moments, "FEWEST_COLUMNS", 200)
    monkeypatch.setattr(moments, "COLUMNS_PER_WEIGHT", 1)
    network = residual_network()
    mixing, samples = network.mixings[0], samples_of(network, 40)
    stream = CalibrationBatches(network, network.mixings, samples)
    tensors = trace(network, read(samples).T)
    ends = tensors[mixing.source], tensors[mixing.target]
    x, y = stream.columns(mixing, 0, *ends)
    assert x.shape == (18, 200) and y.shape == (4, 200)
    np.testing.assert_allclose(mixing.weights @ x + mixing.bias[:, None], y)
    found = (y[:, None, :] == ends[1].reshape(4, -1, 1)).all(axis=0).argmax(axis=0)
    samples_found, positions = np.divmod(found, 30)
    assert (samples_found == np.repeat(np.arange(40), 5)).all()
    assert len(set(zip(samples_found.tolist(), positions.tolist(), strict=True))) == 200
    assert len(set(positions.tolist())) == 30
    for number, alike in ((0, True), (1, False)):
        assert np.array_equal(stream.columns(mixing, number, *ends)[0], x) == alike


def test_the_neediest_mixing_decides_how_many_samples_are_propagated(samples_of, monkeypatch):
    monkeypatch.setattr(moments, "FEWEST_SAMPLES", 20)
    monkeypatch.setattr(moments, "COLUMNS_PER_WEIGHT", 5)
    network = residual_network()  # 18 columns and 30 positions at first, 12 columns and 1 position at last
    samples = samples_of(network, 90)
    for mixings, wanted in ((network.mixings[:1], 20), (network.mixings, 60), (None, 90)):
        stream = CalibrationBatches(network, mixings, samples)
        assert stream.samples.samples == wanted
        assert (read(stream.samples) == read(samples)[np.arange(wanted) * 90 // wanted]).all()
    assert CalibrationBatches(network, network.mixings, samples_of(network, 50)).samples.samples == 50
    dense = chain([np.ones((2, 3))], [np.ones(2)], [IDENTITY])
    assert CalibrationBatches(dense, dense.mixings, samples_of(dense, 90)).samples.samples == 90


def test_small_batches_and_several_threads_change_nothing_but_rounding(samples_of, monkeypatch):
    network = residual_network()
    samples = samples_of(network, 40)
    whole = moments_of(network, network, network.mixings[1], samples, ALONE)
    monkeypatch.setattr(moments, "BATCH_VALUES", 1 << 14)
    assert CalibrationBatches(network, network.mixings, samples).rows < 20
    alone, together = (
        moments_of(network, network, network.mixings[1], samples, team) for team in (ALONE, Team(threads=3))
    )
    assert np.array_equal(alone.H, together.H) and np.array_equal(alone.R, together.R)
    np.testing.assert_allclose(alone.H, whole.H, atol=1e-12)


def jacobians(network, tensors, mixing):
    """Of the single output by every value of the target of ``mixing``: (m, samples, positions)."""
    step, target = 1e-5, tensors[mixing.target]
    slopes = np.zeros(target.shape)
    for place in np.ndindex(target.shape[0], *target.shape[2:]):
        at, values = (place[0], slice(None), *place[1:]), []
        for sign in (1, -1):
            moved = {**tensors, mixing.target: target.copy()}
            moved[mixing.target][at] += sign * step
            behind = network.operations[network.operations.index(mixing) + 1 :]
            for op in behind:
                moved[op.target] = compute(op, *(moved[source] for source in op.sources))
            values.append(moved[network.output_tensors[0]][0])
        slopes[at] = (values[0] - values[1]) / (2 * step)
    return slopes.reshape(*target.shape[:2], -1)


def test_metric_is_the_sum_of_squared_jacobians_over_positions(samples_of):
    """With a single output, random directions of it have nothing to choose."""
    network = residual_network()
    draw = Draw(2)
    last = draw.weights(1, network.mixings[-1].weights.shape[1])
    cut = replace(network.mixings[-1], weights=last[0], bias=last[1])
    spaces = tuple(replace(s, neurons=1) if s.name == "last" else s for s in network.spaces)
    network = replace(network.with_mixings({"last": cut}), spaces=spaces)
    samples = samples_of(network, 6)
    metrics = measure_statistics(network, samples, 0, ALONE).metrics
    tensors = trace(network, read(samples).T)
    for mixing, repairing in zip(network.mixings, (2, 1, 0, 0), strict=True):
        J = jacobians(network, tensors, mixing)
        M = np.einsum("isp,jsp->ij", J, J) / 6
        compensated = np.trace(M) ** 2 / (len(M) * (M * M).sum())
        expected = compensated * UNREPAIRED**repairing * M
        np.testing.assert_allclose(metrics[mixing.name], expected, rtol=1e-5, atol=1e-9)


def test_fixed_mixings_are_not_surveyed_and_repair_nothing(samples_of):
    network = residual_network()
    fixed = network.with_mixings({m.name: replace(m, fixed=m.name == "c2") for m in network.mixings})
    samples = samples_of(network, 5)
    all_of, some = (measure_statistics(net, samples, 0, ALONE) for net in (network, fixed))
    assert set(all_of.metrics) - set(some.metrics) == {"c2"} == set(all_of.moments) - set(some.moments)
    np.testing.assert_allclose(some.metrics["c0"], all_of.metrics["c0"] / UNREPAIRED)
    assert np.array_equal(some.metrics["last"], all_of.metrics["last"])


def test_several_outputs_are_surveyed_and_compared(samples_of):
    draw = Draw(0)
    maps = draw.mixing("conv", draw.builder.input("input", 1, (4, 4)), 3, square_window((4, 4)))
    classes = draw.mixing("dense", maps, 2, whole_map((4, 4)))
    network = draw.builder.build((maps, classes), ("identity", "softmax"))
    samples = samples_of(network, 8)
    measured = measure_statistics(network, samples, 0, ALONE)
    # An error of the first mixing is seen by the first output itself.
    assert np.trace(measured.metrics["conv"]) > 1 > np.trace(measured.metrics["dense"])
    findings = evaluate(network, without_some_weights(network), samples)
    assert 0 < findings["output_error"] <= findings["bound"] and "accuracy" not in findings
    assert compare(network, without_some_weights(network), samples).output_error == findings["output_error"]
