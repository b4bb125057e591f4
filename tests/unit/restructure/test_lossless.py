"""The job with ``lossless``: what is compared with what, and that outputs are."""

import numpy as np
import pytest
from graph_challenge import challenge

from helpers import small_plans
from helpers.superfluous import planted
from repurpose_hpc import Samples, Session, UserError, restructure_network
from repurpose_hpc.model.forward import forward
from repurpose_hpc.report.text import render_restructured
from repurpose_hpc.restructure import lossless

WIDTHS = (12, 30, 24, 5)


def samples(network, count: int = 80) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((count, network.inputs))


def test_a_network_without_superfluous_neurons_is_cut_as_ever():
    network = small_plans.random_network()
    x = Samples.of(samples(network))
    plain, same = (restructure_network(network, x, workers=2, lossless=each) for each in (False, True))
    assert plain.network.fingerprint() == same.network.fingerprint()
    assert same.report["lossless"]["difference"] == 0
    assert same.report["lossless"]["edges"] == network.weight_count


def test_it_runs_with_its_outputs_in_their_places():
    """32 of 512 outputs are computed; the others are copies of them."""
    network = challenge(512, 6, 6, bias=-0.1)
    x = 30 * (np.random.default_rng(0).random((60, 512)) < 0.3)
    cut = restructure_network(network, Samples.of(x), workers=4, lossless=True, comm_budget=1.0)
    expected = forward(network, x)
    assert expected.any()
    np.testing.assert_allclose(Session(cut).run(x), expected, rtol=1e-4, atol=1e-4)
    text = render_restructured({**cut.report, "shards": "shards"})
    assert " 352 of 3,072 neurons, 1,600 of 49,152 edges" in text


@pytest.mark.parametrize("options", [{"density": 0.5}, {"compute_budget": 0.7}, {"comm_dtype": "int8"}])
def test_other_options_are_about_what_is_left(options):
    network = planted(small_plans.random_network(widths=WIDTHS, head="identity"), 3)
    x = samples(network, 300)
    cut = restructure_network(network, Samples.of(x), workers=3, lossless=True, comm_budget=0.5, **options)
    assert cut.report["lossless"]["edges"] < network.weight_count == cut.report["weights"]
    if "density" in options:
        assert cut.report["weights_kept"] <= 0.5 * cut.report["lossless"]["edges"]
    expected = forward(network, x)
    assert np.linalg.norm(Session(cut).run(x) - expected) < np.linalg.norm(expected)


def test_other_outputs_are_refused(monkeypatch):
    network = small_plans.random_network()
    wrong = small_plans.random_network(seed=1)
    monkeypatch.setattr(lossless, "reduced", lambda network: wrong)
    with pytest.raises(UserError, match="--lossless: expected outputs that differ by rounding alone, found"):
        restructure_network(network, Samples.of(samples(network)), workers=2, lossless=True)
