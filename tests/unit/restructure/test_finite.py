"""Networks that make NaN or infinity of the calibration data are refused, with the layer that does."""

import numpy as np
import pytest

from repurpose_hpc.errors import Note, UserError
from repurpose_hpc.io.samples import Samples
from repurpose_hpc.model.activations import RELU, Activation
from repurpose_hpc.model.builder import Builder
from repurpose_hpc.model.forward import forward
from repurpose_hpc.restructure.job import restructure_network
from repurpose_hpc.restructure.options import Options
from repurpose_hpc.runtime.session import Session

X = np.random.default_rng(1).normal(size=(120, 6)).astype(np.float32)
OPTIONS = Options(workers=2, comm_budget=0.5)


def network(activation, scale=1.0, is_masked=False):
    """Two layers; the activation ``bend`` between them, where its argument is positive if masked."""
    rng, builder = np.random.default_rng(0), Builder()
    weights = (rng.normal(size=(8, 6)) * scale).astype(np.float32)
    h = builder.mixing("first", builder.input("input", 6), weights, np.zeros(8, np.float32))
    a = builder.elementwise("bend", h, activation)
    if is_masked:
        positive = builder.elementwise("positive", h, Activation("greater", 0.0))
        a = builder.combine("chosen", positive, a, "mask")
    last = rng.normal(size=(4, 8)).astype(np.float32)
    return builder.build((builder.mixing("last", a, last, np.zeros(4, np.float32)),), ("identity",))


BAD = {
    "logarithm of a negative number": (Activation("log"), 1, "nan made by 'bend' \\(log\\)"),
    "root of a negative number": (Activation("power", -0.5), 1, "nan made by 'bend' \\(power\\)"),
    "too large for exp": (Activation("exp"), 100, "inf made by 'bend' \\(exp\\)"),
    "too large to be squared": (Activation("square"), 1e25, "inf made by 'bend' \\(square\\)"),
    "too small to be inverted": (Activation("power", -1.0), 1e-42, "-?inf made by 'bend' \\(power\\)"),
    "too large by itself": (RELU, 1.2e38, "(-?inf|nan) made by 'first' \\(mixing\\)"),
}


@pytest.mark.parametrize("name", BAD)
def test_layers_that_make_no_numbers_are_named(name):
    activation, scale, message = BAD[name]
    with pytest.raises(UserError, match=rf"the model: expected finite .* {message} .* in sample \d+"):
        restructure_network(network(activation, scale), Samples.of(X), OPTIONS)


def test_double_precision_holds_more():
    activation, scale, _ = BAD["too large to be squared"]
    cut = restructure_network(network(activation, scale), Samples.of(X), OPTIONS, dtype=np.float64)
    assert np.isfinite(cut.report["output_error"])


def test_slopes_that_are_too_large_are_refused():
    """Of 1 / y close to 0, in double precision."""
    activation, scale, _ = BAD["too small to be inverted"]
    with pytest.raises(UserError, match=r"depend on 'first' .* a mean squared slope of"):
        restructure_network(network(activation, scale), Samples.of(X), OPTIONS, dtype=np.float64)


def test_what_a_condition_leaves_out_may_be_anything():
    original = network(Activation("log"), is_masked=True)
    cut = restructure_network(original, Samples.of(X), OPTIONS)
    assert np.isfinite(forward(original, X)).all()
    assert cut.report["output_error"] < 1
    with Session(cut) as session:
        np.testing.assert_allclose(session.run(X), forward(cut.network, X), rtol=1e-4, atol=1e-4)


def test_an_approximation_that_leaves_the_range_is_refused():
    """A logarithm of sums that are positive, but only just."""
    rng, builder = np.random.default_rng(0), Builder()
    weights = rng.normal(size=(8, 6)).astype(np.float32)
    h = builder.mixing("first", builder.input("input", 6), weights, np.zeros(8, np.float32))
    h = builder.mixing("second", h, rng.normal(size=(8, 8)).astype(np.float32), np.zeros(8, np.float32))
    lowest = forward(builder.build((h,), ("identity",)), X).min(axis=0)
    ones = np.ones((8, 1), np.float32)
    h = builder.affine("raised", h, ones, (1e-3 - lowest[:, None]).astype(np.float32))
    a = builder.elementwise("bend", h, Activation("log"))
    a = builder.mixing("last", a, rng.normal(size=(4, 8)).astype(np.float32), np.zeros(4, np.float32))
    tight = Options(workers=4, comm_budget=0.02)
    with pytest.raises(UserError, match=r"the restructured network: expected finite values"):
        restructure_network(builder.build((a,), ("identity",)), Samples.of(X), tight)


def test_a_run_whose_outputs_are_not_finite_says_so():
    cut = restructure_network(network(Activation("exp")), Samples.of(X), OPTIONS)
    large = X.copy()
    large[7] *= 1000
    with Session(cut) as session, pytest.warns(Note, match=r"NaN or infinity for 1 of 120 .* in sample 7,"):
        session.run(large)
