"""Small random networks with maps, branches, gates and several outputs."""

from collections.abc import Sequence

import numpy as np

from repurpose_hpc.model.activations import RELU, Activation
from repurpose_hpc.model.builder import Builder
from repurpose_hpc.model.network import Network
from repurpose_hpc.model.operations import Attention, Membrane, Retention, Window, pointwise, whole_map

TANH = Activation("tanh")


def square_window(
    size: tuple[int, ...], kernel: int = 3, stride: int = 1, pad: int = 1, dilation: int = 1
) -> Window:
    """A window with the same entries along every axis of maps of ``size``."""
    reach, axes = (kernel - 1) * dilation + 1, len(size)
    out = tuple((each + 2 * pad - reach) // stride + 1 for each in size)
    return Window(size, (kernel,) * axes, (stride,) * axes, (dilation,) * axes, (pad,) * axes, out)


class Draw:
    """A builder whose weights are drawn from a seed."""

    def __init__(self, seed: int) -> None:
        self.rng, self.builder = np.random.default_rng(seed), Builder()

    def weights(self, m: int, columns: int) -> tuple[np.ndarray, np.ndarray]:
        """Weights and bias of m rows."""
        return self.rng.standard_normal((m, columns)) / np.sqrt(columns), self.rng.standard_normal(m)

    def mixing(self, name: str, source: str, m: int, window: Window | None = None) -> str:
        """A mixing to m neurons."""
        columns = self.builder.neurons(source) * (window.taps if window else 1)
        return self.builder.mixing(name, source, *self.weights(m, columns), window)

    def depthwise(self, name: str, source: str, window: Window) -> str:
        """A convolution of every neuron by itself."""
        weights, bias = self.weights(self.builder.neurons(source), window.taps)
        return self.builder.depthwise(name, source, weights, bias, window)

    def membrane(self, name: str, source: str, steps: int, positions: int = 0, **others: object) -> str:
        """Neurons that integrate and fire; with numbers for so many positions of a step, unless that is 0."""
        neurons = self.builder.neurons(source)
        shape = (neurons, positions) if positions else neurons
        return self.builder.membrane(membrane(self.rng, name, source, steps, shape, **others))

    def attention(
        self, name: str, source: str, heads: int, groups: int, sizes: tuple[int, int] = (2, 3), **options
    ) -> str:
        """Attention of a tensor over itself, ``sizes`` neurons a head of keys and of values."""
        window, (d, e) = pointwise(self.builder.positions(source)), sizes
        widths = {"queries": heads * d, "keys": groups * d, "values": groups * e}
        sources = [self.mixing(f"{name}.{word}", source, m, window) for word, m in widths.items()]
        masks = options.pop("masks", ())
        op = Attention(name, (*sources, *masks), f"{name}.y", heads, groups, d**-0.5, **options)
        return self.builder.attention(op)

    def retention(self, name: str, source: str, heads: int, sizes: tuple[int, int] = (2, 3)) -> str:
        """Retention of a tensor over itself, ``sizes`` neurons a head of keys and of values."""
        window, (d, e) = pointwise(self.builder.positions(source)), sizes
        widths = {"queries": heads * d, "keys": heads * d, "values": heads * e}
        sources = [self.mixing(f"{name}.{word}", source, m, window) for word, m in widths.items()]
        decay = 1 - 0.5 ** np.arange(1.0, heads + 1)
        return self.builder.attention(Retention(name, tuple(sources), f"{name}.y", decay, d**-0.5))


def membrane(
    rng: np.random.Generator,
    name: str,
    source: str,
    steps: int,
    neurons: int | tuple[int, int] = 3,
    **others: object,
) -> Membrane:
    """A membrane with random synapses, decays and thresholds, of neurons or of (neurons, positions)."""
    shape = np.atleast_1d(neurons)
    synapse, decay = rng.uniform(0, 0.9, (2, *shape))
    resistance, threshold, reset_value = rng.uniform(0.2, 0.8, (3, *shape))
    numbers = (synapse, decay, resistance, threshold, reset_value)
    return Membrane(name, source, f"{name}.y", steps, *numbers, **others)


def residual_network(
    seed: int = 0, head: str = "identity", activation: Activation = TANH, channels: int = 4
) -> Network:
    """Two convolutions, the second around a shortcut; a strided one, pools, and a layer on whole maps."""
    draw, size = Draw(seed), (6, 5)
    builder = draw.builder
    tensor = builder.input("input", 2, size)
    tensor = builder.elementwise("a0", draw.mixing("c0", tensor, channels, square_window(size)), activation)
    inner = builder.elementwise("a1", draw.mixing("c1", tensor, channels, square_window(size)), activation)
    inner = draw.depthwise("d", inner, square_window(size, dilation=2, pad=2))
    tensor = builder.elementwise("a2", builder.combine("sum", tensor, inner, "add"), activation)
    tensor = builder.pool("p", tensor, "max", square_window(size, 3, 2, 1))
    tensor = builder.elementwise(
        "a3", draw.mixing("c2", tensor, 3, square_window((3, 3), 2, 1, 0)), activation
    )
    return builder.build((draw.mixing("last", tensor, 3, whole_map((2, 2))),), (head,))


def filtered_network(seed: int = 0) -> Network:
    """It begins with a depthwise convolution of the input; two others and a layer on whole maps follow."""
    draw, size = Draw(seed), (4, 3)
    builder = draw.builder
    tensor = draw.depthwise("d", builder.input("input", 5, size), square_window(size))
    tensor = builder.elementwise("a0", tensor, TANH)
    for name in ("1", "2"):
        tensor = builder.elementwise(
            f"a{name}", draw.mixing(f"c{name}", tensor, 4, square_window(size)), TANH
        )
    return builder.build((draw.mixing("last", tensor, 3, whole_map(size)),), ("identity",))


def convolutional_network(seed: int = 0) -> Network:
    """Everything that a network may be made of, but for normalisations, in some 20 channels.

    A strided convolution; its target beside the pooled input, read by a convolution and by a pointwise
    shortcut around it; a residual addition; squeeze and excitation; a max pool; a concatenation with its
    channels shuffled, and one of them dropped; two outputs that read it: classes and maps.
    """
    draw, size = Draw(seed), (4, 3)
    builder = draw.builder
    image = builder.input("input", 3, (7, 6))
    stem = builder.elementwise("stem.a", draw.mixing("stem", image, 7, square_window((7, 6), stride=2)), RELU)
    thumbnail = builder.pool("thumbnail", image, "average", square_window((7, 6), stride=2))
    both = builder.select("both", (thumbnail, stem), np.arange(10))
    deep = draw.mixing("deep", both, 8, square_window(size))
    short = draw.mixing("short", both, 8, square_window(size, 1, pad=0))
    block = builder.elementwise("block.a", builder.combine("block", deep, short, "add"), TANH)
    inner = draw.mixing("inner", block, 8, square_window(size, dilation=2, pad=2))
    block = builder.combine("residual", inner, block, "add")
    gated = builder.combine("gate", block, _gate(draw, block, size), "multiply")
    pooled = builder.pool("pool", gated, "max", square_window(size, 2, pad=0))
    grown = builder.elementwise("grow.a", draw.mixing("grow", pooled, 4, square_window((3, 2))), RELU)
    shuffled = builder.select("shuffle", (pooled, grown), draw.rng.permutation(12)[1:])
    classes = draw.mixing("classes", shuffled, 5, whole_map((3, 2)))
    maps = draw.mixing("maps", shuffled, 2, square_window((3, 2)))
    return builder.build((classes, maps), ("softmax", "identity"))


def _gate(draw: Draw, tensor: str, size: tuple[int, ...]) -> str:
    """Squeeze and excitation: a factor for every channel of ``tensor``, from the means of all."""
    builder, neurons = draw.builder, draw.builder.neurons(tensor)
    means = builder.pool("squeeze", tensor, "average", whole_map(size))
    few = builder.elementwise("excite.a", draw.mixing("excite", means, 3), RELU)
    return builder.elementwise("sigmoid", draw.mixing("expand", few, neurons), Activation("sigmoid"))


def branching_network(seed: int = 0) -> Network:
    """Two inputs, a vector and maps; branches of one and of two mixings, and a pool; all meet in the end."""
    draw, size = Draw(seed), (4, 3)
    builder = draw.builder
    vector, image = builder.input("vector", 6), builder.input("image", 3, size)

    def layer(name: str, source: str, m: int, window: Window | None = None) -> str:
        return builder.elementwise(f"{name}.a", draw.mixing(name, source, m, window), RELU)

    narrow = layer("narrow", layer("reduced", vector, 7), 4)
    wide = layer("wide", layer("deep", image, 5, square_window(size)), 4, whole_map(size))
    pooled = layer("pooled", builder.pool("pool", image, "max", square_window(size)), 4, square_window(size))
    flat = layer("flat", pooled, 4, whole_map(size))
    both = builder.combine("both", builder.combine("towers", narrow, wide, "add"), flat, "add")
    return builder.build((draw.mixing("last", both, 5),), ("identity",))


def normalised_network(seed: int = 0) -> Network:
    """Convolutions around the subtraction of the mean over all channels, by two mixings that are fixed."""
    draw, size = Draw(seed), (5, 4)
    builder, point = draw.builder, square_window(size, 1, pad=0)
    tensor = draw.mixing("c0", builder.input("input", 2, size), 6, square_window(size))
    mean = builder.mixing("mean", tensor, np.full((1, 6), 1 / 6), np.zeros(1), point, True)
    spread = builder.mixing("spread", mean, np.ones((6, 1)), np.zeros(6), point, True)
    tensor = builder.elementwise("a", builder.combine("centred", tensor, spread, "subtract"), TANH)
    tensor = draw.mixing("c1", tensor, 5, square_window(size))
    return builder.build((draw.mixing("last", tensor, 3, whole_map(size)),), ("identity",))


def transformer(seed: int = 0, with_mask: bool = True, with_norms: bool = True) -> Network:
    """Two layers on sequences, the second of grouped heads; residuals, norms or none, an MLP, two outputs.

    A sample has the features of one position after those of the other, ``neuron_axes``: 1.  The inputs are a
    sequence and, if there is a mask, a number for each position that is added to scores of the first layer,
    beside constant ones.
    """
    draw = Draw(seed)
    builder, length, width = draw.builder, 5, 8
    point = pointwise((length,))
    inputs = [builder.input("input", width, (length,))]
    tensor, masks = inputs[0], ()
    if with_mask:
        inputs.append(builder.input("mask", 1, (length,)))
        masks = (builder.mixing("mask.heads", inputs[1], np.ones((4, 1)), np.zeros(4), point, True),)
    bias = draw.rng.standard_normal((4, length, length)).astype(np.float32)
    options = [
        {"heads": 4, "groups": 4, "bias": bias, "after": 0, "masks": masks},
        {
            "heads": 4,
            "groups": 2,
            "before": 2,
            "softcap": 3.0,
            "seen": draw.rng.random((1, length, length)) < 0.6,
        },
    ]

    def norm(name: str, tensor: str) -> str:
        return _norm(builder, name, tensor) if with_norms else tensor

    for number, each in enumerate(options):
        name = f"layer{number}"
        read = draw.attention(name, norm(f"{name}.norm", tensor), **each)
        read = draw.mixing(f"{name}.out", read, width, point)
        tensor = builder.combine(f"{name}.sum", tensor, read, "add")
        inner = draw.mixing(f"{name}.up", norm(f"{name}.norm2", tensor), 7, point)
        inner = draw.mixing(f"{name}.down", builder.elementwise(f"{name}.a", inner, TANH), width, point)
        tensor = builder.combine(f"{name}.residual", tensor, inner, "add")
    last = draw.mixing("last", tensor, 6, point)
    mean = builder.pool("mean", tensor, "average", whole_map((length,)))
    outputs = last, draw.mixing("classes", mean, 3)
    return builder.build(outputs, ("identity", "softmax"), axes={inputs[0]: 1, last: 1})


def _norm(builder: Builder, name: str, tensor: str) -> str:
    """A layer norm of every position: the neurons less their mean, over their deviation."""
    n, point = builder.neurons(tensor), pointwise(builder.positions(tensor))
    mean = builder.mixing(f"{name}.mean", tensor, np.full((n, n), 1 / n), np.zeros(n), point, True)
    centred = builder.combine(f"{name}.centred", tensor, mean, "subtract")
    squares = builder.elementwise(f"{name}.squares", centred, Activation("square"))
    variance = builder.mixing(
        f"{name}.variance", squares, np.full((n, n), 1 / n), np.full(n, 0.01), point, True
    )
    return builder.combine(
        f"{name}.y",
        centred,
        builder.elementwise(f"{name}.root", variance, Activation("power", 0.5)),
        "divide",
    )


def spiking_network(seed: int = 0, steps: int = 4) -> Network:
    """Spikes of a convolution of every step, pooled; of layers on whole maps; and a mean potential.

    The neurons of the convolution have numbers for each position.
    """
    draw, size = Draw(seed), (4, 3)
    builder = draw.builder
    x = builder.input("input", 2, (steps, *size))
    of_step = square_window(size, pad=1)
    tensor = draw.mixing("convolution", x, 9, by_step(of_step, steps))
    tensor = draw.membrane("first", tensor, steps, positions=12, is_delayed=True)
    halves = Window(size, (2, 1), (2, 1), (1, 1), (0, 0), (2, 3))
    tensor = builder.pool("pool", tensor, "max", by_step(halves, steps))
    tensor = draw.mixing("flat", tensor, 13, by_step(whole_map((2, 3)), steps))
    tensor = draw.membrane("second", tensor, steps, reset="set")
    tensor = draw.mixing("dense", tensor, 11, pointwise((steps, 1, 1)))
    tensor = draw.membrane("third", tensor, steps)
    tensor = draw.mixing("last", tensor, 5, pointwise((steps, 1, 1)))
    tensor = draw.membrane("read-out", tensor, steps, fires=False, reset="none")
    mean = builder.pool("mean", tensor, "average", whole_map((steps, 1, 1)))
    return builder.build((mean,), ("identity",), axes={x: 1})


def by_step(window: Window, steps: int) -> Window:
    """A window that sees the map of every step by itself."""
    one, zero = (1,), (0,)
    return Window(
        (steps, *window.positions),
        one + window.kernel,
        one + window.strides,
        one + window.dilations,
        zero + window.pads,
        (steps, *window.out),
    )


def two_output_network() -> Network:
    """Maps of 2 neurons at 4 positions each, which another mixing reads, and its vector of 3 values."""
    draw = Draw(0)
    maps = draw.mixing("conv", draw.builder.input("input", 2, (2, 2)), 2, square_window((2, 2)))
    vector = draw.mixing("dense", maps, 3, whole_map((2, 2)))
    return draw.builder.build((maps, vector), ("identity", "identity"))


def along_time(
    size: int, kernel: int, stride: int = 1, dilation: int = 1, pads: tuple[int, int] = (0, 0)
) -> Window:
    """A window along time, with zeros in front and behind."""
    out = (size + sum(pads) - (kernel - 1) * dilation - 1) // stride + 1
    return Window((size,), (kernel,), (stride,), (dilation,), (pads[0],), (out,))


def signal_network(length: int, layers: Sequence[tuple], axes: tuple[int, int] = (0, 0)) -> Network:
    """Convolutions, a residual around the second, and a pool, along time; the same weights for any length."""
    draw = Draw(0)
    source = tensor = draw.builder.input("input", 2, (length,))
    size = length
    for number, (kernel, stride, dilation, pads) in enumerate(layers):
        over = along_time(size, kernel, stride, dilation, pads)
        made = draw.builder.elementwise(f"a{number}", draw.mixing(f"c{number}", tensor, 3, over), TANH)
        if over.positions == over.out and number:
            made = draw.builder.combine(f"r{number}", made, tensor, "add")
        tensor, (size,) = made, over.out
    pool = along_time(size, 2, 2)
    tensor = draw.builder.elementwise("end", draw.builder.pool("pool", tensor, "max", pool), RELU)
    named = dict(zip((source, tensor), axes, strict=True))
    names = {name: axis for name, axis in named.items() if axis}
    return draw.builder.build((tensor,), ("identity",), axes=names)
