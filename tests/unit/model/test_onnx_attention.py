"""Attention in ONNX, as one operator and in pieces, against the reference of the onnx package."""

import warnings

import numpy as np
import pytest

from repurpose_hpc.errors import Note, UserError
from repurpose_hpc.model.forward import forward
from repurpose_hpc.model.importers.load import load_model
from repurpose_hpc.model.operations import UNLIMITED, Attention
from repurpose_hpc.restructure.exact import split_network
from repurpose_hpc.runtime.session import Session

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from onnx.reference import ReferenceEvaluator  # noqa: E402

from helpers.onnx_models import node, outputs_of_runtime, save  # noqa: E402

SAMPLES, HEADS, LENGTH, FEATURES = 3, 2, 4, 3
WIDTH = HEADS * FEATURES
RNG = np.random.default_rng(0)
LOWER = np.tril(np.ones((LENGTH, LENGTH), bool))
WITH_EMPTY_ROW = LOWER & (np.arange(LENGTH) != 2)[:, None]
SOME = RNG.random((HEADS, LENGTH, LENGTH)) < 0.6
SOME[:, :, 0] = True
BIAS = RNG.standard_normal((1, HEADS, LENGTH, LENGTH)).astype(np.float32)
CONSTANTS = {
    "W": RNG.standard_normal((WIDTH, 3 * WIDTH)).astype(np.float32) / 2,
    "W_head": RNG.standard_normal((WIDTH, FEATURES)).astype(np.float32),
    "thirds": np.array([WIDTH] * 3),
    "by_head": np.array([0, 0, HEADS, FEATURES]),
    "joined": np.array([0, 0, -1]),
    "last": np.array([-1]),
    **{"c": np.float32(0.6), "zero": np.float32(0), "half": np.float32(0.5), "one": np.float32(1)},
    **{"three": np.float32(3), "minus": np.float32(-2)},
    **{"low": np.float32(-1e9), "infinite": np.float32(-np.inf), "lowest": np.finfo(np.float32).min},
    "lower": LOWER,
    "upper": ~LOWER,
    "causal": np.where(LOWER, 0, -1e9).astype(np.float32),
    "bias": BIAS,
    "square": BIAS[0, 0],
}
SEQUENCE = {"x": ("N", LENGTH, WIDTH)}
PROJECTIONS = [node("MatMul", "x W", "qkv"), node("Split", "qkv thirds", "q k v", axis=-1)]


def by_head(name, perm=(0, 2, 1, 3)):
    """Nodes that make Q of q: (samples, heads, positions, features), or what ``perm`` makes of it."""
    name_of_head = name.upper()
    nodes = node("Reshape", f"{name} by_head", f"{name}h"), node("Transpose", f"{name}h", name_of_head)
    nodes[1].attribute.extend(node("Transpose", "", "_", perm=perm).attribute)
    return nodes


def by_reference(path, feeds):
    """The outputs of a file as the onnx package computes them."""
    with np.errstate(all="ignore"):
        return ReferenceEvaluator(str(path)).run(None, feeds)


def compare(path, nodes, constants=None, inputs=SEQUENCE, opset=24, marks=None, run=None):
    """Compare an imported model, in float32, with the reference; return its attentions.

    Args:
        path: of the file.
        nodes: from the inputs to y.
        constants: beside those of all tests.
        inputs: their shapes, by name.
        opset: of ONNX.
        marks: values of input "m"; None: they are random as all others are.
        run: outputs of a file from inputs by name; None: as the onnx package computes them.
    """
    save(path, nodes, {**CONSTANTS, **(constants or {})}, inputs=inputs, opset=opset)
    rng = np.random.default_rng(1)
    feeds = {
        name: rng.standard_normal((SAMPLES, *shape[1:])).astype(np.float32) for name, shape in inputs.items()
    }
    if marks is not None:
        feeds["m"] = marks.astype(np.float32)
    network = load_model(path, check=False)
    result = forward(network, np.hstack([x.reshape(SAMPLES, -1) for x in feeds.values()]), np.float32)
    outputs = (run or by_reference)(path, feeds)
    expected = np.hstack([y.reshape(SAMPLES, -1) for y in outputs])
    assert result.shape == expected.shape
    np.testing.assert_allclose(result, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    return [op for op in network.operations if isinstance(op, Attention)]


COUNTS = {"q_num_heads": HEADS, "kv_num_heads": HEADS}
# Attributes, a mask, and what the attention has to be.
OPERATORS = {
    "plain": ({}, None, {}),
    "scale": ({"scale": 0.3}, None, {"scale": 0.3}),
    "causal": ({"is_causal": 1}, None, {"after": 0}),
    "soft cap": ({"softcap": 0.5}, None, {"softcap": 0.5}),
    "causal soft cap": ({"softcap": 0.5, "is_causal": 1}, None, {"softcap": 0.5, "after": 0}),
    "truth": ({}, LOWER, {"after": 0}),
    "truth for each head": ({}, SOME[None], {}),
    "truth of three axes": ({}, SOME, {}),
    "truth of keys": ({}, np.array([True, False, True, True]), {}),
    "truth and causal": ({"is_causal": 1}, SOME[None], {}),
    "a row of nothing": ({}, WITH_EMPTY_ROW, {}),
    "a row of infinities": ({}, np.where(WITH_EMPTY_ROW, 0, -np.inf).astype(np.float32), {}),
    "a row of low numbers": ({}, np.where(WITH_EMPTY_ROW, 0, -1e9).astype(np.float32), {}),
    "numbers": ({}, BIAS, {}),
    "numbers and a cap": ({"softcap": 0.5}, BIAS, {"softcap": 0.5}),
    "numbers from 1 to -30000": ({}, np.linspace(1, -3e4, LENGTH).astype(np.float32)[None], {}),
    "low numbers that differ": ({}, np.array([[-9999, -10000, -10001, -9999.5]], np.float32), {}),
    "high numbers": ({}, np.array([[0, 200, 200, 0]], np.float32), {}),
    "fewer keys": ({}, LOWER[:, :3], {}),
}


def check_attributes(attention, **expected):
    """Attributes of an attention, those of the usual one where nothing else is expected."""
    usual = {"heads": HEADS, "groups": HEADS, "scale": FEATURES**-0.5, "softcap": 0.0}
    usual |= {"before": UNLIMITED, "after": UNLIMITED}
    assert {name: getattr(attention, name) for name in usual} == pytest.approx(usual | expected, rel=1e-6)


@pytest.mark.parametrize("axes", [3, 4])
@pytest.mark.parametrize("opset", [23, 24, 25])
@pytest.mark.parametrize("name", OPERATORS)
def test_operator(tmp_path, name, opset, axes):
    attributes, mask, expected = OPERATORS[name]
    constants, suffix = ({}, "") if mask is None else ({"mask": mask}, " mask")
    if axes == 3:
        nodes = [*PROJECTIONS, node("Attention", f"q k v{suffix}", "y", **COUNTS, **attributes)]
    else:
        nodes = [*PROJECTIONS, *by_head("q"), *by_head("k"), *by_head("v")]
        nodes += [node("Attention", f"Q K V{suffix}", "Y", **attributes)]
        nodes += [node("Transpose", "Y", "y", perm=[0, 2, 1, 3])]
    (attention,) = compare(tmp_path / "model.onnx", nodes, constants, opset=opset)
    check_attributes(attention, **expected)


@pytest.mark.parametrize("opset", [23, 24])
def test_four_axes_and_numbers_of_heads(tmp_path, opset):
    """Later opsets refuse what these say twice."""
    nodes = [*PROJECTIONS, *by_head("q"), *by_head("k"), *by_head("v")]
    nodes += [node("Attention", "Q K V", "Y", **COUNTS), node("Transpose", "Y", "y", perm=[0, 2, 1, 3])]
    assert len(compare(tmp_path / "model.onnx", nodes, opset=opset)) == 1


def test_grouped_heads(tmp_path):
    nodes = [*PROJECTIONS, node("MatMul", "x W_head", "key"), node("MatMul", "x W_head", "value")]
    nodes += [node("Attention", "q key value", "y", q_num_heads=HEADS, kv_num_heads=1)]
    (attention,) = compare(tmp_path / "model.onnx", nodes)
    check_attributes(attention, groups=1)


WINDOWS = {
    "left": ({"left_window_size": 1}, {"before": 1}),
    "right": ({"right_window_size": 1}, {"after": 1}),
    "left causal": ({"left_window_size": 1, "is_causal": 1}, {"before": 1, "after": 0}),
    "wider than it is long": ({"left_window_size": 9, "right_window_size": 9}, {}),
}


@pytest.mark.parametrize("name", WINDOWS)
def test_windows_of_the_operator(tmp_path, name):
    attributes, expected = WINDOWS[name]
    nodes = [*PROJECTIONS, node("Attention", "q k v", "y", **COUNTS, **attributes)]
    (attention,) = compare(tmp_path / "model.onnx", nodes, opset=25)
    check_attributes(attention, **expected)


@pytest.mark.parametrize("of_longer", [False, True])
def test_causal_cross_attention(tmp_path, of_longer):
    inputs = {**SEQUENCE, "z": ("N", LENGTH + 2, WIDTH)}
    queries, keys = ("z", "x") if of_longer else ("x", "z")
    nodes = [node("MatMul", f"{queries} W", "wide"), node("Split", "wide thirds", "q q2 q3", axis=-1)]
    nodes += [node("MatMul", f"{keys} W", "others"), node("Split", "others thirds", "k k2 v", axis=-1)]
    nodes += [node("Attention", "q k v", "y", is_causal=1, **COUNTS)]
    (attention,) = compare(tmp_path / "model.onnx", nodes, inputs=inputs)
    assert attention.after == 0


QUERIES_AND_KEYS = [*PROJECTIONS, *by_head("q"), *by_head("k", (0, 2, 3, 1)), *by_head("v")]
SCORES = [*QUERIES_AND_KEYS, node("MatMul", "Q K", "products"), node("Mul", "products c", "s")]
SOFTMAX = node("Softmax", "t", "P", axis=-1)
DEFINED = [
    *(node("Softmax", "t", "raw", axis=-1), node("IsNaN", "raw", "nan"), node("Where", "nan zero raw", "P"))
]
JOIN = [node("Transpose", "O", "o", perm=[0, 2, 1, 3]), node("Reshape", "o joined", "y")]
VALUES = [node("MatMul", "P V", "O"), *JOIN]
# Nodes between the scores s and the weights P; what the attention has to be, or None: there must be none.
PIECES = {
    "plain": ([node("Softmax", "s", "P", axis=3)], {}),
    "another axis": ([node("Softmax", "s", "P", axis=-2)], None),
    "the axis of heads": ([node("Softmax", "s", "P", axis=1)], None),
    "transposed": ([node("Transpose", "s", "t", perm=[0, 1, 3, 2]), SOFTMAX], None),
    "heads behind": (
        [
            *(node("Transpose", "s", "t", perm=[0, 2, 1, 3]), node("Softmax", "t", "p", axis=-1)),
            node("Transpose", "p", "P", perm=[0, 2, 1, 3]),
        ],
        None,
    ),
    "a mask, then a scale": ([node("Add", "s causal", "u"), node("Mul", "u c", "t"), SOFTMAX], None),
    "a bias, then a scale": ([node("Add", "s square", "u"), node("Mul", "u c", "t"), SOFTMAX], None),
    "chosen": ([node("Where", "lower s low", "t"), SOFTMAX], {"after": 0}),
    "chosen the other way": ([node("Where", "upper low s", "t"), SOFTMAX], {"after": 0}),
    "an unusual number": ([node("Where", "lower s minus", "t"), SOFTMAX], None),
    "zero": ([node("Where", "lower s zero", "t"), SOFTMAX], None),
    "defined": ([node("Where", "lower s infinite", "t"), *DEFINED], {"after": 0}),
    "a sum of three": ([node("Sum", "s square square", "t"), SOFTMAX], None),
    "subtracted": ([node("Sub", "s square", "t"), SOFTMAX], None),
    "a negative scale": ([node("Mul", "s minus", "t"), SOFTMAX], {"scale": -1.2}),
    "a divisor": ([node("Div", "s minus", "t"), SOFTMAX], {"scale": -0.3}),
    "a dividend": ([node("Div", "c s", "t"), SOFTMAX], None),
    "a scale for each head": ([node("Mul", "s heads", "t"), SOFTMAX], None),
    "integers": ([node("Cast", "s", "i", to=7), node("Cast", "i", "t", to=1), SOFTMAX], None),
    "another precision": ([node("Cast", "s", "i", to=11), node("Cast", "i", "t", to=1), SOFTMAX], {}),
    "capped": (
        [node("Tanh", "s", "u"), node("Mul", "u three", "t"), SOFTMAX],
        {"softcap": 3.0, "scale": 1.8},
    ),
    "capped below": (
        [node("Tanh", "s", "u"), node("Mul", "u minus", "t"), SOFTMAX],
        {"softcap": 2.0, "scale": -1.2},
    ),
    "capped by zero": ([node("Tanh", "s", "u"), node("Mul", "u zero", "t"), SOFTMAX], {"scale": 0.0}),
    "capped twice": ([node("Tanh", "s", "u"), node("Tanh", "u", "t"), SOFTMAX], None),
    "a mask, then a cap": ([node("Add", "s square", "u"), node("Tanh", "u", "t"), SOFTMAX], None),
    "no softmax": ([node("Identity", "s", "P")], None),
    "rectified": ([node("Relu", "s", "P")], None),
    "scaled weights": ([node("Softmax", "s", "p", axis=-1), node("Mul", "p c", "P")], None),
    "masked weights": ([node("Softmax", "s", "p", axis=-1), node("Where", "lower p zero", "P")], None),
    "biased weights": ([node("Softmax", "s", "p", axis=-1), node("Add", "p square", "P")], None),
    "logarithms": ([node("LogSoftmax", "s", "P", axis=-1)], None),
    "a softmax of weights": ([node("Softmax", "s", "p", axis=-1), node("Softmax", "p", "P", axis=-1)], None),
}


@pytest.mark.parametrize("name", PIECES)
def test_pieces(tmp_path, name):
    nodes, expected = PIECES[name]
    constants = {"heads": np.array([0.5, -1.5], np.float32).reshape(1, HEADS, 1, 1)}
    path = tmp_path / "model.onnx"
    attentions = compare(path, [*SCORES, *nodes, *VALUES], constants, opset=20)
    assert len(attentions) == (expected is not None)
    for attention in attentions:
        check_attributes(attention, **{"scale": 0.6, **expected})


def test_weights_that_are_not_a_number_without_a_word_are_refused(tmp_path):
    nodes = [*SCORES, node("Where", "mask s infinite", "t"), SOFTMAX, *VALUES]
    save(tmp_path / "model.onnx", nodes, {**CONSTANTS, "mask": WITH_EMPTY_ROW}, inputs=SEQUENCE)
    with pytest.raises(UserError, match="NaN or infinite"):
        load_model(tmp_path / "model.onnx")


def test_positions_that_see_nothing_and_get_zeros(tmp_path):
    nodes = [*SCORES, node("Where", "mask s infinite", "t"), *DEFINED, *VALUES]
    assert len(compare(tmp_path / "model.onnx", nodes, {"mask": WITH_EMPTY_ROW}, opset=20)) == 1


OTHER_USES = {
    "scores": (1, [node("Softmax", "s", "P", axis=-1), node("ReduceSum", "s last", "r")], "Add"),
    "weights": (0, [node("Softmax", "s", "P", axis=-1), node("ReduceMax", "P last", "r")], "Mul"),
}


@pytest.mark.parametrize("name", OTHER_USES)
def test_scores_and_weights_of_which_more_is_made(tmp_path, name):
    count, nodes, operator = OTHER_USES[name]
    nodes = [*SCORES, *nodes, node("MatMul", "P V", "means"), node(operator, "means r", "O"), *JOIN]
    assert len(compare(tmp_path / "model.onnx", nodes, opset=20)) in (0, count)


def test_weights_as_an_output(tmp_path):
    """The mean of the weights of all heads, as ``need_weights`` of PyTorch returns it."""
    path = tmp_path / "model.onnx"
    nodes = [*SCORES, node("Softmax", "s", "P", axis=-1), *VALUES, node("ReduceMean", "P one_axis", "w")]
    constants = {**CONSTANTS, "one_axis": np.array([1])}
    save(path, nodes, constants, inputs=SEQUENCE, opset=20, outputs=("y", "w"))
    x = np.random.default_rng(1).standard_normal((SAMPLES, LENGTH, WIDTH)).astype(np.float32)
    expected = np.hstack([y.reshape(SAMPLES, -1) for y in by_reference(path, {"x": x})])
    result = forward(load_model(path, check=False), x.reshape(SAMPLES, -1), np.float32)
    np.testing.assert_allclose(result, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_two_values_of_the_same_weights(tmp_path):
    nodes = [*SCORES, node("Softmax", "s", "P", axis=-1), node("Tanh", "V", "V2"), node("MatMul", "P V", "a")]
    nodes += [node("MatMul", "P V2", "b"), node("Sub", "a b", "O"), *JOIN]
    assert len(compare(tmp_path / "model.onnx", nodes, opset=20)) == 2


MERGED = {
    "rows": np.array([-1, LENGTH, FEATURES]),
    "columns": np.array([-1, FEATURES, LENGTH]),
    "split": np.array([-1, HEADS, LENGTH, FEATURES]),
    "scores_split": np.array([-1, HEADS, LENGTH, LENGTH]),
    "scores_merged": np.array([-1, LENGTH, LENGTH]),
}
OF_MERGED = {
    "plain": ([node("Softmax", "s", "P", axis=-1)], {}),
    "masked": ([node("Add", "s causal", "t"), SOFTMAX], {"after": 0}),
    "masked by head": (
        [
            *(node("Reshape", "s scores_split", "s4"), node("Add", "s4 bias", "t4")),
            *(node("Reshape", "t4 scores_merged", "t"), SOFTMAX),
        ],
        {},
    ),
    "masked by an input": (
        [
            *(node("Reshape", "s scores_split", "s4"), node("Add", "s4 m", "t4")),
            *(node("Reshape", "t4 scores_merged", "t"), SOFTMAX),
        ],
        {},
    ),
}


@pytest.mark.parametrize("name", OF_MERGED)
def test_heads_on_the_axis_of_the_samples(tmp_path, name):
    nodes, expected = OF_MERGED[name]
    merged = [node("Reshape", "Q rows", "q3"), node("Reshape", "K columns", "k3")]
    merged += [node("Reshape", "V rows", "v3"), node("MatMul", "q3 k3", "products")]
    merged += [node("Mul", "products c", "s"), *nodes, node("MatMul", "P v3", "o3")]
    nodes = [*QUERIES_AND_KEYS, *merged, node("Reshape", "o3 split", "O"), *JOIN]
    inputs = {**SEQUENCE, "m": ("N", 1, 1, LENGTH)} if "input" in name else SEQUENCE
    (attention,) = compare(tmp_path / "model.onnx", nodes, MERGED, inputs, opset=20)
    check_attributes(attention, scale=0.6, **expected)


def marks(*shape):
    """Random marks, 0 and 1; a position of the first sample sees nothing."""
    values = np.random.default_rng(5).random((SAMPLES, *shape)) < 0.6
    values[0, ..., -1, :] = False
    return values


SHAPES = {"keys": (1, 1, LENGTH), "pairs": (1, LENGTH, LENGTH), "pairs by head": (HEADS, LENGTH, LENGTH)}
TRUTH, FALSE = node("Greater", "m half", "b"), node("LessOrEqual", "m half", "b")
ADDED = [node("Sub", "one m", "n"), node("Mul", "n low", "mask"), node("Add", "s mask", "u")]
AT_RUN_TIME = {
    "chosen": [TRUTH, node("Where", "b s low", "t"), SOFTMAX],
    "chosen the other way": [FALSE, node("Where", "b low s", "t"), SOFTMAX],
    "infinite": [TRUTH, node("Where", "b s infinite", "t"), *DEFINED],
    "infinite the other way": [FALSE, node("Where", "b infinite s", "t"), *DEFINED],
    "added": [*ADDED, node("Identity", "u", "t"), SOFTMAX],
    "added with a constant": [*ADDED, node("Add", "u causal", "t"), SOFTMAX],
    "the lowest number": [TRUTH, node("Where", "b zero lowest", "n"), node("Add", "s n", "t"), SOFTMAX],
    "infinity added": [TRUTH, node("Where", "b zero infinite", "n"), node("Add", "s n", "t"), *DEFINED],
    "infinity added the other way": [
        *(FALSE, node("Where", "b infinite zero", "n"), node("Add", "s n", "t"), *DEFINED)
    ],
    "chosen by a constant, then added": [
        *(node("Where", "lower s lowest", "u"), TRUTH, node("Where", "b zero lowest", "n")),
        *(node("Add", "u n", "t"), SOFTMAX),
    ],
    "chosen and added": [TRUTH, node("Where", "b s low", "u"), node("Add", "u m", "t"), SOFTMAX],
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", AT_RUN_TIME)
def test_masks_at_run_time(tmp_path, name, shape):
    inputs = {**SEQUENCE, "m": ("N", *SHAPES[shape])}
    nodes = [*SCORES, *AT_RUN_TIME[name], *VALUES]
    path = tmp_path / "model.onnx"
    (attention,) = compare(path, nodes, None, inputs, opset=20, marks=marks(*SHAPES[shape]))
    assert len(attention.sources) == 4


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("is_causal", [0, 1])
@pytest.mark.parametrize("of_truth", [False, True])
def test_masks_of_the_operator_at_run_time(tmp_path, of_truth, is_causal, shape):
    """By onnxruntime: the onnx package, 1.23, takes all queries of a mask of one row for the first one."""
    inputs = {**SEQUENCE, "m": ("N", *SHAPES[shape])}
    attention = node("Attention", f"q k v {'b' if of_truth else 'm'}", "y", is_causal=is_causal, **COUNTS)
    nodes = [*PROJECTIONS, *([TRUTH] if of_truth else []), attention]
    values = marks(*SHAPES[shape]) if of_truth else None
    (attention,) = compare(tmp_path / "model.onnx", nodes, None, inputs, 25, values, outputs_of_runtime)
    assert len(attention.sources) == 4
    assert attention.after == (0 if is_causal else UNLIMITED)


def test_choices_of_which_none_is_left_are_noted(tmp_path):
    inputs = {**SEQUENCE, "m": ("N", 1, 1, LENGTH)}
    nodes = [
        *SCORES,
        TRUTH,
        node("Where", "b s low", "u"),
        node("Where", "lower u low", "t"),
        SOFTMAX,
        *VALUES,
    ]
    save(tmp_path / "model.onnx", nodes, CONSTANTS, inputs=inputs, opset=20)
    with warnings.catch_warnings(record=True) as notes:
        warnings.simplefilter("always")
        load_model(tmp_path / "model.onnx", check=False)
    texts = {str(note.message) for note in notes if note.category is Note}
    assert texts == {
        "node 'node_t' (Where): where none of several masks leaves anything to see, other means are computed"
    }


def test_a_row_that_finite_numbers_fill_gets_the_mean(tmp_path):
    """Every score of it is replaced by the same number, other than one that is added to it."""
    nodes = [*SCORES, node("Where", "mask s low", "t"), SOFTMAX, *VALUES]
    assert not compare(tmp_path / "model.onnx", nodes, {"mask": WITH_EMPTY_ROW})


def test_numbers_that_are_not_low_enough_are_added(tmp_path):
    causal = np.where(LOWER, 0, -1e4).astype(np.float32)
    nodes = [*SCORES, node("Add", "s mask", "t"), SOFTMAX, *VALUES]
    (attention,) = compare(tmp_path / "model.onnx", nodes, {"mask": causal})
    assert attention.after == UNLIMITED and attention.bias.min() == -1e4


@pytest.mark.parametrize("shape", [(SAMPLES, LENGTH), (SAMPLES, LENGTH, LENGTH)])
def test_a_mask_of_fewer_axes_would_meet_other_axes_than_samples(tmp_path, shape):
    nodes = [*SCORES, node("Add", "s m", "t"), SOFTMAX, *VALUES]
    path = save(tmp_path / "model.onnx", nodes, CONSTANTS, inputs={**SEQUENCE, "m": ("N", *shape[1:])})
    with pytest.raises(UserError, match="expected as many axes"):
        load_model(path, check=False)


def test_pieces_that_are_no_attention_run(tmp_path):
    """Scores of three axes, position by position: kernels know two."""
    per_head = np.array([0.5, 2], np.float32).reshape(1, HEADS, 1, 1)
    nodes = [*SCORES, node("Mul", "s per_head", "t"), SOFTMAX, *VALUES]
    save(tmp_path / "model.onnx", nodes, {**CONSTANTS, "per_head": per_head}, inputs=SEQUENCE)
    x = RNG.standard_normal((SAMPLES, LENGTH, WIDTH)).astype(np.float32)
    network = load_model(tmp_path / "model.onnx")
    found = Session(split_network(network, 2)).run(x)
    expected = by_reference(tmp_path / "model.onnx", {"x": x})[0]
    np.testing.assert_allclose(found.reshape(expected.shape), expected, rtol=0, atol=1e-5)


OUTPUTS = {
    "both orders": ("r t", [node("Relu", "a", "r"), node("Transpose", "r", "t", perm=[0, 2, 1])]),
    "the other order first": ("t r", [node("Relu", "a", "r"), node("Transpose", "r", "t", perm=[0, 2, 1])]),
    "an input": ("r u", [node("Relu", "a", "r"), node("Identity", "x", "u")]),
    "an input in another order": (
        "r u",
        [node("Relu", "a", "r"), node("Transpose", "x", "u", perm=[0, 2, 1])],
    ),
    "an input in both orders": (
        "u v r",
        [node("Relu", "a", "r"), node("Transpose", "x", "u", perm=[0, 2, 1]), node("Identity", "x", "v")],
    ),
}


@pytest.mark.parametrize("layer", ["Conv", "MatMul"])
@pytest.mark.parametrize("name", OUTPUTS)
def test_outputs_lie_as_the_graph_says(tmp_path, name, layer):
    """Neurons are channels of a convolution, and the features of a sequence."""
    outputs, nodes = OUTPUTS[name]
    K = RNG.standard_normal((4, 3, 3)).astype(np.float32)
    W = RNG.standard_normal((3, 4)).astype(np.float32)
    first = node("Conv", "x K", "a", pads=[1, 1]) if layer == "Conv" else node("MatMul", "x W", "a")
    sizes = ("N", 3, 5) if layer == "Conv" else ("N", 5, 3)
    path = save(
        tmp_path / "model.onnx",
        [first, *nodes],
        {"K": K, "W": W},
        inputs={"x": sizes},
        outputs=outputs.split(),
    )
    x = RNG.standard_normal((SAMPLES, *sizes[1:])).astype(np.float32)
    expected = outputs_of_runtime(path, {"x": x})
    found = Session(split_network(load_model(path), 2)).run(x)
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours.reshape(theirs.shape), theirs, rtol=0, atol=1e-5)
