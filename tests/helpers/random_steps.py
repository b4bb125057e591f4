"""The steps of which random graphs consist (``random_graphs``)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from helpers.graph_drawing import Illegal, RandomGraph

Step = Callable[[RandomGraph], None]
STEPS: list[Step] = []
ACTIVATIONS = (
    *("Relu", "Sigmoid", "Tanh", "Softplus", "Softsign", "HardSwish", "Gelu", "Mish", "Abs", "Neg"),
    *("Selu", "Elu", "Celu", "LeakyRelu", "HardSigmoid", "Identity", "Floor", "Ceil", "Round", "Sign", "Erf"),
)
REDUCTIONS = ("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceL1", "ReduceL2", "ReduceSumSquare")
COMPARISONS = ("Greater", "GreaterOrEqual", "Less", "LessOrEqual")


def _any(shape: tuple[int, ...]) -> bool:
    """Of all shapes, also that of one number for each sample."""
    return True


def step(function: Step) -> Step:
    """Declare a step, which adds a node or some; ``Illegal`` if it cannot be taken."""
    STEPS.append(function)
    return function


@step
def dense(g: RandomGraph) -> None:
    x = g.pick()
    n, m = g.shape(x)[-1], int(g.rng.integers(1, 8))
    if len(g.shape(x)) == 1 and g.chance(0.6):
        transposed = g.chance(0.5)
        weights = g.normal(*((m, n) if transposed else (n, m)), scale=n**-0.5)
        bias = [g.normal(*g.choice((m,), (1,), (1, m)))] if g.chance(0.7) else []
        g.add("Gemm", x, weights, *bias, transB=int(transposed), alpha=float(g.choice(1.0, 0.5)))
        return
    (y,) = g.add("MatMul", x, g.normal(n, m, scale=max(n, 1) ** -0.5))
    if g.chance(0.5):
        bias = g.normal(m)
        g.add("Add", *((y, bias) if g.chance(0.5) else (bias, y)))


def _window(g: RandomGraph, sizes: tuple[int, ...]) -> dict[str, object]:
    axes = len(sizes)
    kernel = [int(g.rng.integers(1, min(size, 3) + 1)) for size in sizes]
    attributes: dict[str, object] = {"kernel_shape": kernel}
    if g.chance(0.5):
        attributes["strides"] = [int(g.rng.integers(1, 4)) for _ in sizes]
    if g.chance(0.3):
        attributes["auto_pad"] = g.choice("SAME_UPPER", "SAME_LOWER", "VALID")
    elif g.chance(0.6):
        attributes["pads"] = [int(g.rng.integers(0, kernel[place % axes])) for place in range(2 * axes)]
    return attributes


@step
def convolution(g: RandomGraph) -> None:
    x = g.pick(lambda shape: len(shape) in (2, 3))
    channels, *sizes = g.shape(x)
    attributes = _window(g, tuple(sizes))
    groups = channels if g.chance(0.3) else 1
    outputs = groups * int(g.rng.integers(1, 4))
    weights = g.normal(outputs, channels // groups, *attributes["kernel_shape"], scale=0.5)
    bias = [g.normal(outputs)] if g.chance(0.5) else []
    g.add("Conv", x, weights, *bias, group=groups, **attributes)


@step
def transposed_convolution(g: RandomGraph) -> None:
    x = g.pick(lambda shape: len(shape) in (2, 3))
    channels, *sizes = g.shape(x)
    kernel = [int(g.rng.integers(1, 4)) for _ in sizes]
    strides = [int(g.rng.integers(1, 3)) for _ in sizes]
    weights = g.normal(channels, int(g.rng.integers(1, 4)), *kernel, scale=0.5)
    g.add("ConvTranspose", x, weights, strides=strides)


@step
def pooling(g: RandomGraph) -> None:
    x = g.pick(lambda shape: len(shape) in (2, 3))
    if g.chance(0.3):
        g.add(g.choice("GlobalAveragePool", "GlobalMaxPool"), x)
        return
    operator, attributes = g.choice("MaxPool", "AveragePool"), _window(g, g.shape(x)[1:])
    if "auto_pad" not in attributes and g.chance(0.4):
        attributes["ceil_mode"] = 1
    if operator == "AveragePool" and g.chance(0.5):
        attributes["count_include_pad"] = 1
    g.add(operator, x, **attributes)


@step
def activation(g: RandomGraph) -> None:
    x, operator = g.pick(_any), g.choice(*ACTIVATIONS)
    attributes = {}
    if operator in ("Elu", "Celu", "LeakyRelu") and g.chance(0.7):
        attributes = {"alpha": float(g.choice(0.3, 1.0, 2.0))}
    if operator == "Gelu":
        attributes = {"approximate": g.choice("none", "tanh")}
    if operator in ("Floor", "Ceil", "Round", "Sign"):
        g.compared += [0.0, 0.5, 1.0, 2.5]
    g.add(operator, x, **attributes)


@step
def bounded(g: RandomGraph) -> None:
    """Clip, Min, Max, thresholds."""
    x, kind = g.pick(_any), int(g.rng.integers(5))
    low, high = sorted((g.limit(), g.limit()))
    if kind == 0:
        g.add("Clip", x, g.constant(low), *([g.constant(high)] if g.chance(0.7) else []))
    elif kind == 1:
        g.add(g.choice("Min", "Max"), *((x, g.constant(low)) if g.chance(0.5) else (g.constant(high), x)))
    elif kind == 2:
        g.add("ThresholdedRelu", x, alpha=abs(low))
    elif kind == 3:
        lambd = abs(low)
        g.add("Shrink", x, lambd=lambd, bias=float(g.choice(0.0, lambd, 0.25)))
        g.compared += [lambd, -lambd]
    else:
        (y,) = g.add("Relu", x)
        g.add("Min", y, g.constant(max(high, 0.1)))


@step
def written_out(g: RandomGraph) -> None:
    """Comparisons, Where, and products with them."""
    x, limit = g.pick(_any), g.limit()
    (mask,) = g.add(g.choice(*COMPARISONS), x, g.constant(limit))
    if g.chance(0.3):
        (mask,) = g.add("Not", mask)
    if g.chance(0.3):
        (other,) = g.add(g.choice(*COMPARISONS), x, g.constant(g.limit()))
        (mask,) = g.add(g.choice("And", "Or"), mask, other)
    if g.chance(0.3):
        (factor,) = g.add("Cast", mask, to=1)
        g.add("Mul", x, factor)
        return
    (other,) = g.add(g.choice("Relu", "Neg", "Tanh", "Abs"), x)
    other = g.choice(other, g.constant(limit), g.constant(0.0))
    g.add("Where", mask, *((x, other) if g.chance(0.5) else (other, x)))


@step
def with_constant(g: RandomGraph) -> None:
    """Arithmetic with a constant that is broadcast in some way."""
    x = g.pick()
    shape = [size if g.chance(0.6) else 1 for size in g.shape(x)]
    shape = g.choice(shape, [], [1], [1, *shape], shape[int(g.rng.integers(len(shape) + 1)) :])
    operator = g.choice("Add", "Sub", "Mul", "Div", "Add", "Mul", "Max", "Min", "Pow", "PRelu")
    values = np.round(g.rng.standard_normal(shape), 2)
    if operator == "Div":
        values = np.where(np.abs(values) < 0.3, 1.5, values)
    if operator == "PRelu":
        g.add("PRelu", x, g.constant(values))
        return
    if operator == "Pow":
        g.add("Pow", x, g.constant(float(g.choice(2.0, 3.0, 1.0))))
        return
    constant = g.constant(values)
    swapped = g.chance(0.4) and operator != "Div"
    g.add(operator, *((constant, x) if swapped else (x, constant)))


@step
def of_two(g: RandomGraph) -> None:
    x = g.pick()
    y = g.pick(lambda shape: _fits(shape, g.shape(x)))
    g.add(g.choice("Add", "Sub", "Mul", "Max", "Min", "Sum", "Add"), *((x, y) if g.chance(0.5) else (y, x)))


def _fits(shape: tuple[int, ...], other: tuple[int, ...]) -> bool:
    return len(shape) == len(other) and all(1 in (a, b) or a == b for a, b in zip(shape, other, strict=True))


@step
def normalisation(g: RandomGraph) -> None:
    x = g.pick()
    shape, kind = g.shape(x), int(g.rng.integers(4))
    n = shape[0]
    if kind == 0:
        variance = g.constant(np.abs(g.rng.standard_normal(n)) + 0.3)
        g.add("BatchNormalization", x, g.normal(n), g.normal(n), g.normal(n), variance)
    elif kind == 1:
        axis = int(g.rng.integers(-len(shape), 0))
        g.add("LayerNormalization", x, g.normal(*shape[axis:]), g.normal(*shape[axis:]), axis=axis)
    elif kind == 2 and len(shape) > 1:
        g.add("InstanceNormalization", x, g.normal(n), g.normal(n))
    else:
        g.add("LRN", x, size=int(g.choice(1, 3, 5)))


@step
def reduction(g: RandomGraph) -> None:
    x = g.pick()
    places = [place + 1 for place in range(len(g.shape(x))) if g.chance(0.5)]
    if not places:
        raise Illegal
    axes = [place - len(g.shape(x)) - 1 if g.chance(0.3) else place for place in places]
    operator, keepdims = g.choice(*REDUCTIONS), int(g.chance(0.6))
    if operator in (
        "ReduceMean",
        "ReduceL1",
        "ReduceL2",
        "ReduceMax",
        "ReduceMin",
        "ReduceSumSquare",
        "ReduceSum",
    ):
        g.add(operator, x, g.constant(axes), keepdims=keepdims)


@step
def softmax(g: RandomGraph) -> None:
    x = g.pick()
    g.add(g.choice("Softmax", "LogSoftmax"), x, axis=int(g.rng.integers(1, len(g.shape(x)) + 1)))


@step
def transpose(g: RandomGraph) -> None:
    x = g.pick(lambda shape: len(shape) > 1)
    g.add("Transpose", x, perm=[0, *(1 + g.rng.permutation(len(g.shape(x)))).tolist()])


@step
def reshape(g: RandomGraph) -> None:
    x = g.pick()
    shape, size, kind = g.shape(x), int(np.prod(g.shape(x))), int(g.rng.integers(5))
    if kind == 0:
        g.add("Flatten", x, axis=1)
    elif kind == 1:
        factors = [each for each in range(1, size + 1) if size % each == 0]
        first = int(g.choice(*factors))
        sizes = g.choice([first, size // first], [first, 1, size // first], [size], [-1, first])
        g.add("Reshape", x, g.constant([g.choice(0, -1) if -1 not in sizes else 0, *sizes]))
    elif kind == 2:
        g.add("Unsqueeze", x, g.constant([int(g.rng.integers(1, len(shape) + 2))]))
    elif kind == 3 and 1 in shape and len(shape) > 1:
        g.add("Squeeze", x, g.constant([1 + shape.index(1)]))
    else:
        g.add("Expand", x, g.constant([1, *(size if size > 1 else 3 for size in shape)]))


@step
def concat(g: RandomGraph) -> None:
    x = g.pick()
    axis = int(g.rng.integers(len(g.shape(x))))
    rest = np.delete(g.shape(x), axis).tolist()
    other = g.pick(lambda s: len(s) == len(rest) + 1 and np.delete(s, axis).tolist() == rest)
    g.add(
        "Concat", x, other, *([x] if g.chance(0.2) else []), axis=axis + 1 - (len(rest) + 2) * g.chance(0.3)
    )


@step
def split(g: RandomGraph) -> None:
    x = g.pick()
    axis = int(g.rng.integers(len(g.shape(x))))
    size = g.shape(x)[axis]
    cuts = sorted(int(cut) for cut in g.rng.integers(0, size + 1, int(g.choice(1, 2))))
    sizes = np.diff([0, *cuts, size]).tolist()
    g.add("Split", x, g.constant(sizes), outputs=len(sizes), axis=axis + 1)


@step
def slice_(g: RandomGraph) -> None:
    x = g.pick()
    axis = int(g.rng.integers(len(g.shape(x))))
    size, ends = g.shape(x)[axis], (-100, 100)
    first, last = (int(g.choice(*range(-size, size + 1), *ends)) for _ in range(2))
    stride = int(g.choice(1, 1, 2, -1, -2))
    parts = [g.constant([each]) for each in (first, last, axis + 1, stride)]
    g.add("Slice", x, *parts)


@step
def gather(g: RandomGraph) -> None:
    x = g.pick()
    axis = int(g.rng.integers(len(g.shape(x))))
    size = g.shape(x)[axis]
    count = g.choice((), (1,), (3,), (size,), (2, 2), (0,))
    indices = g.rng.integers(-size, size, count)
    g.add("Gather", x, g.constant(indices), axis=axis + 1)


@step
def pad(g: RandomGraph) -> None:
    x = g.pick()
    mode = g.choice("constant", "constant", "edge", "reflect")
    widths = [[0, *(int(g.rng.integers(0, 3)) for _ in g.shape(x))] for _ in range(2)]
    value = [g.constant(float(g.choice(0.0, 0.5)))] if mode == "constant" and g.chance(0.5) else []
    g.add("Pad", x, g.constant([*widths[0], *widths[1]]), *value, mode=mode)


@step
def resize(g: RandomGraph) -> None:
    x = g.pick(lambda shape: len(shape) in (2, 3))
    factors = [1.0, 1.0, *(float(g.choice(1.0, 2.0, 3.0)) for _ in g.shape(x)[1:])]
    attributes = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    g.add("Resize", x, "", g.constant(factors), **attributes)


@step
def tile(g: RandomGraph) -> None:
    x = g.pick()
    g.add("Tile", x, g.constant([1, *(int(g.choice(1, 1, 2)) for _ in g.shape(x))]))


@step
def space_to_depth(g: RandomGraph) -> None:
    x = g.pick(lambda shape: len(shape) == 3)
    if g.shape(x)[0] % 4 == 0:
        g.add("DepthToSpace", x, blocksize=2, mode=g.choice("DCR", "CRD"))
    else:
        g.add("SpaceToDepth", x, blocksize=2)


@step
def einsum(g: RandomGraph) -> None:
    """A sum over the last axis, or over one before it, written as an equation."""
    x = g.pick()
    letters = "abcd"[: len(g.shape(x))]
    summed = letters[int(g.rng.integers(len(letters)))]
    size, m = g.shape(x)[letters.index(summed)], int(g.rng.integers(1, 5))
    weights = g.normal(size, m, scale=size**-0.5)
    target = letters.replace(summed, "") + "z" if g.chance(0.5) else letters.replace(summed, "z")
    g.add("Einsum", x, weights, equation=f"n{letters},{summed}z->n{target}")


@step
def product_from_the_left(g: RandomGraph) -> None:
    x = g.pick(lambda shape: len(shape) > 1)
    n, m = g.shape(x)[-2], int(g.rng.integers(1, 5))
    g.add("MatMul", g.normal(m, n, scale=n**-0.5), x)


@step
def product_of_each_position(g: RandomGraph) -> None:
    """A batch of matrices, one for each value of the axis before the last two."""
    x = g.pick(lambda shape: len(shape) > 1)
    *before, n = g.shape(x)
    g.add("MatMul", x, g.normal(*before[:-1], n, int(g.rng.integers(1, 5)), scale=n**-0.5))


@step
def join_constant(g: RandomGraph) -> None:
    """A Concat with a constant of as many samples as there are, made of the input's shape."""
    x = g.pick()
    (zero,) = g.add("Mul", x, g.constant(0.0))
    (constant,) = g.add("Add", zero, g.normal(*g.shape(x)))
    g.add("Concat", *((x, constant) if g.chance(0.5) else (constant, x)), axis=len(g.shape(x)))


@step
def triangle(g: RandomGraph) -> None:
    x = g.pick(lambda shape: len(shape) > 1)
    g.add("Trilu", x, g.constant(int(g.rng.integers(-1, 2))), upper=int(g.chance(0.5)))


@step
def wrapped(g: RandomGraph) -> None:
    """Pads that wrap, or take away."""
    x = g.pick()
    widths = [[0, *(int(g.rng.integers(-1, 2)) for _ in g.shape(x))] for _ in range(2)]
    mode = g.choice("constant", "wrap") if min(map(min, widths)) >= 0 else "constant"
    g.add("Pad", x, g.constant([*widths[0], *widths[1]]), mode=mode)


@step
def dropped_out(g: RandomGraph) -> None:
    g.add("Dropout", g.pick())


@step
def sequence(g: RandomGraph) -> None:
    """What acts on the features of every position, as layers of a transformer do."""
    x = g.pick(lambda shape: len(shape) == 2)
    n, m = g.shape(x)[-1], int(g.choice(2, 4, 6))
    (y,) = g.add("LayerNormalization", x, g.normal(n), g.normal(n), axis=-1) if g.chance(0.5) else (x,)
    (y,) = g.add("MatMul", y, g.normal(n, m, scale=n**-0.5))
    (y,) = g.add("Add", y, g.normal(*g.choice((m,), (g.shape(x)[0], m), (1, g.shape(x)[0], m))))
    if m == n:
        g.add("Add", *((x, y) if g.chance(0.5) else (y, x)))


@step
def attention(g: RandomGraph) -> None:
    """Attention in pieces, masked or not; in a few of them something is unusual."""
    x = g.pick(lambda shape: len(shape) == 2 and shape[0] > 1)
    y = g.pick(lambda shape: len(shape) == 2)
    H, d, e = (int(size) for size in g.rng.integers(1, 4, 3))
    shared = g.chance(0.2)
    q = _heads(g, x, H, d, (0, 2, 1, 3))
    k = _heads(g, y, 1 if shared else H, d, (0, 2, 3, 1))
    v = _heads(g, y, 1 if shared else H, e, (0, 2, 1, 3))
    if g.chance(0.3):
        (q,) = g.add("Mul", q, g.constant(0.7))
    (s,) = g.add("MatMul", q, k)
    for _ in range(int(g.rng.integers(4))):
        s = _changed(g, s)
    (weights,) = g.add("Softmax", s, axis=int(g.choice(-1, -1, 3, 3, 3, 2)))
    if g.chance(0.15):
        (weights,) = g.add(g.choice("Sqrt", "Identity", "Neg"), weights)
    (means,) = g.add("MatMul", weights, v)
    (joined,) = g.add("Transpose", means, perm=[0, 2, 1, 3])
    (z,) = g.add("Reshape", joined, g.constant([0, 0, -1]))
    if g.shape(z) == g.shape(x) and g.chance(0.6):
        g.add("Add", x, z)


def _heads(g: RandomGraph, x: str, heads: int, size: int, order: tuple[int, ...]) -> str:
    """Queries, keys or values by head, in an order of their axes."""
    n = g.shape(x)[-1]
    (y,) = g.add("MatMul", x, g.normal(n, heads * size, scale=n**-0.5))
    (split,) = g.add("Reshape", y, g.constant([0, 0, heads, size]))
    (result,) = g.add("Transpose", split, perm=list(order))
    return result


def _changed(g: RandomGraph, scores: str) -> str:
    """Scores with one thing more done to them."""
    heads, rows, columns = g.shape(scores)
    seen = np.tril(np.ones((rows, columns))) if g.chance(0.5) else g.rng.random((rows, columns)) < 0.7
    kind = int(g.rng.integers(7))
    if kind == 0:
        return g.add(g.choice("Mul", "Div"), scores, g.constant(float(g.choice(0.5, 2.0, -1.0))))[0]
    if kind == 1:
        shape = g.choice((rows, columns), (heads, rows, columns), (1, heads, 1, 1), (columns,), (rows, 1))
        return g.add("Add", *(scores, g.normal(*shape)))[0]
    if kind == 2:
        # No lower: with no position to see, a mean depends on the digits of float32.
        return g.add("Add", scores, g.constant(np.where(seen, 0, -9e3)))[0]
    if kind == 3:
        (far,) = g.add("Mul", scores, g.constant(0.0))
        (mask,) = g.add("Greater", far, g.constant(np.where(seen, -1.0, 1.0)))
        return g.add("Where", mask, *g.choice((scores, g.constant(-9e3)), (g.constant(-9e3), scores)))[0]
    if kind == 4:
        (capped,) = g.add("Tanh", scores)
        return g.add("Mul", capped, g.constant(float(g.choice(2.0, -1.5))))[0]
    if kind == 5:
        (other,) = g.add(g.choice("Neg", "Tanh"), scores)
        return g.add("Add", scores, other)[0]
    (merged,) = g.add("Reshape", scores, g.constant([0, 1, heads * rows, columns]))
    return g.add("Reshape", merged, g.constant([0, heads, rows, columns]))[0]
