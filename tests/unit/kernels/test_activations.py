"""The compiled activations agree with their NumPy definitions, dtype and NaN included."""

import numpy as np
import pytest

from repurpose_hpc.kernels import ACTIVATION_CODES, activate_in_place
from repurpose_hpc.kernels import activate as activate_number
from repurpose_hpc.model.activations import KINDS, Activation, activate

VERSIONS = [activate_in_place, getattr(activate_in_place, "py_func", activate_in_place)]
TOLERANCE = {"float32": 5e-7, "float64": 1e-15}


def test_every_kind_has_a_code():
    assert set(ACTIVATION_CODES) == set(KINDS)
    assert len(set(ACTIVATION_CODES.values())) == len(KINDS)


@pytest.mark.parametrize("apply", VERSIONS, ids=["compiled", "plain"])
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("kind", KINDS)
def test_agrees_with_numpy(kind, dtype, apply):
    values = np.concatenate([np.linspace(-9, 9, 397), [0.0, np.nan, np.inf, -np.inf]]).astype(dtype)
    with np.errstate(invalid="ignore"):
        expected = activate(Activation(kind, 0.3, 0.8), values)
    actual = values.copy()
    apply(actual, ACTIVATION_CODES[kind], 0.3, 0.8)
    np.testing.assert_allclose(actual, expected, rtol=TOLERANCE[dtype], atol=4 * TOLERANCE[dtype])


@pytest.mark.parametrize("apply", VERSIONS, ids=["compiled", "plain"])
@pytest.mark.parametrize("shape", [(0,), (3, 0), (3, 5)])
def test_any_shape_in_place(shape, apply):
    values = np.full(shape, -1.0)
    apply(values, ACTIVATION_CODES["relu"], 0.0, 0.0)
    np.testing.assert_array_equal(values, np.zeros(shape))


@pytest.mark.parametrize("kind", KINDS)
def test_one_number_keeps_its_type(kind):
    number = activate_number(ACTIVATION_CODES[kind], 0.3, 0.8, np.float32(0.7))
    if hasattr(activate_number, "nopython_signatures"):  # what is compiled returns a Python float
        assert all(s.return_type == s.args[-1] for s in activate_number.nopython_signatures)
    else:
        assert type(number) is np.float32
