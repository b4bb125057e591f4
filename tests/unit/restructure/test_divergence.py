"""How far answers diverge, and which of two networks is the better one."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit, softmax

from helpers.small_graphs import residual_network, two_output_network
from repurpose_hpc.io.samples import Samples
from repurpose_hpc.model.forward import forward
from repurpose_hpc.plan.plan import dense_plan
from repurpose_hpc.restructure.calibration import propagation
from repurpose_hpc.restructure.calibration.divergence import (
    EXCLUSIVE,
    LOGITS,
    NUMBERS,
    PROBABILITIES,
    Divergence,
)
from repurpose_hpc.restructure.calibration.propagation import CurrentNetwork, Propagation
from repurpose_hpc.restructure.calibration.statistics import trained
from repurpose_hpc.restructure.team import ALONE, Team

seeds = st.integers(0, 2**32 - 1)


def fisher(kind, z):
    """The covariance of the probes at the values of an output, (values,)."""
    if kind is EXCLUSIVE:
        p = softmax(z)
        return np.diag(p) - np.outer(p, p)
    if kind is LOGITS:
        return np.diag(expit(z) * expit(-z))
    return np.diag(1 / (z * (1 - z))) if kind is PROBABILITIES else np.eye(len(z))


@given(seeds, st.sampled_from([NUMBERS, EXCLUSIVE, LOGITS, PROBABILITIES]))
def test_divergences_are_no_less_than_zero_and_half_the_squares_of_small_errors(seed, kind):
    rng = np.random.default_rng(seed)
    z, error = rng.uniform(0.2, 0.8, (4, 1)), rng.uniform(-1, 1, (4, 1))
    assert kind.divergence(z, z) == pytest.approx(0, abs=1e-15)
    assert kind.divergence(z, 5 * error).item() >= 0
    half_square = 0.5 * error[:, 0] @ fisher(kind, z[:, 0]) @ error[:, 0]
    assert kind.divergence(z, z + 1e-3 * error).item() == pytest.approx(
        1e-6 * half_square, rel=2e-2, abs=1e-9
    )


@pytest.mark.parametrize("kind", [NUMBERS, EXCLUSIVE, LOGITS, PROBABILITIES])
def test_the_covariance_of_probes_is_that_of_small_errors(kind):
    z = np.random.default_rng(0).uniform(0.2, 0.8, 3)
    probes = kind.probe(np.tile(z[:, None], 40_000), np.random.default_rng(1))
    np.testing.assert_allclose(probes @ probes.T / probes.shape[1], fisher(kind, z), atol=0.15)


def test_divergences_of_certain_answers_are_finite():
    z = np.array([[900.0], [-900.0]])
    for kind in (EXCLUSIVE, LOGITS):
        assert kind.divergence(z, z).item() == 0
        assert 100 < kind.divergence(z, -z).item() < np.inf
    certain = np.array([[0.0], [1.0]])
    assert PROBABILITIES.divergence(certain, certain[::-1]).item() == pytest.approx(
        2 * 24 * np.log(2), rel=1e-3
    )
    assert PROBABILITIES.divergence(certain, certain + 0.1).item() == pytest.approx(-np.log(0.9), rel=1e-3)


@given(seeds)
def test_probabilities_diverge_as_their_logits_do(seed):
    z, z_hat = np.random.default_rng(seed).uniform(-9, 9, (2, 4, 3))
    of_logits = LOGITS.divergence(z, z_hat)
    np.testing.assert_allclose(
        PROBABILITIES.divergence(expit(z), expit(z_hat)), of_logits, rtol=1e-6, atol=1e-9
    )


@pytest.mark.parametrize("make", [residual_network, two_output_network])
@pytest.mark.parametrize("team", [ALONE, Team(threads=2)])
@pytest.mark.parametrize("weighted", [False, True])
def test_networks_are_compared_from_where_the_data_wait(make, team, weighted, monkeypatch):
    """Some mixings are final, and the others those of either network; a third of the samples judges."""
    monkeypatch.setattr(propagation, "JUDGED", 20)
    network, rng = make(), np.random.default_rng(0)
    x = rng.standard_normal((60, network.inputs))
    weights = rng.uniform(0.5, 2, network.outputs) if weighted else None
    noisy = [
        network.with_mixings(
            {
                m.name: dataclasses.replace(
                    m, weights=m.weights + scale * rng.standard_normal(m.weights.shape)
                )
                for m in trained(network)
            }
        )
        for scale in (0.05, 0.1)
    ]
    final = [mixing.name for mixing in trained(network)[:-1]]
    noisy[1] = noisy[1].with_mixings({m.name: m for m in noisy[0].mixings if m.name in final})
    plan = dense_plan(network, 2, "replicated", np.ones(2))
    current, samples = CurrentNetwork(noisy[0], plan, final), Samples.of(x)
    waiting = Propagation(network, trained(network), samples, team)
    divergence = Divergence(network, samples, weights)
    found = waiting.divergences(noisy, current, divergence)
    assert found == waiting.divergences(noisy, current, divergence)
    z = forward(network, x[::3])
    errors = [(forward(each, x[::3]) - z) ** 2 for each in noisy]
    expected = [0.5 * (error if weights is None else weights * error).sum(axis=1).mean() for error in errors]
    np.testing.assert_allclose(found, expected, rtol=1e-9)
