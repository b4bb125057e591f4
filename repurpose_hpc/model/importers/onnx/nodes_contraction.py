"""ONNX operators that sum products over axes: MatMul and Einsum.

All are read as one contraction: letters name the axes of each operand and of the result.  With constant
weights it is a layer position by position, where every letter that both share and that is kept makes blocks
between which nothing is joined.  Of two signals the products are made and summed.
"""

from __future__ import annotations

import math
import string
from collections.abc import Callable

import numpy as np

from repurpose_hpc.model.importers.arrays import as_weights
from repurpose_hpc.model.importers.onnx.node import Node
from repurpose_hpc.model.importers.onnx.nodes_elementwise import combine
from repurpose_hpc.model.importers.onnx.nodes_mixing import linear
from repurpose_hpc.model.importers.onnx.nodes_reduction import reduce_sum
from repurpose_hpc.model.importers.onnx.signal import Signal, Unsupported

# Of the products of two signals that are made for a sample.
LARGEST_PRODUCTS = 1 << 20


def matmul(node: Node) -> Signal:
    """x W over the last axis, W x over the last but one, or the products of two signals."""
    shapes = [
        value.shape if isinstance(value, Signal) else node.constant(place).shape
        for place, value in enumerate(node.inputs)
    ]
    if isinstance(node.input(0), Signal) and not isinstance(node.input(1), Signal) and len(shapes[1]) == 2:
        return linear(node, node.signal(), node.weights(1))
    if not all(shapes):
        raise Unsupported(f"it multiplies shapes {shapes[0]} and {shapes[1]}, expected axes")
    left, right, out = _matmul_letters(*(len(shape) for shape in shapes))
    return _contraction(node, [left, right], out)


def _matmul_letters(left: int, right: int) -> tuple[str, str, str]:
    """The letters of a MatMul of operands with so many axes."""
    rank = max(left, right)
    stacked = string.ascii_lowercase[: max(rank - 2, 0)]
    a = (stacked[len(stacked) - max(left - 2, 0) :] + "XY") if left > 1 else "Y"
    b = (stacked[len(stacked) - max(right - 2, 0) :] + "YZ") if right > 1 else "Y"
    return a, b, stacked + ("X" if left > 1 else "") + ("Z" if right > 1 else "")


def einsum(node: Node) -> Signal:
    """Sums of products over the axes that its equation names."""
    equation = node.text("equation", "").replace(" ", "")
    given, arrow, out = equation.partition("->")
    letters = given.split(",")
    ranks = [
        len(value.shape) if isinstance(value, Signal) else node.constant(place).ndim
        for place, value in enumerate(node.inputs)
    ]
    if len(letters) != len(ranks):
        raise Unsupported(f"attribute equation is {equation!r} for {len(ranks)} inputs")
    if not arrow:
        once = {letter for letter in given if letter.isalpha() and given.count(letter) == 1}
        out = ("..." if "..." in given else "") + "".join(sorted(once))
    free = [letter for letter in string.ascii_letters if letter not in equation]
    missing = [rank - len(term.replace("...", "")) for term, rank in zip(letters, ranks, strict=True)]
    most = max([0, *(count for term, count in zip(letters, missing, strict=True) if "..." in term)])
    if any(
        count != 0 and "..." not in term or count < 0 for term, count in zip(letters, missing, strict=True)
    ):
        raise Unsupported(f"attribute equation is {equation!r} for inputs of {ranks} axes")
    for place, count in enumerate(missing):
        letters[place] = letters[place].replace("...", "".join(free[most - count : most]))
    return _contraction(node, letters, out.replace("...", "".join(free[:most])))


def _contraction(node: Node, letters: list[str], out: str) -> Signal:
    """The sum of products with the letters of each input, the samples among them, and of the result."""
    places = [place for place, value in enumerate(node.inputs) if isinstance(value, Signal)]
    batch = letters[places[0]][0]
    if any(letters[place].find(batch) != 0 for place in places) or out[:1] != batch:
        raise Unsupported("its result does not keep the samples, and nothing else, on the first axis")
    signals = [(node.signal(place), letters[place][1:]) for place in places]
    constants = [
        (as_weights(node.constant(place), node.called(place)), letters[place])
        for place, value in enumerate(node.inputs)
        if not isinstance(value, Signal)
    ]
    if any(batch in text for text in (*(text for _, text in signals), out[1:])):
        raise Unsupported(f"the axis of the samples, {batch!r}, is named twice")
    constants = [_without_samples(array, text, batch) for array, text in constants]
    signal, text = _of_signals(
        node, [_diagonal(*each) for each in signals], out[1:] + "".join(t for _, t in constants)
    )
    return _with_constants(node, signal, text, constants, out[1:])


def _without_samples(array: np.ndarray, text: str, batch: str) -> tuple[np.ndarray, str]:
    """Weights without the axis of the samples, for all of which they are the same."""
    if batch not in text:
        return array, text
    axis = text.index(batch)
    if array.shape[axis] != 1:
        raise Unsupported(f"its weights of shape {array.shape} differ from sample to sample")
    return array.take(0, axis), text.replace(batch, "")


def _diagonal(signal: Signal, text: str) -> tuple[Signal, str]:
    """A signal with each letter once, the places where axes of one letter are equal."""
    once = "".join(dict.fromkeys(text))
    if once == text:
        return signal, text
    numbers = {letter: number for number, letter in enumerate(once)}
    index = np.einsum(signal.places, [numbers[letter] for letter in text], list(range(len(once))))
    return signal.placed(index), once


def _of_signals(node: Node, signals: list[tuple[Signal, str]], needed: str) -> tuple[Signal, str]:
    """The products of all signals, summed over letters that are not ``needed`` any more."""
    (signal, text), *others = signals
    for place, (other, other_text) in enumerate(others):
        later = needed + "".join(each for _, each in others[place + 1 :])
        joined = "".join(dict.fromkeys(text + other_text))
        product = _product(node, (signal, text), (other, other_text), joined)
        signal, text = _summed(node, product, joined, later)
    return signal, text


def _summed(node: Node, signal: Signal, text: str, needed: str) -> tuple[Signal, str]:
    """The sums over the letters that are not ``needed``."""
    axes = [axis + 1 for axis, letter in enumerate(text) if letter not in needed]
    if not axes:
        return signal, text
    sums, kept = reduce_sum(node, signal, axes), [letter for letter in text if letter in needed]
    sizes = [size for axis, size in enumerate(signal.shape) if axis not in axes]
    return sums.reshaped(tuple(sizes)), "".join(kept)


def _product(node: Node, left: tuple[Signal, str], right: tuple[Signal, str], joined: str) -> Signal:
    sizes: dict[str, int] = {}
    for signal, text in (left, right):
        for letter, size in zip(text, signal.shape[1:], strict=True):
            if size != 1 or letter not in sizes:
                sizes[letter] = size
    shape = tuple(sizes[letter] for letter in joined)
    if math.prod(shape) > LARGEST_PRODUCTS:
        raise Unsupported(f"it multiplies two values of the graph, with {math.prod(shape)} products")
    factors = []
    for signal, text in (left, right):
        signal = node.tensors.settled(signal)
        try:
            factors.append(signal.placed(_spread_to(signal.places, text, [*joined], sizes)))
        except ValueError:
            raise Unsupported(f"it multiplies shapes {left[0].shape[1:]} and {right[0].shape[1:]}") from None
    return combine(node, factors[0], factors[1], "multiply")


def _with_constants(
    node: Node, signal: Signal, text: str, constants: list[tuple[np.ndarray, str]], out: str
) -> Signal:
    """A signal times constants: a layer position by position, in blocks for each place of common letters."""
    if not constants:
        signal, text = _summed(node, signal, text, out)
        return _ordered(signal, text, out)
    W, weight_text = _joined(constants, text + out)
    widths = dict(zip(weight_text, W.shape, strict=True))
    sizes = dict(zip(text, signal.shape[1:], strict=True))
    summed = [letter for letter in text if letter not in out]
    misfit = Unsupported(f"it multiplies features of shape {signal.shape[1:]} by weights of shape {W.shape}")
    if any(widths.get(letter, sizes[letter]) != sizes[letter] for letter in summed):
        raise misfit
    sizes |= {letter: size for letter, size in widths.items() if size > 1 or letter not in sizes}
    if len(set(out)) != len(out) or not set(out) <= set(sizes):
        raise Unsupported(f"its result has the axes {out!r}, expected each once, of {''.join(sizes)!r}")
    shared = [letter for letter in text if letter in out and letter in weight_text]
    rows = [letter for letter in text if letter in out and letter not in weight_text]
    columns = [letter for letter in weight_text if letter not in text]
    try:
        places = _spread_to(signal.places, text, [*rows, *shared, *summed], sizes)
        blocks = _spread_to(W, weight_text, [*shared, *summed, *columns], sizes)
    except ValueError:
        raise misfit from None
    counts = [math.prod(sizes[letter] for letter in letters) for letters in (shared, summed, columns)]
    dense = _block_diagonal(blocks.reshape(counts))
    settled = node.tensors.settled(signal)
    result = linear(node, settled.placed(places.reshape(-1, len(dense))), dense)
    order = [*rows, *shared, *columns]
    result = result.reshaped((signal.shape[0], *(sizes[letter] for letter in order)))
    return _ordered(result, "".join(order), out)


def _ordered(signal: Signal, text: str, out: str) -> Signal:
    """The axes in the order of the result."""
    if len(set(out)) != len(out) or set(out) != set(text):
        raise Unsupported(f"its result has the axes {out!r}, expected each once, of {text!r}")
    return (
        signal if text == out else signal.placed(signal.places.transpose([text.index(each) for each in out]))
    )


def _joined(constants: list[tuple[np.ndarray, str]], needed: str) -> tuple[np.ndarray, str]:
    """The product of all constants, summed over letters that are not ``needed``, and its letters."""
    letters = "".join(dict.fromkeys("".join(text for _, text in constants)))
    numbers = {letter: number for number, letter in enumerate(letters)}
    operands: list = []
    for array, text in constants:
        operands += [array, [numbers[letter] for letter in text]]
    kept = "".join(letter for letter in letters if letter in needed)
    try:
        return np.einsum(*operands, [numbers[letter] for letter in kept]), kept
    except ValueError as error:
        raise Unsupported(f"its constants do not fit: {error}") from None


def _spread_to(array: np.ndarray, text: str, letters: list[str], sizes: dict[str, int]) -> np.ndarray:
    """An array with an axis for each of ``letters``, repeated along those that it does not have."""
    array = array.transpose([text.index(letter) for letter in letters if letter in text])
    array = array[tuple(slice(None) if letter in text else None for letter in letters)]
    return np.broadcast_to(array, [sizes[letter] for letter in letters])


def _block_diagonal(blocks: np.ndarray) -> np.ndarray:
    """(g, k, m) as (g k, g m)."""
    g, k, m = blocks.shape
    joined = np.zeros((g, k, g, m), blocks.dtype)
    joined[np.arange(g), :, np.arange(g)] = blocks
    return joined.reshape(g * k, g * m)


OPERATORS: dict[str, Callable[[Node], Signal]] = {"MatMul": matmul, "Einsum": einsum}
