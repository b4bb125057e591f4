"""Small transformers as ONNX graphs for sequences of any length, written with ONNX's own operators."""

import numpy as np
from onnx import TensorProto, helper, numpy_helper

VOCABULARY, WIDTH, HEADS, SIZE, LONGEST = 30, 12, 3, 4, 45
PADDING = 1


class Graph:
    """Nodes and constants of a graph; inputs are (N, S), integers."""

    def __init__(self, seed=0):
        self.nodes, self.constants = [], []
        self.rng = np.random.default_rng(seed)

    def add(self, operator, *inputs, output="", **attributes):
        """A node with one output; arrays among its inputs are constants."""
        names = [name if isinstance(name, str) else self.constant(name) for name in inputs]
        output = output or f"{operator.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, names, [output], **attributes))
        return output

    def constant(self, array):
        name = f"constant{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def weights(self, *shape):
        """Random numbers."""
        return (self.rng.standard_normal(shape) / np.sqrt(shape[0])).astype(np.float32)

    def length(self, ids="input_ids"):
        """S, a number."""
        return self.add("Gather", self.add("Shape", ids), np.array(1))

    def positions(self):
        """0 to S - 1, (S,)."""
        return self.add("Range", np.array(0), self.length(), np.array(1))

    def model(self, inputs, outputs, length=None, opset=17):
        ids = [
            helper.make_tensor_value_info(name, TensorProto.INT64, ["N", length or "S"]) for name in inputs
        ]
        made = [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()
        ]
        graph = helper.make_graph(self.nodes, "tokens", ids, made, self.constants)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def normalised(graph, x):
    return graph.add("LayerNormalization", x, 1 + graph.weights(WIDTH), graph.weights(WIDTH), epsilon=1e-5)


def turned(graph, x):
    """(N, H, S, d) turned by position, a quarter of the head as it is, pairs of halves."""
    angles = graph.add(
        "Mul",
        graph.add("Unsqueeze", graph.add("Cast", graph.positions(), to=1), np.array([1])),
        np.array([[1.0]], np.float32),
    )
    cos, sin = (graph.add(function, angles) for function in ("Cos", "Sin"))
    first, second, rest = (
        graph.add("Slice", x, np.array([start]), np.array([end]), np.array([3]))
        for start, end in ((0, 1), (1, 2), (2, SIZE))
    )
    left = graph.add("Sub", graph.add("Mul", first, cos), graph.add("Mul", second, sin))
    right = graph.add("Add", graph.add("Mul", second, cos), graph.add("Mul", first, sin))
    return graph.add("Concat", left, right, rest, axis=3)


def masked(graph, scores, mask):
    """Scores with one of several masks."""
    if mask == "none":
        return scores
    if mask == "padding":
        truth = graph.add("Cast", "attention_mask", to=1)
        missing = graph.add("Sub", np.array(1, np.float32), truth)
        low = graph.add("Mul", missing, np.array(np.finfo(np.float32).min))
        return graph.add("Add", scores, graph.add("Unsqueeze", low, np.array([1, 2])))
    places = graph.positions()
    rows, columns = (graph.add("Unsqueeze", places, np.array([axis])) for axis in (1, 0))
    distance = graph.add("Sub", columns, rows)
    if mask == "alibi":
        slopes = graph.constant(np.array([0.5, 0.25, 0.125], np.float32).reshape(HEADS, 1, 1))
        scores = graph.add("Add", scores, graph.add("Mul", graph.add("Cast", distance, to=1), slopes))
    seen = graph.add("LessOrEqual", distance, np.array(0))
    if mask == "window":
        seen = graph.add("And", seen, graph.add("Greater", distance, np.array(-20)))
    if mask == "strided":
        seen = graph.add("Or", graph.add("Equal", graph.add("Mod", distance, np.array(2)), np.array(0)), seen)
    return graph.add("Where", seen, scores, np.array(-np.inf, np.float32))


def block(graph, stream, mask, is_rotary, depends_on_length=False):
    """Attention and a perceptron."""
    x, heads = normalised(graph, stream), []
    for _ in range(3):
        y = graph.add("MatMul", x, graph.weights(WIDTH, WIDTH))
        y = graph.add("Reshape", y, np.array([0, 0, HEADS, SIZE]))
        heads.append(graph.add("Transpose", y, perm=[0, 2, 1, 3]))
    q, k, v = heads
    if is_rotary:
        q, k = turned(graph, q), turned(graph, k)
    scores = graph.add("MatMul", q, graph.add("Transpose", k, perm=[0, 1, 3, 2]))
    scores = graph.add("Mul", scores, np.array(SIZE**-0.5, np.float32))
    if depends_on_length:
        scores = graph.add("Mul", scores, graph.add("Log", graph.add("Cast", graph.length(), to=1)))
    P = graph.add("Softmax", masked(graph, scores, mask), axis=-1)
    y = graph.add("Transpose", graph.add("MatMul", P, v), perm=[0, 2, 1, 3])
    y = graph.add("Reshape", y, np.array([0, 0, WIDTH]))
    stream = graph.add("Add", stream, graph.add("MatMul", y, graph.weights(WIDTH, WIDTH)))
    y = graph.add("Relu", graph.add("MatMul", normalised(graph, stream), graph.weights(WIDTH, 20)))
    return graph.add("Add", stream, graph.add("MatMul", y, graph.weights(20, WIDTH)))


def placed(graph, stream, positions):
    """The stream with positions of one of several kinds."""
    if positions == "learned":
        table = graph.add("Gather", graph.weights(LONGEST, WIDTH), graph.positions())
    elif positions == "offset":  # as of families whose first rows stand for padding
        places = graph.add("Add", graph.positions(), np.array(2))
        table = graph.add("Gather", graph.weights(LONGEST + 2, WIDTH), places)
    elif positions == "counted":  # of ids that are no padding, as of RoBERTa
        padding = graph.constant(np.array(PADDING))
        counts = graph.add("Cast", graph.add("Not", graph.add("Equal", "input_ids", padding)), to=6)
        places = graph.add("Mul", graph.add("CumSum", counts, np.array(1, np.int32)), counts)
        places = graph.add("Add", graph.add("Cast", places, to=7), padding)
        table = graph.add("Gather", graph.weights(LONGEST + 1 + PADDING, WIDTH), places)
    elif positions == "ids":
        table = graph.add("Gather", graph.weights(LONGEST, WIDTH), "position_ids")
    elif positions == "sinusoidal":
        places = graph.add("Cast", graph.positions(), to=1)
        angles = graph.add("Mul", graph.add("Unsqueeze", places, np.array([1])), graph.weights(1, WIDTH // 2))
        table = graph.add("Concat", graph.add("Sin", angles), graph.add("Cos", angles), axis=1)
    elif positions == "factors":
        places = graph.add("Cast", graph.positions(), to=1)
        factors = graph.add("Add", graph.add("Unsqueeze", places, np.array([1])), np.array(1, np.float32))
        return graph.add("Mul", stream, factors)
    else:
        return stream
    return graph.add("Add", stream, table)


def sliced(graph, x):
    """A perceptron with as many neurons as there are tokens."""
    length = graph.length()
    first = graph.add("Slice", graph.weights(WIDTH, LONGEST), np.array([0]), length, np.array([1]))
    second = graph.add("Slice", graph.weights(LONGEST, WIDTH), np.array([0]), length, np.array([0]))
    return graph.add("MatMul", graph.add("Relu", graph.add("MatMul", x, first)), second)


def transformer(
    positions="learned",
    mask="causal",
    inputs=("input_ids",),
    pooled=False,
    length=None,
    is_sliced=False,
    tokens_first=False,
    **more,
):
    """Two blocks behind embeddings; logits for every token, and what is ``pooled`` as the first output.

    Args:
        positions: "learned", "offset", "counted", "ids", "sinusoidal", "rotary", "factors" or "none".
        mask: "causal", "window", "padding", "alibi", "strided" or "none".
        inputs: names.
        pooled: whether the mean over the tokens is an output as well; "only": it alone.
        length: of all sequences; None: any.
        is_sliced: whether a perceptron grows with the length.
        tokens_first: whether outputs have the tokens in front of the sequences.
        more: of a block.
    """
    graph = Graph()
    tokens = graph.add("Gather", graph.weights(VOCABULARY, WIDTH), inputs[0])
    if "token_type_ids" in inputs:
        tokens = graph.add("Add", tokens, graph.add("Gather", graph.weights(2, WIDTH), "token_type_ids"))
    stream = placed(graph, tokens, positions)
    for _ in range(2):
        stream = block(graph, stream, mask, positions == "rotary", **more)
    last = normalised(graph, sliced(graph, stream) if is_sliced else stream)
    if tokens_first:
        last = graph.add("Transpose", last, perm=[1, 0, 2])
    outputs = {}
    if pooled:
        mean = graph.add("ReduceMean", last, axes=[1], keepdims=0)
        outputs["vector"] = ["N", WIDTH]
        graph.add("MatMul", mean, graph.weights(WIDTH, WIDTH), output="vector")
    if pooled != "only":
        outputs["logits"] = ["N", length or "S", VOCABULARY]
        graph.add("MatMul", last, graph.weights(WIDTH, VOCABULARY), output="logits")
    return graph.model(inputs, outputs, length)
