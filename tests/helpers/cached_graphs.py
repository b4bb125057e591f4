"""Small decoders as ONNX graphs that take keys and values of earlier tokens, in all ways of writing it."""

import numpy as np
import onnx
from onnx import TensorProto, helper

from helpers.token_graphs import Graph

VOCABULARY, WIDTH, HEADS, GROUPS, SIZE, LAYERS = 30, 16, 4, 2, 16, 2
ROWS = 50  # of tables of cosines and sines
KINDS = ("pieces", "packed", "operator", "multi", "fused", "grouped")
UNTURNED = ("operator", "multi", "fused")  # of these the stream has positions
EPSILON = 1e-6


class Cached(Graph):
    """A graph whose inputs are ids, a mask and keys and values of earlier tokens."""

    def __init__(self, kind):
        super().__init__()
        self.kind, self.pasts, self.presents = kind, [], []

    def past(self, name, *sizes):
        """An input of earlier tokens."""
        self.pasts.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, sizes))
        return name

    def present(self, name, *sizes):
        """The name of an output for later tokens."""
        self.presents.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, sizes))
        return name

    def size(self, tensor, axis):
        return self.add("Gather", self.add("Shape", tensor), np.array(axis))

    def all_tokens(self):
        """How many there are with the earlier ones."""
        return self.size("attention_mask", 1)

    def heads_of(self, x, heads):
        return self.add("Transpose", self.add("Reshape", x, np.array([0, 0, heads, SIZE])), perm=[0, 2, 1, 3])


def root_mean_square(graph, x, size, operator="pieces"):
    """RMSNorm over the last axis."""
    scale = 1 + graph.weights(size)
    if operator != "pieces":
        return graph.add(operator, x, scale, epsilon=EPSILON, axis=-1)
    squares = graph.add("Pow", x, np.array(2, np.float32))
    squares = graph.add("ReduceMean", squares, np.array([-1]), keepdims=1)
    root = graph.add("Sqrt", graph.add("Add", squares, np.array(EPSILON, np.float32)))
    return graph.add("Mul", scale, graph.add("Mul", x, graph.add("Reciprocal", root)))


def tables():
    angles = np.arange(ROWS)[:, None] * 10.0 ** -np.arange(SIZE // 2)
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


def turned(graph, x):
    """(N, H, S, d) turned by positions that follow the earlier ones; pairs of halves."""
    last = graph.all_tokens()
    first = graph.add("Sub", last, graph.length())
    places = graph.add("Range", first, last, np.array(1))
    cos, sin = (graph.add("Gather", np.hstack([table, table]), places) for table in tables())
    first, second = (
        graph.add("Slice", x, np.array([half * SIZE // 2]), np.array([(half + 1) * SIZE // 2]), np.array([3]))
        for half in (0, 1)
    )
    swapped = graph.add("Concat", graph.add("Neg", second), first, axis=3)
    return graph.add("Add", graph.add("Mul", x, cos), graph.add("Mul", swapped, sin))


def weighted(graph, q, k, v):
    """Attention in pieces, of groups, over all tokens that are not later."""
    columns = graph.add("Range", np.array(0), graph.all_tokens(), np.array(1))
    first = graph.add("Sub", graph.all_tokens(), graph.length())
    rows = graph.add("Unsqueeze", graph.add("Add", first, graph.positions()), np.array([1]))
    seen = graph.add("LessOrEqual", graph.add("Unsqueeze", columns, np.array([0])), rows)
    k, v = (repeated(graph, each) for each in (k, v))
    scores = graph.add("MatMul", q, graph.add("Transpose", k, perm=[0, 1, 3, 2]))
    scores = graph.add("Mul", scores, np.array(SIZE**-0.5, np.float32))
    low = np.array(np.finfo(np.float32).min)
    P = graph.add("Softmax", graph.add("Where", seen, scores, low), axis=-1)
    return graph.add("MatMul", P, v)


def repeated(graph, x):
    """Heads of keys or values (N, G, T, d) for all heads of queries."""
    T = graph.add("Unsqueeze", graph.size(x, 2), np.array([0]))
    N = graph.add("Unsqueeze", graph.size(x, 0), np.array([0]))
    sizes = graph.add("Concat", N, np.array([GROUPS, HEADS // GROUPS]), T, np.array([SIZE]), axis=0)
    x = graph.add("Expand", graph.add("Unsqueeze", x, np.array([2])), sizes)
    sizes = graph.add("Concat", N, np.array([HEADS]), T, np.array([SIZE]), axis=0)
    return graph.add("Reshape", x, sizes)


def in_pieces(graph, layer, q, k, v):
    """Earlier keys and values in front of those of the tokens."""
    k, v = graph.heads_of(k, GROUPS), graph.heads_of(v, GROUPS)
    q, k = turned(graph, graph.heads_of(q, HEADS)), turned(graph, k)
    if graph.kind == "packed":
        past = graph.past(f"past_{layer}", 2, "N", GROUPS, "P", SIZE)
        earlier = [graph.add("Gather", past, np.array(place), axis=0) for place in (0, 1)]
        k, v = (graph.add("Concat", old, new, axis=2) for old, new in zip(earlier, (k, v), strict=True))
        both = [graph.add("Unsqueeze", each, np.array([0])) for each in (k, v)]
        graph.add(
            "Concat", *both, axis=0, output=graph.present(f"present_{layer}", 2, "N", GROUPS, "T", SIZE)
        )
    else:
        k, v = (
            graph.add(
                "Concat",
                graph.past(f"past_key_values.{layer}.{word}", "N", GROUPS, "P", SIZE),
                each,
                axis=2,
                output=graph.present(f"present.{layer}.{word}", "N", GROUPS, "T", SIZE),
            )
            for word, each in (("key", k), ("value", v))
        )
    y = graph.add("Transpose", weighted(graph, q, k, v), perm=[0, 2, 1, 3])
    return graph.add("Reshape", y, np.array([0, 0, HEADS * SIZE]))


def in_one_node(graph, layer, q, k, v):
    """An operator that appends keys and values itself."""
    groups = HEADS if graph.kind == "multi" else GROUPS
    pasts, presents = (
        [make(f"{name}.{layer}.{word}", "N", groups, tokens, SIZE) for word in ("key", "value")]
        for make, name, tokens in ((graph.past, "past_key_values", "P"), (graph.present, "present", "T"))
    )
    y = f"attention{layer}"
    if graph.kind == "operator":
        inputs, domain, operator = [q, k, v, "", *pasts], "", "Attention"
        attributes = {"q_num_heads": HEADS, "kv_num_heads": GROUPS, "is_causal": 1}
    elif graph.kind == "multi":
        inputs, domain, operator = [q, k, v, "", "", "", *pasts], "com.microsoft", "MultiHeadAttention"
        attributes = {"num_heads": HEADS, "unidirectional": 1}
    else:
        mask = "attention_mask"
        lengths = graph.add("ReduceSum", mask, np.array([1]), keepdims=1)
        last = graph.add("Cast", graph.add("Sub", lengths, np.array(1)), to=TensorProto.INT32)
        total = graph.add("Cast", graph.all_tokens(), to=TensorProto.INT32)
        inputs = [q, k, v, *pasts, last, total, *map(graph.constant, tables())]
        domain, operator = "com.microsoft", "GroupQueryAttention"
        attributes = {"num_heads": HEADS, "kv_num_heads": GROUPS, "do_rotary": 1}
    graph.nodes.append(helper.make_node(operator, inputs, [y, *presents], domain=domain, **attributes))
    return y


def fused(graph, layer, x):
    """An operator that makes queries, keys and values as well, and keeps the last two as one."""
    past = graph.past(f"past_{layer}", 2, "N", HEADS, "P", SIZE)
    W, b = (graph.constant(graph.weights(*sizes, 3 * HEADS * SIZE)) for sizes in ((WIDTH,), ()))
    outputs = [f"attention{layer}", graph.present(f"present_{layer}", 2, "N", HEADS, "T", SIZE)]
    attributes = {"num_heads": HEADS, "unidirectional": 1, "domain": "com.microsoft"}
    graph.nodes.append(helper.make_node("Attention", [x, W, b, "", past], outputs, **attributes))
    return outputs[0]


def attended(graph, layer, x, norms):
    """Attention of queries, keys and values, each from a layer of its own."""
    groups = HEADS if graph.kind == "multi" else GROUPS
    q, k, v = (
        graph.add("MatMul", x, graph.weights(WIDTH, heads * SIZE)) for heads in (HEADS, groups, groups)
    )
    if norms:
        q, k = (with_norm(graph, each, heads, norms) for each, heads in ((q, HEADS), (k, groups)))
    return (in_pieces if graph.kind in ("pieces", "packed") else in_one_node)(graph, layer, q, k, v)


def block(graph, stream, layer, norms):
    """Attention and a gated perceptron."""
    x = root_mean_square(graph, stream, WIDTH)
    y = fused(graph, layer, x) if graph.kind == "fused" else attended(graph, layer, x, norms)
    stream = graph.add("Add", stream, graph.add("MatMul", y, graph.weights(HEADS * SIZE, WIDTH)))
    x = root_mean_square(graph, stream, WIDTH)
    gate, up = (graph.add("MatMul", x, graph.weights(WIDTH, 20)) for _ in range(2))
    gate = graph.add("Mul", gate, graph.add("Sigmoid", gate))
    down = graph.add("MatMul", graph.add("Mul", gate, up), graph.weights(20, WIDTH))
    return graph.add("Add", stream, down)


def with_norm(graph, x, heads, norms):
    """(N, S, H d) with every head normalised; one way has tokens and heads on one axis."""
    sizes = [0, -1, SIZE] if norms == "SimplifiedLayerNormalization" else [0, 0, heads, SIZE]
    x = root_mean_square(graph, graph.add("Reshape", x, np.array(sizes)), SIZE, norms)
    return graph.add("Reshape", x, np.array([0, -1, heads * SIZE]))


def decoder(kind="pieces", norms=""):
    """A decoder of rotary positions, or with sums of positions where an operator turns nothing.

    Args:
        kind: one of ``KINDS``: how attention, and what it keeps, is written.
        norms: of every head's queries and keys: "pieces", "RMSNormalization" or
            "SimplifiedLayerNormalization"; "": none.
    """
    graph = Cached(kind)
    stream = graph.add("Gather", graph.weights(VOCABULARY, WIDTH), "input_ids")
    if kind in UNTURNED:
        last = graph.all_tokens()
        places = graph.add("Range", graph.add("Sub", last, graph.length()), last, np.array(1))
        stream = graph.add("Add", stream, graph.add("Gather", graph.weights(ROWS, WIDTH), places))
    for layer in range(LAYERS):
        stream = block(graph, stream, layer, norms)
    graph.add(
        "MatMul", root_mean_square(graph, stream, WIDTH), graph.weights(WIDTH, VOCABULARY), output="logits"
    )
    sizes = {"input_ids": ["N", "S"], "attention_mask": ["N", "T"]}
    inputs = [helper.make_tensor_value_info(name, TensorProto.INT64, shape) for name, shape in sizes.items()]
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", "S", VOCABULARY])
    opset = 23 if kind == "operator" or norms == "RMSNormalization" else 18
    made = helper.make_graph(
        graph.nodes, "decoder", [*inputs, *graph.pasts], [logits, *graph.presents], graph.constants
    )
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(made, opset_imports=opsets, ir_version=10)


def merged(model):
    """A decoder in pieces, with and without earlier tokens, as optimum merges both into one file."""
    pasts = {item.name for item in model.graph.input[2:]}
    branches = {
        f"{word}_branch": branch(word, pasts if word == "else" else (), model.graph)
        for word in ("then", "else")
    }
    outputs = [item.name for item in model.graph.output]
    flag = helper.make_tensor_value_info("use_cache_branch", TensorProto.BOOL, [1])
    nodes = [helper.make_node("If", [flag.name], outputs, **branches)]
    inputs = [*model.graph.input, flag]
    graph = helper.make_graph(nodes, "merged", inputs, model.graph.output, model.graph.initializer)
    return helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)


def branch(word, left_out, graph):
    """The nodes of a graph with names of their own, without some inputs of Concat."""
    made = {name for node in graph.node for name in node.output}
    nodes = []
    for node in graph.node:
        inputs = [f"{word}.{name}" if name in made else name for name in node.input]
        outputs = [f"{word}.{name}" for name in node.output]
        if inputs[0] in left_out:
            nodes.append(helper.make_node("Identity", inputs[1:], outputs))
            continue
        copied = helper.make_node(node.op_type, inputs, outputs)
        copied.attribute.extend(node.attribute)
        nodes.append(copied)
    outputs = [onnx.ValueInfoProto(name=f"{word}.{item.name}", type=item.type) for item in graph.output]
    return helper.make_graph(nodes, word, [], outputs)


class Runtime:
    """onnxruntime with the file of such a decoder."""

    def __init__(self, path):
        import onnxruntime

        self._session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        _, _, *self._pasts = self._session.get_inputs()

    def run(self, ids, *pasts):
        """The logits of further tokens (texts, tokens), and all keys and values; first without ``pasts``."""
        pasts = pasts or [self._empty(item, len(ids)) for item in self._pasts]
        mask = np.ones((len(ids), pasts[0].shape[-2] + ids.shape[1]), np.int64)
        names = [item.name for item in self._pasts]
        feeds = {"input_ids": ids, "attention_mask": mask, **dict(zip(names, pasts, strict=True))}
        return self._session.run(None, feeds)

    def _empty(self, item, texts):
        return np.zeros([{"N": texts, "P": 0}.get(size, size) for size in item.shape], np.float32)
