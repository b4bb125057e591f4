"""Neurons that integrate and fire: step by step in plain Python, their gradient, and the compiled loop."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.small_graphs import membrane
from repurpose_hpc.kernels import RESET_CODES, MembraneRule, integrate_and_fire
from repurpose_hpc.model.operations import PER_NEURON, RESETS, Membrane, Rows, Shape


def drawn(rng: np.random.Generator, steps: int = 5, **others: object) -> Membrane:
    return membrane(rng, "op", "x", steps, **others)


def spread(op: Membrane) -> Membrane:
    """Each position of a map with neurons of its own, as neurons: (neurons · positions,)."""
    return replace(op, **{name: np.ravel(getattr(op, name)) for name in PER_NEURON})


def as_neurons(x: np.ndarray, steps: int) -> np.ndarray:
    """Maps whose positions are neurons: (neurons · positions, batch, steps)."""
    neurons, batch, values = x.shape
    positions = values // steps
    by_step = x.reshape(neurons, batch, steps, positions).transpose(0, 3, 1, 2)
    return np.ascontiguousarray(by_step.reshape(neurons * positions, batch, steps))


def one_neuron(op: Membrane, j: int, inputs: list[float]) -> tuple[list[float], list[float]]:
    """The spikes and potentials of neuron j, number by number."""
    current = potential = 0.0
    fired, spikes, potentials = False, [], []
    for x in inputs:
        current = op.synapse[j] * current + x
        if op.is_delayed:
            potential *= op.decay[j]
        if fired and op.reset == "subtract":
            potential -= op.reset_value[j]
        if fired and op.reset == "set":
            potential = op.reset_value[j]
        if not op.is_delayed:
            potential *= op.decay[j]
        potential += op.resistance[j] * current
        fired = potential > op.threshold[j]
        spikes.append(float(fired))
        potentials.append(potential)
    return spikes, potentials


kinds = st.fixed_dictionaries(
    {"reset": st.sampled_from(RESETS), "is_delayed": st.booleans(), "fires": st.booleans()}
)


@settings(max_examples=30, deadline=None)
@given(
    kind=kinds,
    steps=st.integers(1, 7),
    positions=st.integers(1, 3),
    batch=st.integers(0, 3),
    seed=st.integers(0, 99),
)
def test_every_neuron_is_by_itself(kind, steps, positions, batch, seed):
    rng = np.random.default_rng(seed)
    op, x = drawn(rng, steps, **kind), rng.normal(0.3, 1, (3, batch, steps * positions))
    target = op.compute(x)
    for j, b, p in np.ndindex(3, batch, positions):
        expected = one_neuron(op, j, x[j, b, p::positions].tolist())[not op.fires]
        np.testing.assert_allclose(target[j, b, p::positions], expected, atol=1e-12)
    compiled = np.empty_like(x)
    rule = MembraneRule(steps, RESET_CODES[op.reset], int(op.is_delayed), int(op.fires))
    integrate_and_fire(x, *map(op.by_position, PER_NEURON), rule, compiled)
    np.testing.assert_allclose(compiled, target, atol=1e-12)


@settings(max_examples=20, deadline=None)
@given(kind=kinds, steps=st.integers(1, 5), batch=st.integers(0, 3), seed=st.integers(0, 99))
def test_positions_with_numbers_of_their_own_are_like_neurons(kind, steps, batch, seed):
    """Spikes and gradients, in both precisions and compiled."""
    rng = np.random.default_rng(seed)
    op = drawn(rng, steps, neurons=(3, 4), **kind)
    for dtype in (np.float64, np.float32):
        x, g = rng.normal(0.3, 1, (2, 3, batch, 4 * steps)).astype(dtype)
        alone, target = spread(op), op.compute(x)
        np.testing.assert_array_equal(as_neurons(target, steps), alone.compute(as_neurons(x, steps)))
        (gradient,) = op.vjp(g, target, x)
        (expected,) = alone.vjp(as_neurons(g, steps), as_neurons(target, steps), as_neurons(x, steps))
        np.testing.assert_array_equal(as_neurons(gradient, steps), expected)
        compiled = np.empty_like(x)
        rule = MembraneRule(steps, RESET_CODES[op.reset], int(op.is_delayed), int(op.fires))
        numbers = (op.by_position(name).astype(dtype) for name in PER_NEURON)
        integrate_and_fire(x, *numbers, rule, compiled)
        np.testing.assert_allclose(compiled, target, atol=1e-5 if dtype == np.float32 else 1e-12)


@pytest.mark.parametrize("is_delayed", [False, True])
@pytest.mark.parametrize("reset", RESETS)
def test_the_gradient_of_the_potential_takes_resets_as_they_came(reset, is_delayed):
    """Small differences, which change no spike, change the potential as the gradient says."""
    rng = np.random.default_rng(3)
    op = drawn(rng, 6, reset=reset, is_delayed=is_delayed, fires=False)
    x, g = rng.normal(0.5, 1, (2, 3, 2, 12))
    (gradient,) = op.vjp(g, op.compute(x), x)
    spikes = replace(op, fires=True).compute(x)
    for place in rng.integers(0, (3, 2, 12), (20, 3)):
        moved = x.copy()
        moved[tuple(place)] += 1e-6
        assert (replace(op, fires=True).compute(moved) == spikes).all()
        slope = (g * (op.compute(moved) - op.compute(x))).sum() / 1e-6
        assert slope == pytest.approx(gradient[tuple(place)], abs=1e-6)


def test_the_gradient_of_spikes_is_that_of_the_potential_by_the_slope_of_the_surrogate():
    rng = np.random.default_rng(4)
    op = drawn(rng, 4)
    x, g = rng.normal(0.5, 1, (2, 3, 2, 4))
    potential = replace(op, fires=False).compute(x)
    threshold = op.threshold[:, None, None]
    slope = 1 / (1 + (np.pi * (potential / threshold - 1)) ** 2) / threshold
    (expected,) = replace(op, fires=False).vjp(g * slope, potential, x)
    np.testing.assert_allclose(op.vjp(g, op.compute(x), x)[0], expected)


def test_the_gain_of_a_filter_bounds_what_it_does_to_any_input():
    rng = np.random.default_rng(5)
    op = drawn(rng, 8, fires=False, reset="none")
    (gain,) = op.gain([Shape(3, (8,))], Shape(3, (8,)))
    x = np.ones((3, 1, 8))
    assert np.linalg.norm(op.compute(x)) / np.linalg.norm(x) <= gain < 40
    by_position = drawn(rng, 8, neurons=(3, 2), fires=False, reset="none")
    assert by_position.gain([Shape(3, (16,))], Shape(3, (16,))) == spread(by_position).gain(
        [], Shape(6, (8,))
    )


def test_spikes_are_binary_and_potentials_are_not():
    rng = np.random.default_rng(6)
    assert drawn(rng).is_binary(False) and not drawn(rng, fires=False).is_binary(True)


def test_restricted_neurons_are_these_alone():
    rng = np.random.default_rng(7)
    op, x = drawn(rng), rng.normal(0.5, 1, (3, 2, 5))
    rows = Rows(np.array([2, 0]), np.array([0, 0]), 3)
    np.testing.assert_array_equal(op.restricted(rows, rows).compute(x[[2, 0]]), op.compute(x)[[2, 0]])


def test_restricted_neurons_keep_the_numbers_of_their_positions():
    rng = np.random.default_rng(7)
    op, x = drawn(rng, neurons=(3, 2)), rng.normal(0.5, 1, (3, 2, 10))
    rows = Rows(np.array([2, 0]), np.array([0, 0]), 3)
    np.testing.assert_array_equal(op.restricted(rows, rows).compute(x[[2, 0]]), op.compute(x)[[2, 0]])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"steps": 4}, "4 steps, which do not share out the 6 values"),
        ({"reset": "never"}, "reset 'never', expected one of"),
        ({"decay": np.ones(2)}, "decay of shape (2,) for 3 neurons"),
        ({"decay": np.ones((3, 3))}, "decay of shape (3, 3) for 3 neurons, 2 in a map"),
        ({"steps": 0}, "0 steps"),
        ({"decay": np.ones(3, np.float32)}, "all float32 or all float64"),
    ],
)
def test_a_membrane_that_does_not_fit_is_refused(changes, words):
    op = replace(drawn(np.random.default_rng(8), 3), **changes)
    assert any(words in fault for fault in op.faults([Shape(3, (6,))], Shape(3, (6,))))
