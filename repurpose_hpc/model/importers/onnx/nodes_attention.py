"""ONNX operators of which attention is written, and those that are one by themselves.

``absorb`` takes the nodes between the product of queries and keys and that of weights and values, see
``scores``.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import reduce

import numpy as np

from repurpose_hpc.errors import Note
from repurpose_hpc.model.activations import Activation
from repurpose_hpc.model.importers.onnx.node import Node
from repurpose_hpc.model.importers.onnx.nodes_elementwise import with_expression
from repurpose_hpc.model.importers.onnx.nodes_layout import reshaped_sizes
from repurpose_hpc.model.importers.onnx.scores import UNSEEN, Mask, Scores
from repurpose_hpc.model.importers.onnx.signal import Moved, Signal, Unsupported, Value
from repurpose_hpc.model.operations import Attention

Absorbed = Scores | Signal | Moved

# Added where a position is not seen, if that is known at run time only: no weight is left.
_FAR_BELOW = -1e30
_FLOATS = (1, 10, 11, 16)  # ONNX's numbers of float32, float16, float64 and bfloat16


def absorb(node: Node) -> Absorbed | None:
    """The scores, or the attention, that a node makes; None if it has no part in one."""
    reads_scores = any(isinstance(value, Scores) for value in node.inputs)
    if node.operator not in _PIECES or not (reads_scores or node.operator in _PRODUCTS):
        return None
    try:
        return _PIECES[node.operator](node)
    except (Unsupported, ValueError):  # shapes that do not fit are refused where they are used otherwise
        return None


def _product(node: Node) -> Absorbed | None:
    """Queries times keys, or weights times values."""
    left, right = node.inputs
    if not isinstance(right, (Signal, Moved)):
        return None
    if isinstance(left, Scores):
        return _attention(node, left, right) if left.stage == "weights" else None
    if not isinstance(left, (Signal, Moved)) or min(len(left.shape), len(right.shape)) < 3:
        return None
    queries, keys = _by_head(left), _by_head(right)
    if type(left) is not type(right) or queries.shape[3] != keys.shape[2]:
        return None
    if isinstance(left, Moved) and left.shape[0] != right.shape[0]:
        return None
    lead = left.shape[:-2]
    if isinstance(left, Signal):
        if len(left.shape) != len(right.shape):  # samples of one would meet other axes of the other
            return None
        lead = (left.shape[0], *np.broadcast_shapes(left.shape[1:-2], right.shape[1:-2]))
        assert isinstance(right, Signal)
        queries, keys = (_with_heads(signal, lead[1:]) for signal in (left, right))
    keys = keys.placed(keys.places.swapaxes(1, 2))
    return Scores(queries, keys, (*lead, queries.shape[2], keys.shape[2]))


def _einsum(node: Node) -> Absorbed | None:
    """The same products, their axes named by letters."""
    terms, arrow, out = node.text("equation", "").replace(" ", "").partition("->")
    left, right = terms.split(",")
    letters = [*left, *right, *out]
    if not arrow or "." in letters or any(isinstance(value, Moved) for value in node.inputs):
        return None
    if isinstance(node.inputs[0], Scores):
        return _einsum_of_values(node, left, right, out)
    a, b = node.inputs
    if not isinstance(a, Signal) or not isinstance(b, Signal) or min(len(left), len(right)) < 3:
        return None
    kept = [letter for letter in out if letter in left and letter in right]
    rows, columns = ([x for x in term if x not in other] for term, other in ((left, right), (right, left)))
    summed = [letter for letter in left if letter in right and letter not in out]
    is_scores = [*out] == [*kept, *rows, *columns] and kept[:1] == [left[0]] == [right[0]]
    if not is_scores or not len(rows) == len(columns) == len(summed) == 1:
        return None
    queries = _transposed(a, left, [*kept, *rows, *summed])
    keys = _transposed(b, right, [*kept, *columns, *summed])
    queries, keys = _with_heads(queries, queries.shape[1:-2]), _with_heads(keys, keys.shape[1:-2])
    shape = (*(dict(zip(left, a.shape, strict=True))[x] for x in kept), queries.shape[2], keys.shape[2])
    return Scores(queries, keys, shape)


def _einsum_of_values(node: Node, left: str, right: str, out: str) -> Absorbed | None:
    scores, values = node.inputs
    assert isinstance(scores, Scores)
    lead, (row, column) = left[:-2], left[-2:]
    features = [letter for letter in right if letter not in left]
    if not isinstance(values, Signal) or scores.stage != "weights" or len(features) != 1:
        return None
    if {*right} != {*lead, column, *features} or {*out} != {*lead, row, *features} or out[0] != left[0]:
        return None
    result = _attention(node, scores, _transposed(values, right, [*lead, column, *features]))
    return (
        _transposed(result, "".join([*lead, row, *features]), [*out]) if isinstance(result, Signal) else None
    )


def _transposed(signal: Signal, letters: str, order: list[str]) -> Signal:
    """A signal with its axes, named by letters, in another order; the samples stay in front."""
    return signal.placed(signal.places.transpose([letters.index(letter) - 1 for letter in order[1:]]))


def _by_head(value: Signal | Moved) -> Signal:
    """A value as (samples, heads, rows, columns); heads may be on one axis with the samples.

    Raises:
        Unsupported: the samples are somewhere else.
    """
    signal = value.signal if isinstance(value, Moved) else value
    *lead, rows, columns = value.shape
    heads, rest = divmod(math.prod(lead), signal.shape[0])
    if rest or isinstance(value, Moved) and value.axis > 0:
        raise Unsupported(f"its samples are not in front of shape {value.shape}")
    return signal.reshaped((signal.shape[0], heads, rows, columns))


def _with_heads(signal: Signal, lead: tuple[int, ...]) -> Signal:
    """A signal (samples, ..., rows, columns), broadcast to all heads, as (samples, heads, rows, columns)."""
    sizes = signal.shape[-2:]
    return signal.placed(np.broadcast_to(signal.places, (*lead, *sizes)).reshape(-1, *sizes))


def _scaled(node: Node) -> Scores | None:
    """Scores times or divided by a number."""
    place, scores = _place_of_scores(node)
    number, is_divided = node.constant(1 - place), node.operator == "Div"
    is_number = number.size == 1 and number.ndim <= len(scores.shape)
    if not is_number or (is_divided and place == 1) or scores.masks or scores.stage != "scores":
        return None
    factor = 1 / float(number.item()) if is_divided else float(number.item())
    if scores.softcap:  # tanh(scores / softcap) softcap times a factor
        return replace(scores, scale=scores.scale * factor, softcap=scores.softcap * factor)
    return replace(scores, scale=scores.scale * factor)


def _capped(node: Node) -> Scores | None:
    """The hyperbolic tangent of scores."""
    (scores,) = node.inputs
    assert isinstance(scores, Scores)
    is_plain = scores.stage == "scores" and not scores.masks and not scores.softcap
    return replace(scores, softcap=1.0) if is_plain else None


def _masked(node: Node) -> Scores | None:
    """Scores and a mask, added."""
    if len(node.inputs) != 2:
        return None
    place, scores = _place_of_scores(node)
    other = node.inputs[1 - place]
    if isinstance(other, (Scores, Moved)) or scores.stage != "scores":
        return None
    if isinstance(other, Signal):
        return scores.with_signal(other)
    return scores.with_constant(node.constant(1 - place))


def _chosen(node: Node) -> Scores | None:
    """Scores where a mask allows them, a very low number elsewhere; weights where they are defined."""
    condition, if_true, if_false = node.inputs
    if isinstance(condition, Scores):
        return _defined(node, condition, if_false)
    scores, place = (if_true, 2) if isinstance(if_true, Scores) else (if_false, 1)
    fill = node.constant(place)
    if not isinstance(scores, Scores) or scores.stage != "scores" or not (fill <= UNSEEN).all():
        return None
    is_known = isinstance(condition, np.ndarray) and all(isinstance(m, np.ndarray) for m in scores.masks)
    if scores.masks and np.isfinite(fill).any() and not is_known:
        text = f"{node}: where none of several masks leaves anything to see, other means are computed"
        warnings.warn(text, Note, stacklevel=2)
    if isinstance(condition, Signal):
        return scores.with_signal(_of_truth(node, condition, place == 2, bool(np.isinf(fill).all())))
    seen = node.constant(0).astype(bool) == (place == 2)
    if np.isfinite(fill).any() and not seen.any(axis=-1).all():
        return None  # where nothing is seen, the mean of all is computed
    return scores.with_constant(np.where(seen, 0.0, fill))


def _of_truth(node: Node, truth: Signal, sees: bool, is_infinite: bool) -> Signal:
    """What is added to scores: 0 where ``truth`` is ``sees``, -inf or a very low number elsewhere."""
    expression, name = truth.expression, node.name
    if is_infinite:
        seen = expression if sees else expression.scaled(-1.0, name).shifted(1.0, name)
        return with_expression(node, truth, seen.then(Activation("log"), name))
    unseen = expression.shifted(-1.0, name) if sees else expression
    return with_expression(node, truth, unseen.scaled(-_FAR_BELOW if sees else _FAR_BELOW, name))


def _defined(node: Node, undefined: Scores, weights: Value | Scores | None) -> Scores | None:
    """Weights with zeros where all scores of a position are -inf."""
    if not isinstance(weights, Scores) or undefined.stage != "undefined" or node.constant(1).any():
        return None
    is_same = replace(undefined, stage="weights", plain=weights.plain).is_like(weights)
    return replace(weights, may_be_empty=True) if is_same else None


def _weights(node: Node) -> Scores | None:
    """The Softmax over the keys."""
    (scores,) = node.inputs
    assert isinstance(scores, Scores)
    axis = node.attributes.get("axis", -1 if node.opset >= 13 else 1)
    is_last = axis in (-1, len(scores.shape) - 1)
    return replace(scores, stage="weights") if is_last and scores.stage == "scores" else None


def _undefined(node: Node) -> Scores | None:
    """Where weights are NaN."""
    (weights,) = node.inputs
    assert isinstance(weights, Scores)
    return replace(weights, stage="undefined") if weights.stage == "weights" else None


def _same(node: Node) -> Scores | None:
    """Scores as they are, in another precision perhaps."""
    scores = node.inputs[0]
    is_float = node.attributes.get("to", _FLOATS[0]) in _FLOATS
    is_training = node.operator == "Dropout" and node.input(2) is not None and node.constant(2).any()
    return scores if isinstance(scores, Scores) and is_float and not is_training else None


def _reshaped(node: Node) -> Scores | None:
    """Samples and heads on other axes."""
    scores = node.inputs[0]
    if not isinstance(scores, Scores):
        return None
    shape = reshaped_sizes(node, scores.shape)
    return replace(scores, shape=shape) if shape[-2:] == scores.shape[-2:] else None


def _place_of_scores(node: Node) -> tuple[int, Scores]:
    """The first input that is scores, and they."""
    for place, value in enumerate(node.inputs):
        if isinstance(value, Scores):
            return place, value
    raise Unsupported("it reads no scores")


def _attention(node: Node, scores: Scores, value: Signal | Moved) -> Signal | Moved | None:
    """The attention of scores over values, in the shape that the product has in ONNX."""
    values = _with_heads(value, scores.shape[1:-2]) if isinstance(value, Signal) else _by_head(value)
    samples = scores.queries.shape[0]
    if values.shape[1] != scores.heads or values.shape[2] != scores.shape[-1]:
        return None
    result = attend(node, scores, values)
    shape = (*scores.shape[:-1], values.shape[3])
    return result.reshaped(shape) if shape[0] == samples else Moved(result, 0, shape)


def attend(node: Node, scores: Scores, values: Signal) -> Signal:
    """The attention of scores over values (samples, heads, T, e), as (samples, heads, S, e).

    Raises:
        Unsupported: the values of one neuron would have to be spread over others, too many of them.
    """
    tensors, heads = node.tensors, scores.heads
    shared = _shared(scores.keys.places, values.places)
    queries, scale = _without_factor(scores.queries, scores.scale)
    keys, scale = _without_factor(scores.keys, scale)
    read = [queries, _every(keys, shared), _every(values, shared)]
    sources = [tensors.map(_neurons_first(signal)) for signal in read]
    mask = Mask.of(scores)
    name = tensors.name(node.name)
    op = Attention(
        name=name,
        sources=(*sources, *_mask_tensor(node, scores)),
        target=f"{name}.y",
        heads=heads,
        groups=heads // shared,
        scale=scale,
        softcap=abs(scores.softcap),
        before=mask.before,
        after=mask.after,
        bias=mask.bias,
        seen=mask.seen,
    )
    target = tensors.builder.attention(op)
    rows, features = scores.shape[-2], values.shape[3]
    result = tensors.signal(target, (values.shape[0], heads * features, rows), str(node))
    return result.placed(result.places.reshape(heads, features, rows).swapaxes(1, 2))


def _shared(keys: np.ndarray, values: np.ndarray) -> int:
    """How many heads that follow one another read the same keys and values; both (heads, ...)."""
    heads = len(keys)
    for shared in range(heads, 1, -1):
        if heads % shared == 0 and all(_repeats(places, shared) for places in (keys, values)):
            return shared
    return 1


def _repeats(places: np.ndarray, count: int) -> bool:
    grouped = places.reshape(len(places) // count, count, -1)
    return bool((grouped == grouped[:, :1]).all())


def _every(signal: Signal, step: int) -> Signal:
    """Every ``step``-th head of a signal (samples, heads, rows, columns)."""
    return signal.placed(signal.places[::step])


def _without_factor(signal: Signal, scale: float) -> tuple[Signal, float]:
    """A signal without numbers that it is multiplied by last, and ``scale`` with them."""
    expression = signal.expression
    while expression.function == "scale":
        scale *= float(expression.operands[1])  # type: ignore[arg-type]
        expression = expression.operand
    return replace(signal, expression=expression), scale


def _neurons_first(signal: Signal) -> Signal:
    """A signal (samples, heads, positions, features) as (samples, heads x features, positions)."""
    places = signal.places.swapaxes(1, 2)
    return signal.placed(places.reshape(-1, places.shape[2]))


def _mask_tensor(node: Node, scores: Scores) -> list[str]:
    """The tensor of the masks that are values of the graph, one neuron for each head; none: no tensor."""
    masks = [mask for mask in scores.masks if isinstance(mask, Signal)]
    rows = max((mask.shape[2] for mask in masks), default=1)
    tensors = [_mask_by_head(node, mask, scores.heads, rows) for mask in masks]
    if not tensors:
        return []
    names, builder = node.tensors, node.tensors.builder
    return [reduce(lambda a, b: builder.combine(names.name(f"{node.name}.masks"), a, b, "add"), tensors)]


def _mask_by_head(node: Node, mask: Signal, heads: int, rows: int) -> str:
    """A mask as a tensor of a neuron for each head and ``rows`` times as many positions as there are keys.

    What it is a function of is moved there, and then the function computed: it may be -inf, which no sum
    with a weight of 0 leaves out.
    """
    tensors, expression, (_, count, _, keys) = node.tensors, mask.expression, mask.shape
    argument = replace(mask, expression=tensors.expression(expression.tensor, expression.size))
    places = np.broadcast_to(argument.places, (count, rows, keys)).reshape(count, -1)
    tensor = tensors.map(argument.placed(places))
    if count < heads or expression.operands:
        of_heads = np.ones((heads, 1), np.float32) if count < heads else np.eye(heads, dtype=np.float32)
        tensor = tensors.sums(f"{node.name}.mask", tensor, of_heads)
    shape = (mask.shape[0], heads, rows * keys)
    moved = Signal(expression.of(tensor, heads * rows * keys), shape, origin=mask.origin)
    return tensors.settled(moved).expression.tensor


def attention(node: Node) -> Signal:
    """Queries, keys and values, of three axes or four; perhaps a mask."""
    if node.outputs > 1 or any(node.has(place) for place in (4, 5, 6)):
        raise Unsupported("it has keys and values of earlier positions, expected none")
    H, G = (node.attributes.get(name) for name in ("q_num_heads", "kv_num_heads"))
    counts = zip((0, 1, 2), (H, G, G), strict=True)
    queries, keys, values = (_with_axis_of_heads(node.signal(place), count) for place, count in counts)
    heads, groups = queries.shape[1], keys.shape[1]
    if groups < 1 or heads % groups or values.shape[1] != groups:
        raise Unsupported(f"it has {heads} heads of queries, {groups} of keys, {values.shape[1]} of values")
    keys, values = (signal.placed(signal.places.repeat(heads // groups, 0)) for signal in (keys, values))
    scores = _with_options(node, Scores(queries, keys, (*queries.shape[:3], keys.shape[2])))
    result = attend(node, scores, values)
    if len(node.signal(0).shape) == 4:
        return result
    joined = result.places.swapaxes(0, 1)
    return result.placed(joined.reshape(len(joined), -1))


def _with_axis_of_heads(signal: Signal, heads: int | None) -> Signal:
    """A signal as (samples, heads, positions, features); of three axes, the heads are on the last."""
    if len(signal.shape) == 4:
        return signal
    if len(signal.shape) != 3 or not heads or signal.shape[2] % heads:
        raise Unsupported(f"its input of shape {signal.shape[1:]} has no {heads} heads")
    samples, positions, features = signal.shape
    split = signal.reshaped((samples, positions, heads, features // heads))
    return split.placed(split.places.swapaxes(0, 1))


def _with_options(node: Node, scores: Scores) -> Scores:
    """Scores with the scale, the soft cap and the masks of an ``Attention``."""
    features, rows, columns = scores.queries.shape[3], *scores.shape[-2:]
    scale = node.attributes.get("scale", 1 / math.sqrt(features))
    softcap = node.attributes.get("softcap", 0.0)
    scores = replace(scores, scale=scale, softcap=softcap, may_be_empty=True)
    mask = node.input(3)
    if isinstance(mask, Signal):
        truth = mask.expression.is_truth
        scores = scores.with_signal(_of_truth(node, mask, True, True) if truth else mask)
    elif mask is not None:
        scores = scores.with_constant(_to_all_keys(node.constant(3), columns))
    before, after = (node.attributes.get(f"{side}_window_size", -1) for side in ("left", "right"))
    if node.attributes.get("is_causal", 0):
        after = 0
    distance = np.arange(columns) - np.arange(rows)[:, None]
    is_far = (before >= 0) & (distance < -before) | (after >= 0) & (distance > after)
    return scores.with_constant(np.where(is_far, -np.inf, 0.0)) if is_far.any() else scores


def _to_all_keys(mask: np.ndarray, keys: int) -> np.ndarray:
    """A mask of the operator as numbers; keys behind those that it has are not seen."""
    numbers = np.where(mask, 0.0, -np.inf) if mask.dtype == bool else mask
    if mask.ndim == 0 or mask.shape[-1] in (1, keys):
        return numbers
    missing = [(0, 0)] * (mask.ndim - 1) + [(0, keys - mask.shape[-1])]
    return np.pad(numbers, missing, constant_values=-np.inf)


_PRODUCTS = ("MatMul", "Einsum")
_PIECES: dict[str, Callable[[Node], Absorbed | None]] = {
    "MatMul": _product,
    "Einsum": _einsum,
    **dict.fromkeys(("Mul", "Div"), _scaled),
    **dict.fromkeys(("Add", "Sum"), _masked),
    "Tanh": _capped,
    "Where": _chosen,
    "Softmax": _weights,
    "IsNaN": _undefined,
    **dict.fromkeys(("Identity", "Cast", "Dropout"), _same),
    **dict.fromkeys(("Reshape", "Squeeze", "Unsqueeze"), _reshaped),
}

OPERATORS: dict[str, Callable[[Node], Value | Iterable[Value]]] = {"Attention": attention}
