"""Verification: what is rounding, what is wrong, and what cannot be told."""

import warnings
from dataclasses import replace

import numpy as np
import pytest

from helpers.small_transformers import decoder, texts
from repurpose_hpc.errors import Note, UserError
from repurpose_hpc.model.chain import sequence
from repurpose_hpc.model.comm_dtype import INT8, received
from repurpose_hpc.model.forward import forward
from repurpose_hpc.plan.rounding import rounded_compute
from repurpose_hpc.restructure.exact import split_network
from repurpose_hpc.runtime.encoding import TextVerification
from repurpose_hpc.runtime.lowering.weights import row_scales
from repurpose_hpc.runtime.pooling import Pool
from repurpose_hpc.runtime.resources import EXACT_FORMATS, Formats
from repurpose_hpc.runtime.verification import Verification, tolerance

FLOAT32, FLOAT64 = np.dtype(np.float32), np.dtype(np.float64)


def chain_of(*weights):
    """Layers without bias and activation."""
    return sequence(weights[0].shape[1], [(W, np.zeros(len(W))) for W in weights])


def verified(network, x, outputs, dtype=FLOAT32, formats=EXACT_FORMATS):
    verification = Verification(network, dtype, formats)
    for batch in np.array_split(np.arange(len(x)), 3):
        verification.add(outputs[batch], x[batch])
    verification.check()
    return verification


@pytest.fixture
def x():
    return np.random.default_rng(7).standard_normal((20, 9))


@pytest.fixture
def plain():
    rng = np.random.default_rng(5)
    return chain_of(rng.standard_normal((6, 9)), rng.standard_normal((4, 6)))


@pytest.fixture
def amplifying(plain):
    """Outputs are 1e5 times the differences of neurons that are nearly equal."""
    rng = np.random.default_rng(6)
    same = rng.standard_normal((1, 9))
    nearly = np.repeat(same, 6, axis=0) + 1e-4 * rng.standard_normal((6, 9))
    differences = rng.standard_normal((4, 6))
    return chain_of(nearly, 1e5 * (differences - differences.mean(axis=1, keepdims=True)))


def test_the_tolerance_follows_the_formats(plain, x):
    float16 = Formats(comm_dtype="float16")
    outputs = forward(plain, x)
    outputs += 2 * tolerance(FLOAT32, float16) * np.abs(outputs).max()
    verified(plain, x, outputs, formats=Formats(comm_dtype=INT8))
    with pytest.raises(UserError, match="expected outputs within 0.000987"):
        verified(plain, x, outputs, formats=float16)
    with pytest.raises(UserError, match="--weights-dtype with more bits"):
        verified(plain, x, outputs, formats=Formats(weights_dtype="float16"))


def test_a_network_that_does_not_amplify_is_held_to_the_tolerance(plain, x):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = verified(plain, x, forward(plain, x, np.float32))
    assert "relative_rounding" not in found.results()
    outputs = forward(plain, x)
    outputs[-1, 0] += 1e-4 * np.abs(outputs).max()
    with pytest.raises(UserError, match="expected outputs within 1e-05 .*, found 0.0001, .*NumPy in float32"):
        verified(plain, x, outputs)


@pytest.mark.parametrize("dtype", [FLOAT32, FLOAT64])
def test_weights_in_fewer_bits_are_amplified_too(x, dtype):
    """Row by row in halves of the columns, as two blocks have them; every layer adds to the difference."""
    rng, int8 = np.random.default_rng(2), Formats(weights_dtype=INT8)
    layers = [rng.standard_normal((9, 9)).astype(np.float32) for _ in range(8)]
    halves = [[received(half, INT8, row_scales(half)) for half in np.split(W, [4], axis=1)] for W in layers]
    network, rounded = (
        chain_of(*(W.astype(np.float64) for W in each)) for each in (layers, map(np.hstack, halves))
    )
    outputs, expected = forward(rounded, x), forward(network, x)
    assert np.abs(outputs - expected).max() > tolerance(dtype, int8) * np.abs(expected).max()
    with pytest.warns(Note, match="those of NumPy in float32 with weights in int8 by"):
        verified(network, x, outputs, dtype, int8)
    outputs[-1, 0] += 0.3 * np.abs(outputs).max()
    with pytest.raises(UserError, match="by NumPy in float32 with weights in int8; the run is wrong"):
        verified(network, x, outputs, dtype, int8)


@pytest.mark.parametrize("dtype, finer", [(FLOAT32, 1), (FLOAT64, 2.0**-29)])
def test_rounding_that_the_network_amplifies_is_a_note(amplifying, x, dtype, finer):
    outputs = forward(amplifying, x)
    rounding = forward(amplifying, x, np.float32) - outputs
    assert np.abs(rounding).max() > 1e-5 * np.abs(outputs).max()
    # Another order of summation rounds elsewhere.
    with pytest.warns(Note, match="amplifies rounding errors: outputs differ by .* by NumPy|those of NumPy"):
        found = verified(amplifying, x, outputs - 2 * finer * rounding, dtype)
    assert found.results()["relative_rounding"] == pytest.approx(
        np.abs(rounding).max() / np.abs(outputs).max(), rel=0.01
    )
    with pytest.raises(UserError, match="the run is wrong, or the network amplifies"):
        verified(amplifying, x, outputs - 5 * finer * rounding, dtype)


def test_what_is_amplified_too_much_proves_nothing(amplifying, x):
    first, second = amplifying.mixings
    worse = chain_of(first.weights + 0.0, 1e4 * second.weights)
    noisy = chain_of(1e3 + first.weights, second.weights)
    outputs = forward(noisy, x)
    rounding = np.abs(forward(noisy, x, np.float32) - outputs).max() / np.abs(outputs).max()
    assert rounding > 1e-2
    with pytest.raises(UserError, match="expected outputs within 0.01 "):
        verified(noisy, x, outputs * (1 + rounding))
    # Not how large weights are, but what cancels is what counts.
    verified(worse, x, forward(worse, x) * (1 + 1e-6))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_outputs_that_are_not_finite_are_refused(plain, amplifying, x, value):
    for network in (plain, amplifying):
        outputs = forward(network, x)
        outputs[3, 1] = value
        with pytest.raises(UserError, match="expected outputs within"):
            verified(network, x, outputs)


@pytest.mark.parametrize("comm_dtype", ["float32", "bfloat16"])
def test_of_texts_ghosts_arrive_as_the_plan_says(comm_dtype):
    network = decoder()
    plan = replace(split_network(network, 3, round_cost=0).plan, comm_dtype=comm_dtype)
    compute, formats = rounded_compute(network, plan, comm_dtype), Formats(comm_dtype=comm_dtype)
    verification = TextVerification(network, np.dtype(np.float32), formats, compute, Pool.LAST, False)
    (text,) = texts(lengths=(9,))
    expected, exact = (
        forward(network.at(9), text[None], np.float64, *more).reshape(9, -1)[-1:] for more in ((compute,), ())
    )
    np.testing.assert_array_equal(verification.reference(text, np.float64), expected)
    assert (np.abs(expected - exact).max() > 1e-4) == (comm_dtype != "float32")
    verification.add(expected, text)
    verification.check()
