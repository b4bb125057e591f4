"""The windows of convolutions and poolings from their ONNX attributes."""

from __future__ import annotations

import math

from repurpose_hpc.model.importers.onnx.node import Node
from repurpose_hpc.model.importers.onnx.signal import Unsupported
from repurpose_hpc.model.operations import Window

Sizes = tuple[int, ...]
# Of the values that windows over three axes or more see for a sample, one after the other.
LARGEST_COPY = 1 << 22


def spatial_attribute(node: Node, name: str, kernel: Sizes, default: int) -> Sizes:
    """An attribute with one integer for each axis of ``kernel``, none of them below ``default``."""
    sizes = tuple(node.attributes.get(name, ())) or (default,) * len(kernel)
    if len(sizes) != len(kernel) or min(sizes, default=default) < default:
        raise Unsupported(f"attribute {name} is {sizes}, expected {len(kernel)} numbers of {default} or more")
    return sizes


def window_of(
    positions: Sizes, kernel: Sizes, strides: Sizes, dilations: Sizes, pads: Sizes, out: Sizes
) -> Window:
    """The window, checked.

    Raises:
        Unsupported: without axes, or without any result.
    """
    if not positions or len(kernel) != len(positions):
        raise Unsupported(f"a kernel of shape {kernel} on maps of shape {positions}, expected as many axes")
    if min(out) < 1:
        raise Unsupported(f"a kernel of shape {kernel} is larger than maps of shape {positions}")
    return Window(positions, kernel, strides, dilations, pads, out)


def conv_window(node: Node, positions: Sizes, kernel: Sizes) -> Window:
    """The window of a convolution, or of a pooling that is not in ceil mode."""
    return pool_window(node, positions, kernel, is_pooling=False)[0]


def pool_window(node: Node, positions: Sizes, kernel: Sizes, is_pooling: bool = True) -> tuple[Window, Sizes]:
    """The window of a pooling, and the end of map and padding along each axis."""
    if min(kernel, default=1) < 1:
        raise Unsupported(f"a kernel of shape {kernel}, expected sizes of 1 or more")
    if len(positions) != len(kernel):
        raise Unsupported(f"a kernel of shape {kernel} on maps of shape {positions}, expected as many axes")
    strides = spatial_attribute(node, "strides", kernel, 1)
    dilations = spatial_attribute(node, "dilations", kernel, 1)
    spans = tuple((size - 1) * step + 1 for size, step in zip(kernel, dilations, strict=True))
    front, back = _pads(node, positions, strides, spans)
    if is_pooling and any(max(pads) >= span for *pads, span in zip(front, back, spans, strict=True)):
        raise Unsupported(f"its pads {front + back} are as large as a kernel of shape {kernel}")
    ceil_mode = node.attributes.get("ceil_mode", 0)
    out = []
    for size, stride, span, before, after in zip(positions, strides, spans, front, back, strict=True):
        steps = (size + before + after - span) / stride
        count = (math.ceil(steps) if ceil_mode else math.floor(steps)) + 1
        if ceil_mode and (count - 1) * stride >= size + before:
            count -= 1  # the last window would begin in the padding behind the map
        out.append(count)
    window = window_of(positions, kernel, strides, dilations, front, tuple(out))
    return window, tuple(size + after for size, after in zip(positions, back, strict=True))


def _pads(node: Node, positions: Sizes, strides: Sizes, spans: Sizes) -> tuple[Sizes, Sizes]:
    """Padding in front of and behind the map."""
    auto_pad, axes = node.text("auto_pad", "NOTSET"), len(positions)
    if auto_pad in ("NOTSET", "VALID"):
        pads = node.attributes.get("pads", (0,) * 2 * axes) if auto_pad == "NOTSET" else (0,) * 2 * axes
        if len(pads) != 2 * axes or min(pads, default=0) < 0:
            raise Unsupported(f"attribute pads is {tuple(pads)}, expected {2 * axes} numbers of 0 or more")
        return tuple(pads[:axes]), tuple(pads[axes:])
    if auto_pad not in ("SAME_UPPER", "SAME_LOWER"):
        raise Unsupported(
            f"attribute auto_pad is {auto_pad}, expected NOTSET, VALID, SAME_UPPER or SAME_LOWER"
        )
    totals = [
        max(0, (math.ceil(size / stride) - 1) * stride + span - size)
        for size, stride, span in zip(positions, strides, spans, strict=True)
    ]
    small, large = tuple(t // 2 for t in totals), tuple(t - t // 2 for t in totals)
    return (small, large) if auto_pad == "SAME_UPPER" else (large, small)


def on_one_axis(node: Node, tensor: str, window: Window, fill: float = 0.0) -> tuple[str, Window]:
    """The tensor and the window themselves where kernels know such; else every window side by side.

    Args:
        node: that has the window.
        tensor: with maps of its positions.
        window: over any number of axes.
        fill: what stands in the padding.

    Raises:
        Unsupported: that takes too much memory.
    """
    if len(window.positions) <= 2:
        return tensor, window
    taps, out, builder = window.taps, math.prod(window.out), node.tensors.builder
    values = builder.neurons(tensor) * taps * out
    if values > LARGEST_COPY:
        raise Unsupported(
            f"its windows over {len(window.positions)} axes have {values} values, "
            f"expected at most {LARGEST_COPY}"
        )
    name = node.tensors.name(f"{node.name}.windows")
    copied = builder.rearrange(name, tensor, window.indices().ravel(), (out * taps,), fill)
    return copied, Window((out * taps,), (taps,), (taps,), (1,), (0,), (out,))
