"""ONNX files for sequences of any length as networks of tokens, against onnxruntime."""

import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from helpers.token_graphs import LONGEST, PADDING, VOCABULARY, transformer
from repurpose_hpc import TokenSession, load_tokens, split_network
from repurpose_hpc.errors import LacksMemory, Note, UserError
from repurpose_hpc.model.forward import forward
from repurpose_hpc.model.importers.load import holds_tokens, takes_any_length
from repurpose_hpc.model.importers.onnx import evaluation
from repurpose_hpc.model.importers.onnx.tokens import lengths
from repurpose_hpc.model.importers.onnx.tokens.lengths import LONGEST as DEFAULT
from repurpose_hpc.model.importers.texts import ending_tokens, pooling_of
from repurpose_hpc.model.operations import UNLIMITED, Attention, PositionTable, Rotary
from repurpose_hpc.plan.files.store import write_plan
from repurpose_hpc.runtime.generation import Sampling, generate
from repurpose_hpc.runtime.tokens import Tokens

onnxruntime = pytest.importorskip("onnxruntime")

MARKED = ("input_ids", "attention_mask", "token_type_ids")
CASES = {
    "learned": ({"positions": "learned"}, LONGEST),
    "offset": ({"positions": "offset"}, LONGEST),
    "counted": ({"positions": "counted", "mask": "padding", "inputs": MARKED}, LONGEST),
    "position ids": ({"positions": "ids", "inputs": ("input_ids", "position_ids")}, LONGEST),
    "sinusoidal": ({"positions": "sinusoidal"}, DEFAULT),
    "rotary": ({"positions": "rotary"}, DEFAULT),
    "window": ({"mask": "window", "positions": "rotary"}, DEFAULT),
    "encoder": ({"mask": "padding", "inputs": MARKED}, LONGEST),
    "without mask": ({"mask": "none", "inputs": ("tokens_of_a_text",), "positions": "none"}, DEFAULT),
}


@pytest.fixture
def write(tmp_path):
    """Writes a model, by default one of ``transformer``; returns the path."""

    def write(model=None, **options):
        onnx.save(transformer(**options) if model is None else model, tmp_path / "model.onnx")
        return tmp_path / "model.onnx"

    return write


def expected_of(path, ids):
    """The logits of onnxruntime."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    fills = {"attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
    fills["position_ids"] = np.broadcast_to(np.arange(ids.shape[1]), ids.shape)
    feeds = {item.name: fills.get(item.name, ids) for item in session.get_inputs()}
    return session.run(["logits"], feeds)[0]


def assert_is_model(path, network, lengths=(1, 2, 7, 11, 13, 30, 45), vocabulary=VOCABULARY):
    for length in lengths:
        ids = np.random.default_rng(length).integers(0, vocabulary, (2, length))
        ids[ids == network.ends.padding] = 0
        expected = expected_of(path, ids)
        found = forward(network.at(length), ids).reshape(expected.shape)
        np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6 * np.abs(expected).max())


@pytest.mark.filterwarnings("ignore::repurpose_hpc.errors.Note")
@pytest.mark.parametrize("name", CASES)
def test_network_is_the_model_at_every_length(write, name):
    options, longest = CASES[name]
    path = write(**options)
    network = load_tokens(path)
    assert network.longest == longest
    assert_is_model(path, network)
    kinds = {type(op) for op in network.operations}
    assert (Rotary in kinds) == (options.get("positions") == "rotary")
    assert (PositionTable in kinds) == (options.get("positions") not in ("rotary", "none"))


@pytest.mark.filterwarnings("ignore::repurpose_hpc.errors.Note")
def test_bands_are_limits(write):
    """A window that sequences of the shorter lengths do not reach is one all the same."""
    network = load_tokens(write(mask="window", positions="rotary"))
    limits = {(op.before, op.after) for op in network.operations if isinstance(op, Attention)}
    assert limits == {(19, 0)}
    network = load_tokens(write(mask="padding", inputs=MARKED))
    limits = {(op.before, op.after) for op in network.operations if isinstance(op, Attention)}
    assert limits == {(UNLIMITED, UNLIMITED)}


@pytest.mark.filterwarnings("ignore::repurpose_hpc.errors.Note")
def test_longest_may_be_given(write):
    path = write(positions="rotary")
    assert load_tokens(path, longest=3000).longest == 3000
    assert_is_model(path, load_tokens(path, longest=14), (1, 14))
    with pytest.raises(UserError, match="longest: expected 14 tokens or more, got 13"):
        load_tokens(path, longest=13)
    with pytest.raises(UserError, match="longest: expected as many tokens as the graph has .*, got 46"):
        load_tokens(write(), longest=46)
    with pytest.raises(UserError, match="longest is of .onnx files"):
        load_tokens(path.parent, longest=20)


def test_notes_say_what_is_assumed(write):
    inputs = ("input_ids", "attention_mask")
    with pytest.warns(Note) as notes:
        load_tokens(write(positions="rotary", mask="padding", inputs=inputs, pooled=True))
    texts = [str(note.message) for note in notes]
    assert any("input attention_mask is ones" in text for text in texts)
    assert any("of the outputs it has logits, not vector" in text for text in texts)
    assert any("up to 2048 tokens are taken" in text for text in texts)


@pytest.mark.filterwarnings("ignore::repurpose_hpc.errors.Note")
@pytest.mark.parametrize("name", ["rotary", "learned", "window", "encoder"])
def test_session_runs_texts_of_mixed_lengths(write, name):
    path = write(**CASES[name][0])
    session = TokenSession(split_network(load_tokens(path), 3), slots=3, longest=40)
    rng = np.random.default_rng(0)
    texts = [rng.integers(0, VOCABULARY, length) for length in (5, 33, 1)]
    found = session.run([Tokens(slot, ids) for slot, ids in enumerate(texts)])
    for rows, ids in zip(found, texts, strict=True):
        expected = expected_of(path, ids[None])[0]
        np.testing.assert_allclose(rows, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@pytest.mark.filterwarnings("ignore::repurpose_hpc.errors.Note")
@pytest.mark.parametrize("place", [0, 4])
def test_padding_where_ids_are_counted(write, tmp_path, place):
    """Positions of such texts would be others: they are refused, also by shards and the reference."""
    network = load_tokens(write(**CASES["counted"][0]))
    assert network.ends.padding == PADDING
    ids = np.array([5, 9, 0, 5, 8])
    ids[place] = PADDING
    cut = split_network(network, 3)
    write_plan(tmp_path / "shards", cut.network, cut.plan, {})
    for source in (cut, tmp_path / "shards"):
        with pytest.raises(UserError, match=f"without padding, found its id {PADDING} at place {place}"):
            TokenSession(source).run([Tokens(0, ids)])
    with pytest.raises(UserError, match=f"without padding, found its id {PADDING}"):
        forward(network.at(5), ids[None])


def compared_with(*numbers):
    """A model that counts ids which are none of some numbers, the first of them by a Constant."""
    model = transformer(positions="counted")
    (place,) = (place for place, node in enumerate(model.graph.node) if node.op_type == "Equal")
    equal = model.graph.node.pop(place)
    nodes = []
    for number in numbers:
        value = onnx.numpy_helper.from_array(np.array([[number]], np.int32))
        nodes.append(onnx.helper.make_node("Constant", [], [f"number{number}"], value=value))
        nodes.append(onnx.helper.make_node("Cast", [f"number{number}"], [f"wide{number}"], to=7))
        nodes.append(onnx.helper.make_node("Equal", [f"wide{number}", "input_ids"], [f"is{number}"]))
    nodes.append(onnx.helper.make_node("Or", [f"is{numbers[0]}", f"is{numbers[-1]}"], [equal.output[0]]))
    for node in reversed(nodes):
        model.graph.node.insert(place, node)
    return model


@pytest.mark.filterwarnings("ignore::repurpose_hpc.errors.Note")
@pytest.mark.parametrize(("number", "padding"), [(3, 3), (-100, None), (VOCABULARY, None)])
def test_which_id_is_padding(write, number, padding):
    """None, if it is no token."""
    path = write(compared_with(number))
    network = load_tokens(path, longest=20)
    assert network.ends.padding == padding
    assert_is_model(path, network, (1, 9, 20))


def test_ids_that_are_compared_with_several(write):
    with pytest.raises(UserError, match="compared with one at most, that of padding, found 3, 7;"):
        load_tokens(write(compared_with(7, 3)))


@pytest.mark.filterwarnings("ignore::repurpose_hpc.errors.Note")
@pytest.mark.parametrize(
    ("to", "number"),
    [
        (TensorProto.BOOL, np.array(True)),
        (TensorProto.UINT8, np.array(PADDING, np.uint8)),
        (TensorProto.FLOAT, np.array(1.5, np.float32)),
        (TensorProto.FLOAT, np.array(np.nan, np.float32)),
    ],
)
def test_comparisons_that_tell_no_id_are_none_with_padding(write, to, number):
    """Of true, of the last bits of an id, and of what is no id: the first is so for nearly all ids."""
    model = transformer(positions="counted")
    (place,) = (place for place, node in enumerate(model.graph.node) if node.op_type == "Equal")
    model.graph.node[place].input[:] = ["cast", "number"]
    model.graph.node.insert(place, onnx.helper.make_node("Cast", ["input_ids"], ["cast"], to=to))
    model.graph.initializer.append(onnx.numpy_helper.from_array(number, "number"))
    with pytest.raises(UserError, match="expected one tensor between the ids and the first weights, found 2"):
        load_tokens(write(model), check=False)


@pytest.mark.filterwarnings("ignore::repurpose_hpc.errors.Note")
def test_a_generated_text_ends_with_padding(write):
    """As it is, which cannot be read again."""
    network = load_tokens(write(positions="counted"))
    for seed in range(4):
        session = TokenSession(split_network(network, 2))
        (ids,) = generate(session, [np.array([3, 4, 5])], 40, Sampling(temperature=1.5, seed=seed)).ids
        assert ids.index(PADDING) == len(ids) - 1 < 39


def test_notes_say_which_id_is_padding(write):
    with pytest.warns(Note, match=f"id {PADDING} stands for padding"):
        load_tokens(write(positions="counted"))


REFUSED = {
    "fixed length": ({"length": 7}, "axis of tokens that is free, found one of 7"),
    "cache": ({"inputs": ("input_ids", "past_key_values.0.key")}, "found 'past_key_values.0.key'"),
    "alibi": ({"mask": "alibi"}, "adds numbers to its scores that are no mask of near positions"),
    "strided": ({"mask": "strided"}, "adds numbers to its scores that are no mask of near positions"),
    "factors": ({"positions": "factors"}, "multiplies by a number of each position"),
    "length": ({"depends_on_length": True}, "depends on the length of the sequence"),
    "vector": ({"pooled": "only"}, "of 13 tokens of a neuron"),
    "sliced": ({"is_sliced": True}, "depends on the length of the sequence"),
    "tokens first": ({"tokens_first": True}, r"2 sequences and 7 tokens, in this order, found shape \(7, 2"),
    "no ids": (
        {"inputs": ("token_type_ids", "attention_mask"), "positions": "none", "mask": "none"},
        "expected the inputs input_ids and perhaps .*, found 'token_type_ids' and 1 more",
    ),
}


@pytest.mark.filterwarnings("ignore::repurpose_hpc.errors.Note")
@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(write, name):
    options, message = REFUSED[name]
    with pytest.raises(UserError, match=message):
        load_tokens(write(**options))


def renamed(model, old, new):
    """A model with an output, or an input, of another name."""
    for item in (*model.graph.input, *model.graph.output):
        item.name = new if item.name == old else item.name
    for node in model.graph.node:
        for names in (node.input, node.output):
            names[:] = [new if name == old else name for name in names]
    return model


def test_of_outputs_one_must_be_of_tokens(write):
    model = renamed(transformer(pooled=True), "logits", "first")
    model.graph.output[0].type.tensor_type.shape.dim.add().dim_value = 1
    with pytest.raises(UserError, match="one output with a row for each token.*found vector, first"):
        load_tokens(write(model))


@pytest.mark.filterwarnings("ignore::repurpose_hpc.errors.Note")
def test_too_little_memory_is_no_end_of_the_positions(write, monkeypatch):
    """Else what a model takes would depend on the machine."""
    network_of = lengths.network_of

    def lacking(graph, are_sequences):
        if graph.inputs["input_ids"][1] > 300:
            raise LacksMemory("too little memory")
        return network_of(graph, are_sequences)

    monkeypatch.setattr(lengths, "network_of", lacking)
    path = write(positions="rotary")
    with pytest.raises(UserError, match=r"little memory; --longest, or .*, below 2048 needs less"):
        load_tokens(path)
    assert load_tokens(path, longest=20).longest == 20


def test_nodes_for_which_there_is_no_memory(write, monkeypatch):
    def lacking(*_):
        raise MemoryError

    monkeypatch.setattr(evaluation, "apply", lacking)
    with pytest.raises(LacksMemory, match="there is not enough memory for it"):
        load_tokens(write())


def test_inputs_that_are_no_ids(write):
    model = transformer()
    model.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    path = write(model)
    with pytest.raises(UserError):
        load_tokens(path)
    model = transformer(inputs=("input_ids", "attention_mask"))
    model.graph.input[1].type.tensor_type.shape.dim.add().dim_value = 3
    with pytest.raises(UserError, match="'attention_mask': expected two axes, .*found 3"):
        load_tokens(write(model))


@pytest.mark.filterwarnings("ignore::repurpose_hpc.errors.Note")
def test_another_network_is_found_out(write, monkeypatch):
    """The comparison with onnxruntime sees a mask that is forgotten."""
    from repurpose_hpc.model.importers.onnx.tokens import matching

    class Forgetful(matching.Matched):
        def _added(self, builder, op, sources):
            if isinstance(op, Attention):
                op = matching.replace(op, after=UNLIMITED)
            return super()._added(builder, op, sources)

    monkeypatch.setattr("repurpose_hpc.model.importers.onnx.tokens.lengths.Matched", Forgetful)
    path = write()
    with pytest.raises(UserError, match="the imported network differs from the model by"):
        load_tokens(path)
    assert load_tokens(path, check=False).longest == LONGEST


def test_which_files_hold_tokens(write, tmp_path):
    for case, holds, is_free in (
        ({}, True, True),
        ({"length": 7}, True, False),
        ({"inputs": ("any",)}, True, True),
        ({"inputs": ("any",), "length": 7}, False, False),
    ):
        path = write(**case)
        assert (holds_tokens(path), takes_any_length(path)) == (holds, is_free)
    (tmp_path / "damaged.onnx").write_bytes(b"no model")
    assert not holds_tokens(tmp_path / "damaged.onnx")
    assert not takes_any_length(tmp_path / "damaged.onnx")


def test_files_beside_it_say_of_texts(write, tmp_path):
    path = write()
    assert ending_tokens(path) == ()
    assert pooling_of(path).pool == "none"
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": 4}))
    assert ending_tokens(path) == (4,)
