"""Errors of outputs: what counts in them, on which data they are measured, and what decides."""

import itertools

import numpy as np
import pytest

from helpers.small_graphs import two_output_network
from repurpose_hpc.errors import UserError
from repurpose_hpc.io.samples import Samples
from repurpose_hpc.model.activations import IDENTITY, RELU, Activation, activate, derivative
from repurpose_hpc.model.chain import chain
from repurpose_hpc.model.forward import forward
from repurpose_hpc.report.text import render_restructured
from repurpose_hpc.restructure.calibration.evaluation import compare, evaluate
from repurpose_hpc.restructure.calibration.probes import logit_probe, probability_probe, value_weights
from repurpose_hpc.restructure.calibration.statistics import measure_statistics
from repurpose_hpc.restructure.driver import restructure
from repurpose_hpc.restructure.held_out import FEWEST, ONE_IN, split
from repurpose_hpc.restructure.job import restructure_network, restructure_to
from repurpose_hpc.restructure.options import Options
from repurpose_hpc.restructure.team import ALONE

SIGMOID = Activation("sigmoid")
WIDTHS = (8, 16, 12)


def network(outputs=3, end=IDENTITY):
    """Three layers onto so many outputs."""
    rng, widths = np.random.default_rng(1), (*WIDTHS, outputs)
    weights = [rng.normal(size=(m, n)) / np.sqrt(n) for n, m in itertools.pairwise(widths)]
    return chain(weights, [rng.normal(size=m) for m in widths[1:]], [RELU, RELU, end])


def samples_of(y=None, count=300):
    """Random samples."""
    return Samples.of(np.random.default_rng(2).normal(size=(count, WIDTHS[0])), y)


def binary_labels(outputs, count=300):
    """Zeros and ones, some rows without and some with all."""
    labels = np.random.default_rng(3).integers(0, 2, (count, outputs))
    labels[0], labels[1] = 0, 1
    return labels


def test_the_metric_of_labels_is_the_fisher_information():
    z = np.linspace(-900, 900, 41)[:, None]
    p, slope = activate(SIGMOID, z), derivative(SIGMOID, z)
    rng = np.random.default_rng(0)
    of_logit, of_probability = logit_probe(z, rng), probability_probe(p, rng)
    np.testing.assert_allclose(of_logit**2, p * (1 - p), atol=1e-12)
    np.testing.assert_allclose((of_probability * slope) ** 2, p * (1 - p), atol=1e-12)
    assert (probability_probe(np.array([[0.0, 1.0]]), rng) == 0).all()


@pytest.mark.parametrize("outputs", [1, 3])
def test_a_sigmoid_at_the_end_changes_nothing_in_the_metric(outputs):
    y = binary_labels(outputs)
    found = [
        measure_statistics(network(outputs, end), samples_of(y), 0, ALONE).metrics
        for end in (SIGMOID, IDENTITY)
    ]
    for name, metric in found[0].items():
        assert np.trace(metric) > 1e-3
        np.testing.assert_allclose(metric, found[1][name], rtol=1e-9, atol=1e-15)


def test_targets_keep_the_metric_of_a_network_without_labels():
    y = np.random.default_rng(4).normal(size=(300, 3))
    found = [measure_statistics(network(), samples_of(each), 0, ALONE).metrics for each in (None, y)]
    for name, metric in found[0].items():
        np.testing.assert_array_equal(metric, found[1][name])


def test_weights_are_given_for_outputs_or_for_columns():
    both = two_output_network()
    np.testing.assert_allclose(value_weights(both, (1.0, 3.0)), np.repeat([1, 3], [8, 3]) * 11 / 17)
    np.testing.assert_allclose(value_weights(both, tuple(range(11))), np.arange(11) / 5)
    assert value_weights(both, None) is None
    with pytest.raises(UserError, match=r"expected one number for each output \(2\) or .* \(11\), got 3"):
        restructure_network(both, samples_of(), workers=2, output_weights=(1, 2, 3))
    with pytest.raises(UserError, match="output_weights: expected weights that are not all 0"):
        Options(2, output_weights=(0, 0))


def test_equal_weights_are_none():
    cuts = [
        restructure(network(), samples_of(), Options(3, 0.2, "partitioned", output_weights=weights))
        for weights in (None, (2.0, 2.0, 2.0))
    ]
    assert cuts[0].network.fingerprint() == cuts[1].network.fingerprint()


def test_the_output_that_matters_decides():
    net, samples = network(), samples_of()
    metrics = measure_statistics(net, samples, 0, ALONE, value_weights(net, (0, 1, 0))).metrics
    last = metrics[net.mixings[-1].name]
    assert last[1, 1] > 0 and np.count_nonzero(last) == 1
    errors = []
    for weights in (None, (0.0, 1.0, 0.0)):
        cut = restructure(net, samples, Options(4, 0.15, "partitioned", output_weights=weights))
        errors.append(compare(net, cut.network, samples).outputs()[0]["column_errors"])
    assert errors[1][1] < 0.9 * errors[0][1] and errors[1][0] > errors[0][0]


@pytest.mark.parametrize("weights", [None, (1.0, 0.0, 5.0)])
def test_errors_of_columns_and_of_all(weights):
    net, samples = network(), samples_of()
    cut = restructure(net, samples, Options(3, 0.2, output_weights=weights))
    factors = value_weights(net, weights)
    found = evaluate(net, cut.network, samples, weights=factors, plan=cut.plan)
    x = np.concatenate(list(samples.batches(1000, dtype=np.float64)))
    z, z_hat = forward(net, x), forward(cut.network, x)
    factors = np.ones(3) if factors is None else factors
    error = np.sqrt(np.sum(factors * (z - z_hat) ** 2) / np.sum(factors * z**2))
    columns = np.linalg.norm(z - z_hat, axis=0) / np.linalg.norm(z, axis=0)
    assert 0 < found["output_error"] == pytest.approx(error)
    assert found["output_error"] <= found["bound"]
    (output,) = found["outputs"]
    assert output["error"] == pytest.approx(np.linalg.norm(z - z_hat) / np.linalg.norm(z))
    np.testing.assert_allclose(output["column_errors"], columns)


def test_errors_of_several_outputs():
    net, samples = two_output_network(), samples_of()
    report = restructure_network(net, samples, workers=2, comm_budget=0.1).report
    assert [(each["name"], each["columns"]) for each in report["outputs"]] == [
        (name, net.size(name)) for name in net.output_tensors
    ]
    assert [len(each["column_errors"]) for each in report["outputs"]] == [8, 3]
    text = render_restructured({**report, "shards": ""})
    for each in report["outputs"]:
        (line,) = (line for line in text.splitlines() if line.startswith(f"output {each['name']} "))
        assert f" error on the calibration data {each['error']:.4f}; of its" in line


def test_columns_of_wide_outputs_are_not_listed():
    report = restructure_network(network(33), samples_of(), workers=2, comm_budget=0.1).report
    assert report["outputs"][0].keys() == {"name", "columns", "error"}


def test_held_out_errors_are_of_a_network_that_has_not_seen_them(tmp_path):
    net, samples, options = network(), samples_of(), Options(3, 0.1, seed=5)
    lines: list[str] = []
    report = restructure_to(tmp_path / "a", net, samples, options, np.float64, lines.append)
    parts = split(samples, 5)
    assert (parts.rest.samples, parts.held_out.samples) == (240, 60)
    other = restructure(net, parts.rest, options)
    expected = compare(net, other.network, parts.held_out)
    assert report["held_out_samples"] == 60
    assert report["output_error_held_out"] == expected.output_error > report["output_error"]
    assert report["agreement_held_out"] == expected.agreement
    assert any(line.startswith("held out: again with 240 samples") for line in lines)
    text = render_restructured(report)
    first, second, *_ = (" ".join(line.split()) for line in text.splitlines())
    assert first.startswith(f"held out output error {expected.output_error:.4f}, ")
    assert first.endswith("; on 60 samples, with a network made from the others")
    assert second.startswith(f"calibration output error {report['output_error']:.4f}")
    # What is written was made from all samples, whether or not anything is held out.
    restructure_to(tmp_path / "b", net, samples, options, np.float64, lines.append, measures=False)
    for path in sorted((tmp_path / "a").iterdir()):
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


def test_too_few_samples_to_hold_some_out():
    report = restructure_network(network(), samples_of(count=FEWEST - 1), workers=2).report
    assert report["held_out_samples"] == 0 and "output_error_held_out" not in report
    assert "not known: too few samples" in render_restructured({**report, "shards": ""})
    report = restructure_network(network(), samples_of(count=FEWEST), workers=2).report
    assert report["held_out_samples"] == FEWEST // ONE_IN


def test_a_promise_reports_what_it_holds_out_itself():
    options = {"workers": 3, "max_output_error": 0.3, "output_weights": (1, 0, 0)}
    report = restructure_network(network(), samples_of(), **options).report
    assert report["held_out_samples"] == 60 and report["output_error_held_out"] <= 0.3
    text = render_restructured({**report, "shards": ""})
    assert "; on 60 samples\n" in text and "made from the others" not in text
