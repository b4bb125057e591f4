"""Decoders in ONNX files that take keys and values of earlier tokens, against onnxruntime."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from helpers.cached_graphs import (
    GROUPS,
    HEADS,
    KINDS,
    ROWS,
    SIZE,
    UNTURNED,
    VOCABULARY,
    Runtime,
    decoder,
    merged,
)
from helpers.token_graphs import transformer
from repurpose_hpc import TokenSession, load_tokens, split_network
from repurpose_hpc.errors import Note, UserError
from repurpose_hpc.model.forward import forward
from repurpose_hpc.model.operations import Attention, Mixing, Rotary
from repurpose_hpc.runtime.tokens import Tokens

pytest.importorskip("onnxruntime")

NORMS = {
    "pieces": ("pieces", "pieces"),
    "operator": ("operator", "RMSNormalization"),
    "tokens and heads on one axis": ("grouped", "SimplifiedLayerNormalization"),
}
CASES = {kind: (kind, "") for kind in KINDS} | {f"norms: {name}": case for name, case in NORMS.items()}


@pytest.fixture
def write(tmp_path):
    """Writes a model; returns the path."""

    def write(model):
        onnx.save(model, tmp_path / "model.onnx")
        return tmp_path / "model.onnx"

    return write


def assert_is_near(found, expected):
    np.testing.assert_allclose(found, expected, rtol=0, atol=5e-6 * np.abs(expected).max())


@pytest.mark.filterwarnings("ignore::repurpose_hpc.errors.Note")
@pytest.mark.parametrize("name", CASES)
def test_network_is_the_model_without_earlier_tokens(write, name):
    path = write(decoder(*CASES[name]))
    network, runtime = load_tokens(path, longest=ROWS), Runtime(path)
    kinds = [type(op) for op in network.operations]
    assert kinds.count(Attention) == 2
    assert kinds.count(Rotary) == (0 if CASES[name][0] in UNTURNED else 4)
    for length in (1, 2, 11, 30, ROWS):
        ids = np.random.default_rng(length).integers(0, VOCABULARY, (2, length))
        expected, *_ = runtime.run(ids)
        assert_is_near(forward(network.at(length), ids).reshape(expected.shape), expected)


@pytest.mark.filterwarnings("ignore::repurpose_hpc.errors.Note")
@pytest.mark.parametrize("name", CASES)
def test_session_goes_on_where_a_text_ended(write, name):
    """As onnxruntime does with the keys and values that it is given back."""
    path = write(decoder(*CASES[name]))
    session = TokenSession(split_network(load_tokens(path, longest=40), 3), slots=1, chunk=7)
    runtime, pasts = Runtime(path), ()
    for number, length in enumerate((9, 1, 1, 4)):
        ids = np.random.default_rng(number).integers(0, VOCABULARY, length)
        expected, *pasts = runtime.run(ids[None], *pasts)
        (found,) = session.run([Tokens(0, ids)])
        assert_is_near(found, expected[0])


@pytest.mark.filterwarnings("ignore::repurpose_hpc.errors.Note")
@pytest.mark.parametrize("name", NORMS)
def test_heads_are_normalised_by_themselves(write, name):
    """Means of a head, and the head's number for each of its neurons: no more than one head is read."""
    network = load_tokens(write(decoder(*NORMS[name])), longest=20)
    shapes = {(heads, heads * SIZE) for heads in (HEADS, GROUPS)}
    found = set()
    for op in network.operations:
        if isinstance(op, Mixing) and op.fixed:
            weights = op.weights.reshape(op.weights.shape[:2])
            weights = weights if len(weights) < len(weights.T) else weights.T
            if weights.shape in shapes:
                found.add(op.weights.shape[:2])
                of_head = np.arange(weights.shape[1]) // SIZE == np.arange(len(weights))[:, None]
                assert ((weights != 0) == of_head).all()
    assert found == shapes | {shape[::-1] for shape in shapes}


@pytest.mark.filterwarnings("ignore::repurpose_hpc.errors.Note")
def test_merged_decoders(write):
    """The branch without earlier tokens is the model."""
    network, path = load_tokens(write(decoder()), longest=20), write(merged(decoder()))
    found, ids = load_tokens(path, longest=20), np.random.default_rng(0).integers(0, VOCABULARY, (2, 20))
    np.testing.assert_array_equal(forward(found.at(20), ids), forward(network.at(20), ids))
    with pytest.warns(Note) as notes:
        load_tokens(path, longest=20)
    assert not any("not checked" in str(note.message) for note in notes)


def test_notes_say_what_is_left_out(write):
    with pytest.warns(Note) as notes:
        load_tokens(write(decoder()), longest=20)
    texts = [str(note.message) for note in notes]
    assert any("inputs past_key_values.0.key and 3 more are without entries" in text for text in texts)
    assert any("of the outputs it has logits, not present.0.key, 3 more" in text for text in texts)
    assert not any("not checked" in text for text in texts)


def with_past(model, sizes, name="past_key_values.0.key"):
    """A model of which an input has other sizes."""
    (item,) = (item for item in model.graph.input if item.name == name)
    item.CopyFrom(helper.make_tensor_value_info(name, TensorProto.FLOAT, sizes))
    return model


@pytest.mark.filterwarnings("ignore::repurpose_hpc.errors.Note")
def test_axes_without_names(write):
    """The first free axis is that of the sequences."""
    path = write(with_past(decoder(), [None, GROUPS, None, SIZE]))
    assert load_tokens(path, longest=20).longest == 20


@pytest.mark.parametrize(
    ("sizes", "shown"),
    [(["N", GROUPS, 8, SIZE], "N, 2, 8, 16"), (["N", "G", "P", SIZE], "N, G, P, 16")],
)
def test_pasts_of_other_sizes(write, sizes, shown):
    message = rf"'past_key_values.0.key': expected keys or values of any number .* shape \({shown}\)"
    with pytest.raises(UserError, match=message):
        load_tokens(write(with_past(decoder(), sizes)))


@pytest.mark.parametrize("place", [1, 2])
def test_keys_and_values_of_another_text(write, place):
    """Such as of an encoder's: without entries they would be another model."""
    model = decoder("multi")
    (item, *_) = (item for item in model.graph.input if "past" in item.name)
    for node in model.graph.node:
        if node.op_type == "MultiHeadAttention":
            node.input[place] = node.input[6]
            node.input[6:] = []
    with pytest.raises(UserError, match=f"and perhaps .*, found '{item.name}' and 3 more"):
        load_tokens(write(model))


@pytest.mark.parametrize(
    "sizes", [["N", "S", 12], ["N", 3, "S", 4]], ids=["of three axes", "that no attention reads"]
)
def test_other_inputs_of_numbers(write, sizes):
    """Such as states of an encoder: they are no earlier tokens."""
    model = transformer()
    model.graph.input.append(helper.make_tensor_value_info("states", TensorProto.FLOAT, sizes))
    model.graph.node.append(helper.make_node("Exp", ["states"], ["more"]))
    with pytest.raises(UserError, match="expected the inputs input_ids and perhaps .*, found 'states'"):
        load_tokens(write(model))
