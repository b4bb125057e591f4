"""Operators of ONNX Runtime's transformer optimiser, against onnxruntime."""

import re

import numpy as np
import pytest

from repurpose_hpc.errors import UserError
from repurpose_hpc.model.forward import forward
from repurpose_hpc.model.importers.load import load_model
from repurpose_hpc.model.operations import UNLIMITED, Attention

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from helpers.onnx_models import node, outputs_of_runtime, save  # noqa: E402

SAMPLES, HEADS, LENGTH, FEATURES = 3, 4, 5, 16
WIDTH = HEADS * FEATURES
RNG = np.random.default_rng(0)
SEQUENCE = {"x": ("N", LENGTH, WIDTH)}


def normal(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def fused(operator, inputs, outputs, **attributes):
    """A node of the domain com.microsoft."""
    return node(operator, inputs, outputs, domain="com.microsoft", **attributes)


CONSTANTS = {
    "W": normal(WIDTH, WIDTH) / 8,
    "W_qkv": normal(WIDTH, 3 * WIDTH) / 8,
    "b_qkv": normal(3 * WIDTH),
    "W_q": normal(WIDTH, WIDTH) / 4,
    "W_k": normal(WIDTH, WIDTH) / 4,
    "W_v": normal(WIDTH, WIDTH) / 4,
    "W_group": normal(WIDTH, WIDTH // 2) / 4,
    "W_group_v": normal(WIDTH, WIDTH // 2) / 4,
    "W_narrow": normal(WIDTH, WIDTH + WIDTH + WIDTH // 2) / 8,
    "b_narrow": normal(WIDTH + WIDTH + WIDTH // 2),
    **{"gamma": normal(WIDTH), "beta": normal(WIDTH), "b": normal(WIDTH)},
    **{"row": normal(1, LENGTH, WIDTH), "table": normal(LENGTH, WIDTH)},
    "bias": normal(1, HEADS, LENGTH, LENGTH),
    "bias_of_all": normal(1, 1, LENGTH, LENGTH),
    "last": np.int32([LENGTH - 1] * SAMPLES),
    "length": np.int32([LENGTH]),
    "zero": np.int64([0]),
    "counted": np.tile(np.arange(LENGTH), (SAMPLES, 1)),
    "two": np.int64([2]),
}
ANGLES = np.arange(2 * LENGTH)[:, None] * 100.0 ** (-np.arange(FEATURES // 2) / FEATURES)
CONSTANTS |= {"cos": np.cos(ANGLES).astype(np.float32), "sin": np.sin(ANGLES).astype(np.float32)}
CONSTANTS |= {"cos_part": CONSTANTS["cos"][:, :4], "sin_part": CONSTANTS["sin"][:, :4]}
DENSE = node("MatMul", "x W", "h")
SAME = np.random.default_rng(1).standard_normal((SAMPLES, LENGTH, WIDTH)).astype(np.float32)


def compare(path, nodes, inputs=SEQUENCE, outputs=("y",), opset=20, constants=None, **feeds):
    """Compare an imported model with onnxruntime; returns its attentions.

    Args:
        path: of the file.
        nodes: from the inputs to the outputs.
        inputs, outputs, opset, constants: see ``save``; constants beside those of all tests.
        feeds: values of inputs; others are random.
    """
    save(path, nodes, {**CONSTANTS, **(constants or {})}, inputs=inputs, outputs=outputs, opset=opset)
    rng = np.random.default_rng(1)
    feeds = {
        name: feeds[name].astype(np.float32)
        if name in feeds
        else rng.standard_normal((SAMPLES, *shape[1:])).astype(np.float32)
        for name, shape in inputs.items()
    }
    network = load_model(path, check=False)
    result = forward(network, np.hstack([x.reshape(SAMPLES, -1) for x in feeds.values()]), np.float32)
    expected = np.hstack([y.reshape(SAMPLES, -1) for y in outputs_of_runtime(path, feeds)])
    assert result.shape == expected.shape and expected.any()
    np.testing.assert_allclose(result, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    return [op for op in network.operations if isinstance(op, Attention)]


POINTWISE = {
    "Gelu": [fused("Gelu", "h", "y")],
    "BiasGelu": [fused("BiasGelu", "h b", "y")],
    "FastGelu": [fused("FastGelu", "h", "y")],
    "FastGelu with a bias": [fused("FastGelu", "h b", "y")],
    "QuickGelu": [fused("QuickGelu", "h", "y")],
    "QuickGelu of a slope": [fused("QuickGelu", "h", "y", alpha=0.7)],
    "SkipLayerNormalization": [fused("SkipLayerNormalization", "h x gamma", "y")],
    "with a shift": [fused("SkipLayerNormalization", "h x gamma beta", "y", epsilon=0.3)],
    "with a bias": [fused("SkipLayerNormalization", "h x gamma - b", "y")],
    "with all": [fused("SkipLayerNormalization", "h x gamma beta b", "y")],
    "of a row": [fused("SkipLayerNormalization", "h row gamma beta", "y")],
    "of a table": [fused("SkipLayerNormalization", "h table gamma beta", "y")],
    "SkipSimplifiedLayerNormalization": [fused("SkipSimplifiedLayerNormalization", "h x gamma", "y")],
    "simplified with a bias": [fused("SkipSimplifiedLayerNormalization", "h x gamma b", "y", epsilon=0.3)],
    "SimplifiedLayerNormalization": [node("SimplifiedLayerNormalization", "h gamma", "y")],
    "with an epsilon": [node("SimplifiedLayerNormalization", "h gamma", "y", epsilon=0.3, axis=2)],
}


@pytest.mark.parametrize("opset", [12, 20])
@pytest.mark.parametrize("name", POINTWISE)
def test_pointwise(tmp_path, name, opset):
    compare(tmp_path / "model.onnx", [DENSE, *POINTWISE[name]], opset=opset)


@pytest.mark.parametrize("operator", ["SkipLayerNormalization", "SkipSimplifiedLayerNormalization"])
def test_small_values_and_the_usual_epsilon(tmp_path, operator):
    """1e-12, other than ONNX's own."""
    nodes = [DENSE, fused(operator, "h x gamma", "y")]
    compare(tmp_path / "model.onnx", nodes, x=1e-4 * SAME)


@pytest.mark.parametrize("operator", ["SkipLayerNormalization", "SkipSimplifiedLayerNormalization"])
def test_sums_as_outputs(tmp_path, operator):
    bias = "- b" if operator == "SkipLayerNormalization" else "b"
    nodes = [DENSE, fused(operator, f"h x gamma {bias}", "y - - total")]
    compare(tmp_path / "model.onnx", nodes, outputs=("y", "total"))


@pytest.mark.parametrize("alpha", [1.0, 0.25])
@pytest.mark.parametrize("transposed", ["", "A", "B", "AB"])
def test_products(tmp_path, transposed, alpha):
    """Of a matrix on the right, and of queries and keys."""
    attributes = {f"trans{side}": 1 for side in transposed} | {"alpha": alpha}
    inputs = {"x": ("N", WIDTH, LENGTH) if "A" in transposed else ("N", LENGTH, WIDTH)}
    nodes = [fused("FusedMatMul", "x W", "y", **attributes)]
    compare(tmp_path / "model.onnx", nodes, inputs)


def test_a_product_of_queries_and_keys(tmp_path):
    nodes = [node("MatMul", "x W_q", "q"), node("MatMul", "x W_k", "k"), node("MatMul", "x W_v", "v")]
    nodes += [fused("FusedMatMul", "q k", "s", transB=1, alpha=0.3), node("Softmax", "s", "P", axis=-1)]
    nodes += [node("MatMul", "P v", "y")]
    (attention,) = compare(tmp_path / "model.onnx", nodes)
    assert attention.scale == pytest.approx(0.3)


ROTATIONS = {
    "three axes": ("h", "cos sin", {}),
    "three axes and a number": ("h", "cos sin", {"num_heads": HEADS, "rotary_embedding_dim": FEATURES}),
    "four axes": ("H", "cos sin", {}),
    "a part of each head": ("h", "cos_part sin_part", {"num_heads": HEADS, "rotary_embedding_dim": 8}),
    "a part of each head, four axes": (
        "H",
        "cos_part sin_part",
        {"num_heads": HEADS, "rotary_embedding_dim": 8},
    ),
}
BY_HEAD = [node("Reshape", "h split", "h4"), node("Transpose", "h4", "H", perm=[0, 2, 1, 3])]


@pytest.mark.parametrize("positions", ["zero", "two", "each"])
@pytest.mark.parametrize("interleaved", [0, 1])
@pytest.mark.parametrize("name", ROTATIONS)
def test_rotations(tmp_path, name, interleaved, positions):
    source, tables, attributes = ROTATIONS[name]
    nodes = [DENSE, *BY_HEAD]
    nodes += [
        fused("RotaryEmbedding", f"{source} {positions} {tables}", "y", interleaved=interleaved, **attributes)
    ]
    constants = {"split": np.array([0, 0, HEADS, FEATURES])}
    constants["each"] = np.tile([4, 0, 1, 1, 7], (SAMPLES, 1))
    compare(tmp_path / "model.onnx", nodes, constants=constants)


@pytest.mark.parametrize("interleaved", [0, 1])
@pytest.mark.parametrize("tables", ["cos sin", "cos_part sin_part"])
@pytest.mark.parametrize("source", ["h", "H"])
def test_rotations_of_the_operator(tmp_path, source, tables, interleaved):
    """ONNX's own, of opset 23, with positions for each sample."""
    attributes = {"interleaved": interleaved, "num_heads": HEADS}
    attributes["rotary_embedding_dim"] = 8 if "part" in tables else 0
    nodes = [node("Shape", "x", "sizes"), node("Slice", "sizes zero one", "samples")]
    nodes += [node("Concat", "samples length_64", "all", axis=0), node("Expand", "each all", "positions")]
    nodes += [DENSE, *BY_HEAD, node("RotaryEmbedding", f"{source} {tables} positions", "r", **attributes)]
    nodes += [node("Relu", "r", "y")]
    constants = {"split": np.array([0, 0, HEADS, FEATURES]), "each": np.array([[4, 0, 1, 1, 7]])}
    constants |= {"one": np.array([1]), "length_64": np.array([LENGTH])}
    compare(tmp_path / "model.onnx", nodes, opset=23, constants=constants)


MASK = {"m": ("N", LENGTH)}
PAIRS = {"m": ("N", LENGTH, LENGTH)}
MARKS = np.random.default_rng(2).random((SAMPLES, LENGTH, LENGTH)) < 0.6
MARKS[0, -1] = False  # sees nothing
TO_INTEGERS = node("Cast", "m", "mask", to=6)
LENGTHS = [node("Cast", "m", "marks", to=6), node("ReduceSum", "marks one", "mask", keepdims=0)]
# Inputs behind weights and bias, attributes, further inputs of the model, their values, nodes before.
PACKED = {
    "plain": ("", {}, {}, {}, []),
    "causal": ("", {"unidirectional": 1}, {}, {}, []),
    "scale": ("", {"scale": 0.3}, {}, {}, []),
    "mask of keys": ("mask", {}, MASK, {"m": MARKS[:, -1]}, [TO_INTEGERS]),
    "mask of keys, causal": ("mask", {"unidirectional": 1}, MASK, {"m": MARKS[:, -1]}, [TO_INTEGERS]),
    "mask of pairs": ("mask", {}, PAIRS, {"m": MARKS}, [TO_INTEGERS]),
    "mask of pairs, causal": ("mask", {"unidirectional": 1}, PAIRS, {"m": MARKS}, [TO_INTEGERS]),
    "another number": ("mask", {"mask_filter_value": -2.0}, MASK, {"m": MARKS[:, -1]}, [TO_INTEGERS]),
    "numbers of keys": ("mask", {}, MASK, {"m": np.tri(SAMPLES, LENGTH)}, LENGTHS),
    "constant numbers of keys": ("three", {}, {}, {}, []),
    "constant mask": ("constant_mask", {}, {}, {}, []),
    "bias": ("- - bias", {}, {}, {}, []),
    "bias of all heads": ("- - bias_of_all", {"unidirectional": 1}, {}, {}, []),
    "bias of the input": ("- - a", {}, {"a": ("N", HEADS, LENGTH, LENGTH)}, {}, []),
    "mask and bias": ("mask - bias", {}, MASK, {"m": MARKS[:, 0]}, [TO_INTEGERS]),
}
OF_MASKS = {"one": np.array([1]), "three": np.int32([3] * SAMPLES)}
OF_MASKS["constant_mask"] = np.int32(np.tile([1, 1, 0, 1, 0], (SAMPLES, 1)))


@pytest.mark.parametrize("name", PACKED)
def test_attention(tmp_path, name):
    further, attributes, inputs, feeds, nodes = PACKED[name]
    nodes = [*nodes, fused("Attention", f"x W_qkv b_qkv {further}", "y", num_heads=HEADS, **attributes)]
    path = tmp_path / "model.onnx"
    (attention,) = compare(path, nodes, {**SEQUENCE, **inputs}, constants=OF_MASKS, **feeds)
    assert (attention.heads, attention.groups) == (HEADS, HEADS)
    assert attention.scale == pytest.approx(attributes.get("scale", FEATURES**-0.5))
    assert attention.after == (0 if "unidirectional" in attributes else UNLIMITED)


@pytest.mark.parametrize("bias", ["", "b_narrow"])
def test_attention_of_narrow_values(tmp_path, bias):
    widths = [WIDTH, WIDTH, WIDTH // 2]
    nodes = [fused("Attention", f"x W_narrow {bias}", "y", num_heads=HEADS, qkv_hidden_sizes=widths)]
    assert len(compare(tmp_path / "model.onnx", nodes)) == 1


PROJECTIONS = [node("MatMul", f"x W_{each}", each) for each in "qkv"]


@pytest.mark.parametrize("bias", ["-", "b_qkv"])
@pytest.mark.parametrize("name", PACKED)
def test_multi_head_attention(tmp_path, name, bias):
    further, attributes, inputs, feeds, nodes = PACKED[name]
    further = further.replace("- - ", "- ").replace("mask - bias", "mask bias")
    nodes = [*PROJECTIONS, *nodes]
    nodes += [fused("MultiHeadAttention", f"q k v {bias} {further}", "y", num_heads=HEADS, **attributes)]
    path = tmp_path / "model.onnx"
    (attention,) = compare(path, nodes, {**SEQUENCE, **inputs}, constants=OF_MASKS, **feeds)
    assert attention.after == (0 if "unidirectional" in attributes else UNLIMITED)


def test_attention_over_another_sequence(tmp_path):
    """Of other length, its keys and values by head; causal, onnxruntime hides nothing of the last query."""
    inputs = {**SEQUENCE, "z": ("N", LENGTH + 2, WIDTH)}
    nodes = [node("MatMul", "x W_q", "q")]
    for each in "kv":
        nodes += [node("MatMul", f"z W_{each}", each), node("Reshape", f"{each} split", f"{each}4")]
        nodes += [node("Transpose", f"{each}4", each.upper(), perm=[0, 2, 1, 3])]
    path, constants = tmp_path / "model.onnx", {"split": np.array([0, 0, HEADS, FEATURES])}
    plain = fused("MultiHeadAttention", "q K V", "y", num_heads=HEADS)
    assert len(compare(path, [*nodes, plain], inputs, constants=constants)) == 1
    causal = fused("MultiHeadAttention", "q K V", "h", num_heads=HEADS, unidirectional=1)
    nodes += [causal, node("MatMul", "h W", "y")]
    save(path, nodes, CONSTANTS | constants, inputs=inputs)
    with pytest.raises(UserError, match="unidirectional is 1, expected 0"):
        load_model(path)


GROUPED = {
    "plain": ("", {}),
    "scale": ("", {"scale": 0.3}),
    "soft cap": ("", {"softcap": 0.5}),
    "window": ("", {"local_window_size": 2}),
    "window of one": ("", {"local_window_size": 1}),
    "rotary": ("cos sin", {"do_rotary": 1}),
    "rotary of neighbours": ("cos sin", {"do_rotary": 1, "rotary_interleaved": 1}),
    "rotary of a part": ("cos sin", {"do_rotary": 1, "num_heads": HEADS // 2, "kv_num_heads": HEADS // 4}),
    "positions": ("cos sin counted", {"do_rotary": 1}),
    "bias": ("- - - bias", {}),
    "not causal": ("", {"causal": 0}),
}
GROUPS = [node("MatMul", "x W_q", "q"), node("MatMul", "x W_group", "k"), node("MatMul", "x W_group_v", "v")]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", GROUPED)
def test_group_query_attention(tmp_path, name, packed):
    further, attributes = GROUPED[name]
    parts, nodes = "q k v", GROUPS
    if packed:
        parts, nodes = "qkv - -", [*GROUPS, node("Concat", "q k v", "qkv", axis=-1)]
    attributes = {"num_heads": HEADS, "kv_num_heads": HEADS // 2} | attributes
    inputs = f"{parts} - - last length {further}"
    nodes = [*nodes, fused("GroupQueryAttention", inputs, "y", **attributes)]
    (attention,) = compare(tmp_path / "model.onnx", nodes)
    assert [attention.heads, attention.groups] == [attributes["num_heads"], attributes["kv_num_heads"]]
    assert attention.softcap == attributes.get("softcap", 0)
    if name != "bias":
        assert attention.after == (0 if attributes.get("causal", 1) else UNLIMITED)


@pytest.mark.parametrize("keepdims", [0, 1])
@pytest.mark.parametrize("bias", ["", "- - - bias"])
def test_sequences_of_several_lengths(tmp_path, bias, keepdims):
    """No key behind the last one is seen; ONNX Runtime's model builder has the numbers on an axis more."""
    counts = {"num_heads": HEADS, "kv_num_heads": HEADS // 2}
    nodes = [*GROUPS, *LENGTHS[:1], node("ReduceSum", "marks one", "last_key", keepdims=keepdims)]
    nodes += [fused("GroupQueryAttention", f"q k v - - last_key length {bias}", "y", **counts)]
    feeds = {"m": np.tri(SAMPLES, LENGTH)}
    assert (
        len(compare(tmp_path / "model.onnx", nodes, {**SEQUENCE, **MASK}, constants=OF_MASKS, **feeds)) == 1
    )


def test_keys_and_values_as_outputs(tmp_path):
    counts = {"num_heads": HEADS, "kv_num_heads": HEADS // 2, "do_rotary": 1}
    nodes = [*GROUPS, fused("GroupQueryAttention", "q k v - - last length cos sin", "y K V", **counts)]
    assert len(compare(tmp_path / "model.onnx", nodes, outputs=("y", "K", "V"))) == 1


TABLES = {"words": normal(9, WIDTH), "places": normal(LENGTH + 2, WIDTH), "kinds": normal(2, WIDTH)}
INTEGERS = {
    "ids": RNG.integers(0, 9, (SAMPLES, LENGTH)),
    "types": RNG.integers(0, 2, (SAMPLES, LENGTH)),
    "at": RNG.integers(0, LENGTH + 2, (SAMPLES, LENGTH)),
    "m": np.tri(SAMPLES, LENGTH),
}
# Inputs of the model, those of the node, its outputs and attributes.
EMBEDDINGS = {
    "words": ("ids", "_ids - words places - gamma beta", "e counts", {"epsilon": 0.1}),
    "kinds": ("ids types", "_ids _types words places kinds gamma beta", "e counts", {}),
    "positions": ("ids at", "_ids - words places - gamma beta - _at", "e counts", {}),
    "sum": ("ids types", "_ids _types words places kinds gamma beta", "e counts y", {}),
    "mask": ("ids m", "_ids - words places - gamma beta _m", "e counts", {}),
}


@pytest.mark.parametrize("opset", [11, 17])
@pytest.mark.parametrize("name", EMBEDDINGS)
def test_embeddings(tmp_path, name, opset):
    names, inputs, outputs, attributes = EMBEDDINGS[name]
    nodes = [node("Cast", each, f"_{each}", to=6) for each in names.split()]
    nodes += [fused("EmbedLayerNormalization", inputs, outputs, **attributes)]
    mask = "counts" if name == "mask" else ""
    nodes += [fused("Attention", f"e W_qkv b_qkv {mask}", "z", num_heads=HEADS)]
    feeds = {each: INTEGERS[each] for each in names.split()}
    shapes, made = dict.fromkeys(feeds, ("N", LENGTH)), ("z", "y") if name == "sum" else ("z",)
    compare(tmp_path / "model.onnx", nodes, shapes, made, opset, TABLES, **feeds)


@pytest.mark.parametrize("four_axes", [False, True])
def test_rotations_by_positions_of_the_input(tmp_path, four_axes):
    """Rows are looked up before the network, once for queries and keys."""
    nodes = [*PROJECTIONS]
    for each in "qk":
        source = each
        if four_axes:
            source = each.upper()
            nodes += [node("Reshape", f"{each} split", f"{each}4")]
            nodes += [node("Transpose", f"{each}4", source, perm=[0, 2, 1, 3])]
        nodes += [fused("RotaryEmbedding", f"{source} at cos sin", f"turned_{each}")]
    nodes += [node("Add", "turned_q turned_k", "y")]
    path, constants = tmp_path / "model.onnx", {"split": np.array([0, 0, HEADS, FEATURES])}
    save(path, nodes, CONSTANTS | constants, inputs={**SEQUENCE, "at": ("N", LENGTH)})
    model = onnx.load(path)
    model.graph.input[1].type.tensor_type.elem_type = onnx.TensorProto.INT64
    onnx.save(model, path)
    network = load_model(path, check=False)
    assert network.ends.front is not None and len(network.ends.front.outputs) == 3
    feeds = {"x": SAME, "at": INTEGERS["at"]}
    (expected,) = outputs_of_runtime(path, feeds)
    result = forward(network, np.hstack([x.reshape(SAMPLES, -1) for x in feeds.values()]), np.float32)
    np.testing.assert_allclose(result, expected.reshape(SAMPLES, -1), rtol=0, atol=1e-5)


CACHE = {"K0": normal(SAMPLES, HEADS, 2, FEATURES), "past": normal(2, SAMPLES, HEADS, 2, FEATURES)}
GQA = {"num_heads": HEADS, "kv_num_heads": HEADS // 2}
REFUSED = {
    "keys of earlier positions": ("MultiHeadAttention", "q k v - - - K0 K0", "y", {"num_heads": HEADS}),
    "a cache": ("Attention", "x W_qkv b_qkv - past", "y present", {"num_heads": HEADS}),
    "keys as an output": ("MultiHeadAttention", "q k v", "y K V", {"num_heads": HEADS}),
    "packed": ("MultiHeadAttention", "packed", "y", {"num_heads": HEADS}),
    "rotary": ("Attention", "x W_qkv b_qkv", "y", {"num_heads": HEADS, "do_rotary": 1}),
    "starts and ends": ("Attention", "x W_qkv b_qkv ends", "y", {"num_heads": HEADS}),
    "no number of heads": ("Attention", "x W_qkv b_qkv", "y", {}),
    "no head": ("MultiHeadAttention", "q k v", "y", {"num_heads": 0}),
    "other positions": ("GroupQueryAttention", "q k v - - last length cos sin later", "y", GQA),
    "sinks": ("GroupQueryAttention", "q k v - - last length - - - - b", "y", GQA),
    "norms of queries": ("GroupQueryAttention", f"q k v - - last length {'- ' * 7} b", "y", GQA),
    "smooth weights": ("GroupQueryAttention", "q k v - - last length", "y", {**GQA, "smooth_softmax": 1}),
    "a longer sequence": ("GroupQueryAttention", "q k v - - last two", "y", GQA),
    "no table": ("GroupQueryAttention", "q k v - - last length", "y", {**GQA, "do_rotary": 1}),
    "means": ("SkipLayerNormalization", "q x gamma", "y mean", {}),
    "text": ("SkipLayerNormalization", "q x gamma", "y", {"epsilon": "small"}),
    "transposed samples": ("FusedMatMul", "q W", "y", {"transBatchA": 1}),
    "packed batches": ("RotaryEmbedding", "q zero cos sin", "y", {"is_packed_batching": 1}),
    "another width": ("RotaryEmbedding", "q zero cos sin", "y", {"num_heads": 4, "rotary_embedding_dim": 8}),
    "far positions": ("RotaryEmbedding", "q far cos sin", "y", {}),
    "computed positions": ("RotaryEmbedding", "q computed cos sin", "y", {}),
    "another operator": ("PackedAttention", "x W_qkv b_qkv last last", "y", {"num_heads": HEADS}),
}
REASONS = {
    "keys of earlier positions": "without a cache",
    "a cache": "without a cache",
    "keys as an output": "gives keys and values, or weights, as well",
    "packed": "not packed",
    "rotary": "do_rotary is 1",
    "starts and ends": "differs from sample to sample",
    "no number of heads": "attributes do not fit: 'num_heads'",
    "no head": "no 0 heads",
    "other positions": "has other positions than 0 to 4",
    "sinks": "has sinks of heads",
    "norms of queries": "has norms of queries",
    "smooth weights": "smooth_softmax is 1",
    "a longer sequence": "is 2, expected 5",
    "no table": "is needed",
    "means": "gives mean or divisor as well",
    "text": "attribute epsilon is b'small', expected numbers",
    "transposed samples": "transBatchA is 1",
    "packed batches": "is_packed_batching is 1",
    "another width": "rotary_embedding_dim is 8, expected 16",
    "far positions": "positions 100 to 104, its table 10 rows",
    "computed positions": "is computed from the input",
    "another operator": "operator com.microsoft.PackedAttention is not supported",
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(tmp_path, name):
    operator, inputs, outputs, attributes = REFUSED[name]
    nodes = [*PROJECTIONS, node("Reshape", "q of_parts", "packed"), node("ReduceMax", "q all", "computed")]
    nodes += [fused(operator, inputs, outputs, **attributes), node("MatMul", "y W", "z")]
    constants = {**CONSTANTS, **CACHE, "ends": np.int32([LENGTH, 0]), "far": np.int64([100])}
    constants["later"] = CONSTANTS["counted"] + 1
    constants |= {"of_parts": np.array([0, 0, HEADS, 1, FEATURES]), "all": np.array([2])}
    path = save(tmp_path / "model.onnx", nodes, constants, inputs=SEQUENCE, outputs=("z",))
    with pytest.raises(UserError, match=re.escape(REASONS[name])) as error:
        load_model(path)
    assert f"com.microsoft.{operator}" in str(error.value)


def test_arrays_in_other_files(tmp_path):
    """An operator of the runtime in ONNX's own domain, and what the checker says of other nodes."""
    path, nodes = tmp_path / "model.onnx", [DENSE, *POINTWISE["SimplifiedLayerNormalization"]]
    compare(path, nodes)
    before = load_model(path)
    onnx.save(onnx.load(path), path, save_as_external_data=True, location="data", size_threshold=0)
    after = load_model(path)
    x = SAME.reshape(SAMPLES, -1)
    np.testing.assert_array_equal(forward(after, x), forward(before, x))
    nodes = [node("SimplifiedLayerNormalization", "x gamma", "s"), node("Nothing", "s", "y")]
    save(path, nodes, CONSTANTS, inputs=SEQUENCE)
    with pytest.raises(UserError, match="No Op registered for Nothing"):
        load_model(path)
