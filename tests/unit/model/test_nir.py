"""Spiking networks of ``.nir`` files: spike for spike what their programs compute, and what NIR means."""

import warnings
from dataclasses import replace

import h5py
import numpy as np
import pytest

from helpers.nir_files import chain, node, recorded, write
from repurpose_hpc.commands.inspect import inspect, parse, render
from repurpose_hpc.commands.parser import UsageError
from repurpose_hpc.errors import Note, UserError
from repurpose_hpc.fields import FieldError, typed
from repurpose_hpc.io.samples import Samples
from repurpose_hpc.model.forward import forward, trace
from repurpose_hpc.model.importers.load import load_model
from repurpose_hpc.model.importers.nir.options import SpikingOptions
from repurpose_hpc.restructure.job import restructure_network
from repurpose_hpc.runtime.session import Session

pytestmark = pytest.mark.filterwarnings("ignore::repurpose_hpc.errors.Note")
PROGRAMS = {
    "snntorch_dense": {"convention": "snntorch"},
    "snntorch_zero": {"convention": "snntorch", "reset": "set"},
    "snntorch_synaptic": {"convention": "snntorch"},
    "snntorch_convolution": {"convention": "snntorch"},
    "snntorch_recurrent": {"convention": "snntorch"},
    "norse": {"convention": "norse"},
    "sinabs": {"convention": "sinabs"},
    "spikingjelly": {"convention": "spikingjelly"},
    "paper_cnn": {"convention": "sinabs"},
    "paper_braille_subtract": {"convention": "snntorch"},
}
STEPS, STEP = 9, 1e-3
EULER = SpikingOptions(steps=STEPS, convention="nir", time_step=STEP, read_out="trains")
RNG = np.random.default_rng(0)


@pytest.mark.parametrize("name", PROGRAMS)
def test_spikes_are_those_of_the_program_that_wrote_the_file(name):
    path, x, spikes = recorded(name)
    options = SpikingOptions(steps=x.shape[1], read_out="trains", **PROGRAMS[name])
    network = load_model(path, spiking=options)
    tensors = trace(network, x.reshape(len(x), -1).T)
    for each, expected in spikes.items():
        found = tensors.get(f"{each}.lif.y", tensors.get(f"{each}.y"))
        found = found.reshape(*found.shape[:1], *expected.shape[:2], -1).transpose(1, 2, 0, 3)
        assert expected.any()
        np.testing.assert_array_equal(found.reshape(expected.shape), expected, each)
    outputs = forward(network, x).reshape(len(x), x.shape[1], -1)
    np.testing.assert_array_equal(outputs, expected.reshape(outputs.shape))


def test_other_rules_make_other_spikes():
    path, x, spikes = recorded("snntorch_dense")
    expected = spikes["3"].reshape(len(x), -1)
    for change in ({"convention": "norse"}, {"reset": "set"}, {"reset": "none"}, {"reset_delay": False}):
        options = replace(
            SpikingOptions(steps=x.shape[1], convention="snntorch", read_out="trains"), **change
        )
        assert (forward(load_model(path, spiking=options), x) != expected).any(), change


@pytest.mark.parametrize("name", ["snntorch_convolution", "snntorch_recurrent"])
def test_it_runs_restructured(name):
    path, x, _ = recorded(name)
    options = SpikingOptions(steps=x.shape[1], **PROGRAMS[name])
    network = load_model(path, spiking=options)
    cut = restructure_network(network, Samples.of(x), workers=2, comm_budget=1.0, log=None)
    np.testing.assert_array_equal(Session(cut).run(x), forward(network, x))


@pytest.mark.parametrize(
    "read_out, expected",
    [
        ("count", lambda trains: trains.sum(axis=1)),
        ("last", lambda trains: trains[:, -1]),
        ("max", lambda trains: trains.max(axis=1)),
        ("mean", lambda trains: trains.mean(axis=1)),
        ("trains", lambda trains: trains),
    ],
)
@pytest.mark.parametrize("steps", [1, 30])
def test_read_outs(read_out, expected, steps):
    path, x, spikes = recorded("sinabs")
    options = SpikingOptions(steps=steps, convention="sinabs", read_out=read_out)
    y = forward(load_model(path, spiking=options), x[:, :steps])
    wanted = expected(spikes["7"][:, :steps].astype(float))
    np.testing.assert_allclose(y, wanted.reshape(len(x), -1), rtol=0, atol=1e-15)


def test_maps_are_read_out_neuron_by_neuron(tmp_path):
    nodes = {"in": node("Input", shape=[2, 2, 3]), "a": node("Scale", scale=2.0), "out": node("Output")}
    path = write(tmp_path / "m.nir", nodes, chain("in", "a", "out"))
    x = RNG.normal(size=(3, STEPS, 2, 2, 3))
    counted = load_model(path, spiking=replace(EULER, read_out="count"))
    np.testing.assert_allclose(forward(counted, x), 2 * x.sum(axis=1).reshape(3, -1), atol=1e-12)
    np.testing.assert_array_equal(forward(load_model(path, spiking=EULER), x), 2 * x.reshape(3, -1))


def _run(tmp_path, nodes, x, shape=None, options=EULER, edges=None):
    """Outputs, (samples, steps, ...), of nodes one after the other."""
    ends = {"in": node("Input", shape=list(x.shape[2:])), "out": node("Output")}
    path = write(tmp_path / "m.nir", ends | nodes, edges or chain("in", *nodes, "out"))
    y = forward(load_model(path, spiking=options), x)
    return y.reshape(*x.shape[:2], *(shape or (-1,)))


def _euler(x, tau=None, tau_syn=None, r=1.0, w_in=1.0, leak=0.0, threshold=None, reset=0.0):
    """NIR's equations in plain steps: potentials, or spikes."""
    v, current, out = leak + 0 * x[:, 0], 0 * x[:, 0], []
    for step in range(x.shape[1]):
        jump = x[:, step] if tau_syn is None else STEP / tau_syn * (w_in * x[:, step] - current)
        current = jump if tau_syn is None else current + jump
        v = v + STEP * r * current if tau is None else v + STEP / tau * (leak - v + r * current)
        spike = v > (np.inf if threshold is None else threshold)
        out.append(v if threshold is None else spike.astype(float))
        v = np.where(spike, reset, v)
    return np.stack(out, axis=1)


NEURONS = {
    "LIF": {"tau": 4e-3, "r": 3.0, "v_leak": -0.2, "v_threshold": 0.4, "v_reset": -0.3},
    "CubaLIF": {"tau_mem": 4e-3, "tau_syn": 2e-3, "r": 9.0, "v_leak": 0.1, "v_threshold": 0.6, "w_in": 2.0},
    "IF": {"r": 500.0, "v_threshold": 0.7},
    "LI": {"tau": 4e-3, "r": 3.0, "v_leak": -0.2},
    "CubaLI": {"tau_mem": 4e-3, "tau_syn": 2e-3, "r": 9.0, "v_leak": 0.1, "w_in": 2.0},
    "I": {"r": 100.0},
}
NAMES = {"tau_mem": "tau", "v_leak": "leak", "v_threshold": "threshold", "v_reset": "reset"}


@pytest.mark.parametrize("spread", [None, (5,), (1,)])
@pytest.mark.parametrize("kind", NEURONS)
def test_neurons_are_their_equations_in_steps(tmp_path, kind, spread):
    x = RNG.normal(0.3, 1, size=(6, STEPS, 5))
    factor = 1.0 if spread is None else RNG.uniform(0.8, 1.2, spread)
    parameters = {key: value * factor for key, value in NEURONS[kind].items()}
    expected = _euler(x, **{NAMES.get(key, key): value for key, value in parameters.items()})
    y = _run(tmp_path, {"n": node(kind, **parameters)}, x)
    if "v_threshold" in parameters:
        assert 0.05 < expected.mean() < 0.95
        np.testing.assert_array_equal(y, expected)
    np.testing.assert_allclose(y, expected, atol=1e-13)


def test_layers_without_a_state(tmp_path):
    x = RNG.normal(size=(3, STEPS, 4, 7))
    W, b = RNG.normal(size=(6, 2, 3)), RNG.normal(size=6)
    sizes = {"stride": 2, "padding": 1, "dilation": 2, "groups": 2, "input_shape": 7}
    y = _run(tmp_path, {"c": node("Conv1d", weight=W, bias=b, **sizes)}, x, (6, 3))
    padded = np.pad(x, [(0, 0)] * 3 + [(1, 1)])
    for out in range(3):
        seen = padded[..., 2 * out : 2 * out + 5 : 2]
        by_group = [
            np.einsum("stck,ock->sto", seen[:, :, 2 * g : 2 * g + 2], W[3 * g : 3 * g + 3]) for g in (0, 1)
        ]
        np.testing.assert_allclose(y[..., out], np.concatenate(by_group, axis=2) + b, atol=1e-13)
    y = _run(tmp_path, {"s": node("Scale", scale=W[:4, :, :].reshape(4, -1)[:, :1])}, x, (4, 7))
    np.testing.assert_allclose(y, x * W[:4, :, :].reshape(4, -1)[:, :1], atol=1e-14)
    scale = RNG.normal(size=(4, 7))
    np.testing.assert_allclose(
        _run(tmp_path, {"s": node("Scale", scale=scale)}, x, (4, 7)), x * scale, atol=1e-14
    )
    y = _run(tmp_path, {"t": node("Threshold", threshold=[0.1, -0.2, 0.3, 0.0])}, x, (4, 7))
    np.testing.assert_array_equal(y, x > np.array([0.1, -0.2, 0.3, 0.0])[:, None])


@pytest.mark.parametrize("kind", ["SumPool2d", "AvgPool2d"])
def test_pooling(tmp_path, kind):
    x = RNG.normal(size=(2, STEPS, 3, 4, 5))
    y = _run(tmp_path, {"p": node(kind, kernel_size=[2, 3], stride=[2, 2], padding=[1, 0])}, x, (3, 3, 2))
    padded = np.pad(x, [(0, 0)] * 3 + [(1, 1), (0, 0)])
    for i in range(3):
        for j in range(2):
            total = padded[..., 2 * i : 2 * i + 2, 2 * j : 2 * j + 3].sum(axis=(3, 4))
            np.testing.assert_allclose(y[..., i, j], total / (6 if kind == "AvgPool2d" else 1), atol=1e-13)


@pytest.mark.parametrize("padding", ["same", "valid"])
def test_padding_in_words(tmp_path, padding):
    x, W = RNG.normal(size=(2, STEPS, 1, 5, 5)), RNG.normal(size=(1, 1, 2, 3))
    size = (5, 5) if padding == "same" else (4, 3)
    y = _run(tmp_path, {"c": node("Conv2d", weight=W, bias=np.zeros(1), padding=padding)}, x, size)
    padded = np.pad(x[:, :, 0], [(0, 0)] * 2 + [(0, 1), (1, 1)]) if padding == "same" else x[:, :, 0]
    expected = sum(
        W[0, 0, i, j] * padded[..., i : i + size[0], j : j + size[1]] for i in range(2) for j in range(3)
    )
    np.testing.assert_allclose(y, expected, atol=1e-13)


def test_delays_are_of_whole_steps(tmp_path):
    x = RNG.normal(size=(2, STEPS, 4))
    y = _run(tmp_path, {"d": node("Delay", delay=np.array([0, 2, 1, 50]) * STEP)}, x)
    for neuron, late in enumerate((0, 2, 1, STEPS)):
        np.testing.assert_array_equal(y[:, late:, neuron], x[:, : STEPS - late, neuron])
        assert not y[:, :late, neuron].any()


def test_maps_are_flattened_for_dense_layers_and_others(tmp_path):
    x, W = RNG.normal(size=(2, STEPS, 3, 2, 2)), RNG.normal(size=(4, 12))
    nodes = {"s": node("Scale", scale=2.0), "f": node("Flatten", start_dim=0, end_dim=-1)}
    dense = nodes | {"d": node("Linear", weight=W)}
    expected = 2 * x.reshape(2, STEPS, 12)
    np.testing.assert_allclose(_run(tmp_path, dense, x), expected @ W.T, atol=1e-13)
    # Neurons of their own, for what has a parameter for each.
    scale = RNG.normal(size=12)
    flat = nodes | {"g": node("Scale", scale=scale)}
    np.testing.assert_allclose(_run(tmp_path, flat, x), expected * scale, atol=1e-13)
    # An input that is only read flat is flat.
    path = write(
        tmp_path / "f.nir",
        {"in": node("Input", shape=[3, 2, 2]), "f": nodes["f"], "d": dense["d"], "out": node("Output")},
        chain("in", "f", "d", "out"),
    )
    assert load_model(path, spiking=EULER).input_shape == (STEPS, 12)


def test_graphs_in_graphs_sums_and_missing_shapes(tmp_path):
    x, W = RNG.normal(size=(2, STEPS, 3)), RNG.normal(size=(2, 4, 3))
    inner = {
        "input": node("Input", shape=[3]),
        "a": node("Linear", weight=W[0]),
        "b": node("Linear", weight=W[1]),
        "output": node("Output", shape=[4]),
    }
    edges = [("input", "a"), ("b", "output"), ("a", "output"), ("input", "b")]
    nodes = {"0": node("Input"), "sub": node("NIRGraph", nodes=inner, edges=edges), "9": node("Output")}
    nodes["1"] = node("Linear", weight=W[0].T)
    nodes["0"]["shape"] = [3]
    path = write(tmp_path / "m.nir", nodes, [("1", "9"), ("sub", "1"), ("0", "sub"), ("0", "sub")])
    y = forward(load_model(path, spiking=EULER), x).reshape(2, STEPS, 3)
    np.testing.assert_allclose(y, x @ (W[0] + W[1]).T @ W[0], atol=1e-12)
    nodes = {"0": node("Input"), "1": node("Linear", weight=W[0]), "9": node("Output")}
    path = write(tmp_path / "n.nir", nodes, chain("0", "1", "9"))
    assert load_model(path, spiking=EULER).input_shape == (STEPS, 3)


def test_spikes_that_come_back_through_layers(tmp_path):
    x, weights = RNG.normal(0.5, 1, size=(5, STEPS, 3)), RNG.normal(size=(2, 3, 3))
    nodes = {
        "n": node("LIF", tau=np.full(3, 4e-3), r=3.0, v_leak=0.1, v_threshold=0.4, v_reset=0.2),
        "a": node("Affine", weight=weights[0], bias=weights[0, 0]),
        "b": node("Linear", weight=weights[1]),
    }
    edges = [("in", "n"), ("n", "out"), ("n", "a"), ("a", "b"), ("b", "n"), ("n", "n")]
    y = _run(tmp_path, nodes, x, edges=edges)
    v, spikes = np.full((5, 3), 0.1), np.zeros((5, 3))
    for step in range(STEPS):
        back = (spikes @ weights[0].T + weights[0, 0]) @ weights[1].T + spikes
        v = v + STEP / 4e-3 * (0.1 - v + 3 * (x[:, step] + back))
        spikes = (v > 0.4).astype(float)
        np.testing.assert_array_equal(y[:, step], spikes)
        v = np.where(spikes > 0, 0.2, v)
    assert 0.1 < y.mean() < 0.9


@pytest.mark.parametrize("kind", ["LIF", "CubaLIF", "IF"])
@pytest.mark.parametrize("reset", ["subtract", "set", "none"])
@pytest.mark.parametrize("reset_delay", [False, True])
def test_unrolled_neurons_are_those_that_are_not(tmp_path, kind, reset, reset_delay):
    """With nothing that comes back."""
    x = RNG.normal(0.3, 1, size=(6, STEPS, 5))
    options = replace(EULER, reset=reset, reset_delay=reset_delay)
    nodes = {"n": node(kind, **NEURONS[kind]), "w": node("Linear", weight=np.zeros((5, 5)))}
    edges = [("in", "n"), ("n", "w"), ("w", "n"), ("n", "out")]
    unrolled = _run(tmp_path, nodes, x, options=options, edges=edges)
    assert 0.05 < unrolled.mean() < 0.95
    np.testing.assert_array_equal(unrolled, _run(tmp_path, {"n": nodes["n"]}, x, options=options))


def test_comparisons_are_binary(tmp_path):
    nodes = {"in": node("Input", shape=[3]), "t": node("Threshold", threshold=0.5), "out": node("Output")}
    path = write(tmp_path / "m.nir", nodes, chain("in", "t", "out"))
    assert "t.y" in load_model(path, spiking=EULER).binary_tensors


def test_what_was_assumed_is_said(tmp_path):
    path, x, _ = recorded("snntorch_dense")
    options = SpikingOptions(steps=30, convention="snntorch")
    said = "rules of snnTorch: 30 steps, a step is 0.0001 s, .*in the next step.*keeps 0.7[0-9]* to 0.9[0-9]*"
    with pytest.warns(Note, match=said):
        load_model(path, spiking=options)
    result = inspect(path, 2, spiking=options)
    assert "rules of snnTorch" in result["reading"] and result["reading"] in render(result)
    words = [str(path), "--steps", "30", "--convention", "sinabs", "--no-reset-delay", "--reset", "set"]
    expected = SpikingOptions(steps=30, convention="sinabs", reset_delay=False, reset="set")
    assert parse(words).spiking == expected


LIF = node("LIF", tau=[1e-3, 2e-3], r=1.0, v_leak=0.0, v_threshold=1.0)
WRONG = {
    "type": ({"n": node("Blob")}, r"node n \(Blob\): expected one of the types Affine, AvgPool2d"),
    "weight": (
        {"n": node("Linear", weight=np.ones((2, 3)))},
        r"node n \(Linear\): expected weights \(outputs, 2",
    ),
    "no weight": ({"n": node("Linear")}, r"node n \(Linear\): expected numbers weight, found none"),
    "text": ({"n": node("Linear", weight="w")}, r"expected numbers weight, found 'w'"),
    "nan": ({"n": node("Linear", weight=[[np.nan, 1.0]])}, r"node n \(Linear\): weight: expected finite"),
    "bias": ({"n": node("Affine", weight=np.ones((3, 2)), bias=[1.0])}, r"a bias for each of 3 outputs"),
    "shape": (
        {"n": LIF | {"tau": [1e-3] * 3}},
        r"expected tau for values of shape \(2,\).*found shape \(3,\)",
    ),
    "tau": ({"n": LIF | {"tau": 0.0}}, r"a time constant tau above 0 s, found 0 s"),
    "step": ({"n": LIF | {"tau": 1e-4}}, r"tau of at least a step of 0.001 s, found 0.0001 s.*--time-step"),
    "threshold": (
        {"n": {k: v for k, v in LIF.items() if k != "v_threshold"}},
        r"numbers v_threshold, found none",
    ),
    "delay": ({"n": node("Delay", delay=[2.5e-3])}, r"whole number of steps of 0.001 s, found 0.0025 s"),
    "kernel": ({"n": node("Conv2d", weight=np.ones((1, 2, 3, 3)))}, r"for values of shape \(2,\)"),
    "nothing fires": (
        {"n": node("LI", tau=1e-2, r=1.0, v_leak=0.0), "w": node("Linear", weight=np.eye(2))},
        "edge",
    ),
    "two fire": ({"n": LIF, "w": LIF}, r"edge from w to n, which leads back.*this one 2"),
    "no neurons": (
        {"n": node("Scale", scale=1.0), "w": node("Scale", scale=1.0)},
        r"edge from w to n.*this one 0",
    ),
    "delay back": ({"n": LIF, "w": node("Delay", delay=1e-3)}, r"nothing with a state, here w"),
    "comes back": (
        {"n": LIF, "w": node("Linear", weight=np.ones((3, 2)))},
        r"shape \(2,\) to come back to it",
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_refused_is_named(tmp_path, what):
    nodes, message = WRONG[what]
    edges = [*chain("in", "n", "out"), *([("n", "w"), ("w", "n")] if "w" in nodes else [])]
    path = write(tmp_path / "m.nir", {"in": node("Input", shape=[2]), "out": node("Output")} | nodes, edges)
    with pytest.raises(UserError, match=message) as error:
        load_model(path, spiking=EULER)
    assert str(error.value).startswith(str(path)) and "\n" not in str(error.value)


@pytest.mark.parametrize("is_unrolled", [False, True])
@pytest.mark.parametrize("kind", NEURONS)
def test_positions_of_a_map_may_have_parameters_of_their_own(tmp_path, kind, is_unrolled):
    x = RNG.normal(0.3, 1, size=(4, STEPS, 2, 3, 2))
    parameters = {key: value * RNG.uniform(0.8, 1.2, (2, 3, 2)) for key, value in NEURONS[kind].items()}
    parameters["r"] = parameters["r"][:, :1, :1]  # and some of them not
    expected = _euler(x, **{NAMES.get(key, key): value for key, value in parameters.items()})
    nodes, edges = {"n": node(kind, **parameters)}, None
    if is_unrolled:
        if "v_threshold" not in parameters:
            return
        nodes["w"] = node("Scale", scale=0.0)
        edges = [("in", "n"), ("n", "w"), ("w", "n"), ("n", "out")]
    y = _run(tmp_path, nodes, x, (2, 3, 2), edges=edges)
    np.testing.assert_allclose(y, expected, atol=1e-13)


def test_thresholds_of_positions(tmp_path):
    x, threshold = RNG.normal(size=(3, STEPS, 2, 2, 3)), RNG.normal(size=(2, 2, 3))
    y = _run(tmp_path, {"t": node("Threshold", threshold=threshold)}, x, (2, 2, 3))
    np.testing.assert_array_equal(y, x > threshold)


def test_what_positions_may_not_have_is_refused(tmp_path):
    x, values = np.zeros((1, STEPS, 2, 2, 2)), STEP * np.arange(2.0, 10).reshape(2, 2, 2)
    with pytest.raises(UserError, match="one delay for all positions of a map, found 0.00[0-9] to 0.00[0-9]"):
        _run(tmp_path, {"n": node("Delay", delay=values)}, x)
    with pytest.raises(UserError, match=r"tau for values of shape \(2, 2, 2\), or .* found shape \(2, 4\)"):
        _run(tmp_path, {"n": LIF | {"tau": values.reshape(2, 4)}}, x)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"steps": None}, "--steps: expected how many steps .* try --steps 100"),
        ({"convention": None}, "--convention: expected one of nir, snntorch.*does not say which program"),
        ({"time_step": None}, "--time-step: expected the length of a step in seconds.* lacks"),
        ({"convention": "sinabs"}, "--time-step: expected none, as Sinabs writes time constants in steps"),
    ],
)
def test_options_that_are_needed(change, message):
    path, *_ = recorded("snntorch_dense")
    with pytest.raises(FieldError) as error:
        load_model(path, spiking=replace(EULER, **change))
    with pytest.raises(UserError, match=message):
        raise UserError(typed(error.value))


def test_options_belong_to_such_files(tmp_path):
    np.savez(tmp_path / "m.npz", W0=np.ones((2, 2)), b0=np.ones(2))
    with pytest.raises(FieldError, match="steps: expected none"):
        load_model(tmp_path / "m.npz", spiking=SpikingOptions(steps=3))
    with pytest.raises(UsageError, match="--steps has no effect"):
        parse([str(tmp_path), "--steps", "3"])


def test_damage_is_refused(tmp_path):
    path = tmp_path / "m.nir"
    path.write_bytes(b"none")
    with pytest.raises(UserError, match="expected a readable .nir file"):
        load_model(path, spiking=EULER)
    h5py.File(path, "w").close()
    with pytest.raises(UserError, match="no group 'node'"):
        load_model(path, spiking=EULER)
    ends = {"in": node("Input", shape=[2]), "out": node("Output")}
    for nodes, edges, message in [
        ({"in": ends["in"]}, [], "one node of type Output, found 0"),
        (ends, [("in", "nowhere")], "found one from in to nowhere and no node nowhere"),
        (ends, [], "a way from in to out"),
        (
            ends | {"g": node("NIRGraph", nodes={}, edges=[])},
            chain("in", "g", "out"),
            "node g: expected a graph",
        ),
    ]:
        with pytest.raises(UserError, match=message):
            load_model(write(path, nodes, edges), spiking=EULER)


def test_names_that_are_taken_are_refused(tmp_path):
    nodes = {
        "in": node("Input", shape=[2]),
        "out": node("Output"),
        "a": node("Threshold", threshold=[1.0, 2]),
    }
    nodes["a.shift"] = node("Scale", scale=2.0)
    with pytest.raises(UserError, match="two tensors are called a.shift.y; give nodes other names"):
        load_model(write(tmp_path / "m.nir", nodes, chain("in", "a.shift", "a", "out")), spiking=EULER)


@pytest.mark.parametrize("name", ["input", "x0", "input.y"])
def test_a_layer_may_be_called_like_the_input(tmp_path, name):
    nodes = {"0": node("Input", shape=[2]), name: node("Linear", weight=np.eye(2)), "9": node("Output")}
    network = load_model(write(tmp_path / "m.nir", nodes, chain("0", name, "9")), spiking=EULER)
    assert len({space.name for space in network.spaces}) == 2


def test_what_does_not_fit_into_memory_is_refused(tmp_path):
    size = {"kernel_size": 1 << 23, "stride": 1, "padding": (1 << 23) - 1}
    nodes = {"in": node("Input", shape=[1, 8, 8]), "a": node("SumPool2d", **size), "out": node("Output")}
    with pytest.raises(UserError, match="fits into memory"):
        load_model(write(tmp_path / "m.nir", nodes, chain("in", "a", "out")), spiking=EULER)


def test_a_graph_within_itself_ends(tmp_path):
    path = write(tmp_path / "m.nir", {"in": node("Input", shape=[2]), "out": node("Output")}, [])
    with h5py.File(path, "a") as file:
        file["node/nodes/again"] = file["node"]
    with pytest.raises(UserError, match="graphs in graphs 16 deep"):
        load_model(path, spiking=EULER)


def test_long_trains_of_recurrent_neurons_are_noted():
    path, *_ = recorded("snntorch_recurrent")
    with warnings.catch_warnings(record=True) as notes:
        warnings.simplefilter("always")
        load_model(path, spiking=SpikingOptions(steps=65, convention="snntorch"))
    assert any("each of 65 steps has operations of its own" in str(each.message) for each in notes)
