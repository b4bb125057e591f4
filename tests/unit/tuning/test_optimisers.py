"""Optimisers against plain NumPy and PyTorch; the same bits after a resume; weights that are cut stay cut."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from repurpose_hpc.errors import UserError
from repurpose_hpc.fields import FieldError
from repurpose_hpc.tuning.optimisers import OPTIMISERS, Hyperparameters

NAMES = pytest.mark.parametrize("name", OPTIMISERS)
DTYPES = pytest.mark.parametrize("dtype", [np.float32, np.float64])
GIVEN = Hyperparameters(momentum=0.8, beta1=0.85, beta2=0.99, eps=1e-6, weight_decay=0.1)
RATES = 0.1, 0.05, 0.2, 0.1, 0.01


def plain_adamw(weights, gradients, decay):
    mean = square = np.zeros_like(weights)
    for step, (rate, gradient) in enumerate(zip(RATES, gradients, strict=True), 1):
        mean = GIVEN.beta1 * mean + (1 - GIVEN.beta1) * gradient
        square = GIVEN.beta2 * square + (1 - GIVEN.beta2) * gradient**2
        root = np.sqrt(square / (1 - GIVEN.beta2**step))
        weights = weights - rate * decay * weights
        weights = weights - rate * mean / (1 - GIVEN.beta1**step) / (root + GIVEN.eps)
    return weights


def plain_sgd(weights, gradients, decay):
    velocity = np.zeros_like(weights)
    for rate, gradient in zip(RATES, gradients, strict=True):
        velocity = GIVEN.momentum * velocity + gradient + decay * weights
        weights = weights - rate * velocity
    return weights


PLAIN = {"adamw": plain_adamw, "sgd": plain_sgd}


def problem(dtype, shape=(5, 9), seed=0):
    """Weights, and a gradient for each step."""
    rng = np.random.default_rng(seed)
    return rng.standard_normal(shape).astype(dtype), rng.standard_normal((len(RATES), *shape)).astype(dtype)


def updated(optimiser, weights, gradients, rates=RATES, decays=True):
    weights = weights.copy()
    for rate, gradient in zip(rates, gradients, strict=True):
        optimiser.begin_step(rate)
        optimiser.update("W", weights, gradient, decays)
    return weights


@NAMES
@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.lists(st.integers(0, 9), max_size=3),
    dtype=st.sampled_from([np.float32, np.float64]),
    decays=st.booleans(),
)
def test_against_plain_numpy(name, seed, shape, dtype, decays):
    weights, gradients = problem(dtype, tuple(shape), seed)
    before = gradients.copy()
    found = updated(OPTIMISERS[name](GIVEN), weights, gradients, decays=decays)
    decay = GIVEN.weight_decay if decays else 0
    expected = PLAIN[name](weights.astype(np.float64), gradients.astype(np.float64), decay)
    np.testing.assert_allclose(found, expected, rtol=0, atol=5e-6 if dtype == np.float32 else 1e-14)
    np.testing.assert_array_equal(gradients, before)


@NAMES
@DTYPES
@pytest.mark.parametrize("chosen", [GIVEN, Hyperparameters()], ids=["given", "default"])
def test_against_pytorch(name, dtype, chosen):
    torch = pytest.importorskip("torch")
    weights, gradients = problem(dtype)
    parameter = torch.nn.Parameter(torch.from_numpy(weights.copy()))
    decay, betas = chosen.weight_decay, (chosen.beta1, chosen.beta2)
    theirs = (
        torch.optim.AdamW([parameter], betas=betas, eps=chosen.eps, weight_decay=decay)
        if name == "adamw"
        else torch.optim.SGD([parameter], lr=0, momentum=chosen.momentum, weight_decay=decay)
    )
    for rate, gradient in zip(RATES, gradients, strict=True):
        theirs.param_groups[0]["lr"] = rate
        parameter.grad = torch.from_numpy(gradient)
        theirs.step()
    found = updated(OPTIMISERS[name](chosen), weights, gradients)
    # 1 - 0.999ᵗ, by whose root a step is divided, has three digits fewer.
    tolerance = 2e-6 if dtype == np.float32 else 1e-13
    np.testing.assert_allclose(found, parameter.detach().numpy(), rtol=0, atol=tolerance)


@NAMES
@DTYPES
def test_a_resumed_run_has_the_same_bits(name, dtype):
    """Through bytes, as they would lie in a file."""
    weights, gradients = problem(dtype)
    expected = updated(OPTIMISERS[name](GIVEN), weights, gradients)
    first, second = OPTIMISERS[name](GIVEN), OPTIMISERS[name](GIVEN)
    halfway = updated(first, weights, gradients[:2], RATES[:2])
    second.load({key: array.copy() for key, array in first.state().items()})
    assert second.steps == 2
    np.testing.assert_array_equal(updated(second, halfway, gradients[2:], RATES[2:]), expected)
    assert not np.array_equal(updated(OPTIMISERS[name](GIVEN), halfway, gradients[2:], RATES[2:]), expected)


@NAMES
def test_what_is_kept(name):
    """Of each array by itself, in its shape, and no more than the method needs."""
    optimiser = OPTIMISERS[name](GIVEN)
    optimiser.begin_step(0.1)
    for key, shape in {"W": (2, 3), "b": (3,)}.items():
        optimiser.update(key, np.ones(shape, np.float32), np.ones(shape, np.float32), True)
    state = optimiser.state()
    kinds = {"adamw": {"mean", "square"}, "sgd": {"velocity"}}[name]
    assert state["steps"].dtype == np.int64 and state["steps"] == 1
    assert set(state) == {"steps"} | {f"{kind}/{key}" for kind in kinds for key in "Wb"}
    assert all(state[f"{kind}/W"].shape == (2, 3) for kind in kinds)


@NAMES
@DTYPES
def test_a_weight_is_updated_alike_wherever_it_lies(name, dtype):
    """To the last bit: ranks have pieces of other sizes, and vectors have ends."""
    weights, gradients = problem(dtype, (37,))
    expected = updated(OPTIMISERS[name](GIVEN), weights, gradients)
    for begin, end in [(0, 1), (1, 9), (9, 37)]:
        part = updated(OPTIMISERS[name](GIVEN), weights[begin:end], gradients[:, begin:end])
        np.testing.assert_array_equal(part, expected[begin:end])


@NAMES
@DTYPES
def test_weights_that_are_cut_stay_exactly_zero(name, dtype):
    weights, gradients = problem(dtype)
    is_cut = np.random.default_rng(3).random(weights.shape) < 0.5
    weights[is_cut] = 0
    found = updated(OPTIMISERS[name](GIVEN), weights, gradients * ~is_cut)
    assert (found[is_cut] == 0).all() and (found[~is_cut] != 0).all()


@NAMES
def test_no_temporaries_of_the_size_of_the_weights(name):
    optimiser, weights = OPTIMISERS[name](GIVEN), np.ones((512, 512), np.float32)
    gradient = np.ones_like(weights)
    optimiser.begin_step(0.1)
    optimiser.update("W", weights, gradient, True)
    tracemalloc.start()
    try:
        optimiser.update("W", weights, gradient, True)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < weights.nbytes / 10


@NAMES
def test_arrays_that_cannot_be_updated_in_place_are_refused(name):
    optimiser, square = OPTIMISERS[name](GIVEN), np.ones((3, 3))
    optimiser.begin_step(0.1)
    for weights, gradient in [(square.T[:, :2], square[:, :2].copy()), (square, square[::-1])]:
        with pytest.raises(ValueError, match="C-contiguous"):
            optimiser.update("W", weights, gradient, True)
    for gradient in (np.ones((3, 1)), np.ones((3, 3), np.float32)):
        with pytest.raises(ValueError, match=r"expected a gradient of shape \(3, 3\) and type float64"):
            optimiser.update("W", square, gradient, True)
    assert (square == 1).all()


def test_the_state_of_another_optimiser_or_network_is_refused():
    adamw, sgd = (OPTIMISERS[name](GIVEN) for name in ("adamw", "sgd"))
    sgd.begin_step(0.1)
    sgd.update("W", np.ones(3), np.ones(3), True)
    with pytest.raises(UserError, match="steps and mean, square of adamw, found steps, velocity; go on"):
        adamw.load(sgd.state())
    with pytest.raises(UserError, match="steps and velocity of sgd, found nothing; go on"):
        sgd.load({})
    for other in (np.ones(4), np.ones(3, np.float32)):
        with pytest.raises(UserError, match=r"velocity of W of shape .* found \(3,\) and float64; go on"):
            sgd.update("W", other, other.copy(), True)


@pytest.mark.parametrize("wrong", [{"beta1": 1}, {"momentum": -0.1}, {"eps": 0}, {"weight_decay": -1}])
def test_hyperparameters_have_ranges(wrong):
    with pytest.raises(FieldError, match=next(iter(wrong))):
        Hyperparameters(**wrong)
