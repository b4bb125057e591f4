"""Rotations by position in a network on sequences, as graphs write them with cosines and sines.

However they are written, what comes out is a sum of at most two neurons of what goes in, each times a number
of the position.  From these numbers the rotation is recognised.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from repurpose_hpc.model.network import Network
from repurpose_hpc.model.operations import Affine, Combine, Operation, Rotary, Select

# Of cosines and sines of angles in float32: of themselves, and of the angles.
_TOLERANCE, _OF_ANGLES = 1e-6, 2.0**-22


class _Form(NamedTuple):
    """The neurons of a tensor as sums over those of another.

    Attributes:
        neurons: of the other, (n, terms).
        factors: of these, (n, terms, positions) float64; 0 where there are fewer terms.
    """

    neurons: np.ndarray
    factors: np.ndarray


def rotations_of(network: Network) -> dict[str, tuple[Select, Rotary]]:
    """The rotations in a network, by target: neurons that are chosen, and how they are turned.

    Args:
        network: on sequences of one length; all of its tensors have one value of a neuron for each position.
    """
    search = _Search(network)
    for op in network.operations:
        if isinstance(op, (Combine, Select)):
            search.look_at(op)
    return search.found


class _Search:
    """The rotations in a network as far as its operations have been looked at.

    Attributes:
        found: see ``rotations_of``.
    """

    def __init__(self, network: Network) -> None:
        self._network = network
        self._makers: dict[str, Operation] = {op.target: op for op in network.operations}
        self._numbers = {op.target: number for number, op in enumerate(network.operations)}
        self.found: dict[str, tuple[Select, Rotary]] = {}

    def look_at(self, op: Operation) -> None:
        """Add an operation that makes the last tensor of a rotation."""
        source = self._origin(op.target)
        if source is None:
            return
        own = np.arange(self._network.space(source).neurons)[:, None]
        form = self._form(op.target, {source: _Form(own, np.ones((len(own), 1, 1)))})
        rotation = _recognised(op, source, form)
        if rotation is not None:
            self.found[op.target] = rotation

    def _origin(self, target: str) -> str | None:
        """The last tensor of which alone ``target`` is made, by steps of which one depends on the position.

        None if there is no such tensor.
        """
        pending, is_positional = {target}, False
        while len(pending) > 1 or not is_positional:
            last = max(pending, key=lambda tensor: self._numbers.get(tensor, -1))
            op = self._makers.get(last)
            if op is None or last in self.found or not _is_linear(op):
                return None
            pending.remove(last)
            pending.update(op.sources)
            is_positional |= isinstance(op, Affine) and op.scale.shape[1] > 1
        return pending.pop()

    def _form(self, tensor: str, forms: dict[str, _Form]) -> _Form:
        """The form of a tensor; ``forms``: those that are known, more are added."""
        if tensor not in forms:
            op = self._makers[tensor]
            forms[tensor] = _form_of(op, [self._form(source, forms) for source in op.sources])
        return forms[tensor]


def _is_linear(op: Operation) -> bool:
    if isinstance(op, Affine):
        return not op.shift.any()
    return isinstance(op, Select) or (isinstance(op, Combine) and op.kind in ("add", "subtract"))


def _form_of(op: Operation, sources: list[_Form]) -> _Form:
    """The form of the target of an operation from those of its sources."""
    if isinstance(op, Affine):
        (form,) = sources
        return form._replace(factors=form.factors * op.scale[:, None])
    terms = max(form.neurons.shape[1] for form in sources)
    positions = max(form.factors.shape[2] for form in sources)
    sources = [_widened(form, terms, positions) for form in sources]
    if isinstance(op, Select):
        neurons, factors = (np.concatenate(arrays)[op.index] for arrays in zip(*sources, strict=True))
        return _Form(neurons, factors)
    (left, right), sign = sources, -1.0 if isinstance(op, Combine) and op.kind == "subtract" else 1.0
    neurons = np.concatenate([left.neurons, right.neurons], 1)
    return _Form(neurons, np.concatenate([left.factors, sign * right.factors], 1))


def _widened(form: _Form, terms: int, positions: int) -> _Form:
    missing = terms - form.neurons.shape[1]
    factors = np.broadcast_to(form.factors, (*form.neurons.shape, positions))
    return _Form(
        np.pad(form.neurons, ((0, 0), (0, missing))), np.pad(factors, ((0, 0), (0, missing), (0, 0)))
    )


def _recognised(op: Operation, source: str, form: _Form) -> tuple[Select, Rotary] | None:
    """The rotation of a form; None if it is none."""
    # At the first position nothing is turned.
    is_own = form.factors[:, :, 0] != 0
    if form.neurons.shape[1] != 2 or not (is_own.sum(axis=1) == 1).all():
        return None
    chosen, cosines, sines = form.neurons[is_own], form.factors[is_own], form.factors[~is_own]
    pairs = _pairs(chosen, np.where(sines.any(axis=1), form.neurons[~is_own], chosen))
    if pairs is None:
        return None
    firsts, seconds = pairs
    stays = np.ones(len(chosen), bool)
    stays[firsts] = stays[seconds] = False
    is_turned = _is_near(cosines[firsts], cosines[seconds]) and _is_near(sines[firsts], -sines[seconds])
    if not is_turned or (cosines[stays] != 1).any():
        return None
    frequencies, factor = _frequencies(cosines[firsts], sines[seconds])
    layout = _layout(len(chosen), firsts, seconds, frequencies)
    if layout is None or not _fits(cosines[firsts], sines[seconds], frequencies, factor):
        return None
    heads, is_interleaved = layout
    select = Select(f"{op.name}.chosen", (source,), f"{op.name}.chosen.y", chosen)
    own = frequencies[: len(firsts) // heads]
    return select, Rotary(op.name, select.target, op.target, heads, own, is_interleaved, factor)


def _pairs(chosen: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """The first and the second neuron of every pair; None if there are no pairs.

    Args:
        chosen: numbers of the neurons.
        others: those of their partners, or their own.
    """
    own = np.arange(len(chosen))
    places = dict(zip(chosen.tolist(), own.tolist(), strict=True))
    partner = np.array([places.get(neuron, -1) for neuron in others.tolist()])
    if len(places) < len(chosen) or (partner < 0).any() or (partner[partner] != own).any():
        return None
    firsts = np.flatnonzero(partner > own)
    return (firsts, partner[firsts]) if len(firsts) else None


def _layout(
    neurons: int, firsts: np.ndarray, seconds: np.ndarray, frequencies: np.ndarray
) -> tuple[int, bool] | None:
    """How many heads have these pairs, as many as there may be, and whether the pairs are neighbours.

    None if no heads are of this kind.
    """
    numbers = np.arange(len(firsts))
    for heads in range(len(firsts), 0, -1):
        if len(firsts) % heads or neurons % heads:
            continue
        pairs = len(firsts) // heads
        starts = numbers // pairs * (neurons // heads)
        repeated = np.tile(frequencies[:pairs], heads)
        if not np.allclose(repeated, frequencies, rtol=1e-6, atol=0):
            continue
        for is_interleaved, step, distance in ((False, 1, pairs), (True, 2, 1)):
            expected = starts + step * (numbers % pairs)
            if np.array_equal(firsts, expected) and np.array_equal(seconds, expected + distance):
                return heads, is_interleaved
    return None


def _is_near(left: np.ndarray, right: np.ndarray) -> bool:
    return np.allclose(left, right, rtol=0, atol=_TOLERANCE * np.abs(left).max(initial=0))


def _frequencies(cosines: np.ndarray, sines: np.ndarray) -> tuple[np.ndarray, float]:
    """Radians per position of every row (rows, positions), and the factor of what is turned.

    From positions that are twice as far each time: an angle far out says the most.
    """
    frequencies = np.zeros(len(cosines))
    place = 1
    while place < cosines.shape[1]:
        angles = np.arctan2(sines[:, place], cosines[:, place])
        missed = angles - place * frequencies
        frequencies += (missed - 2 * np.pi * np.round(missed / (2 * np.pi))) / place
        place *= 2
    return frequencies, float(cosines[0, 0])


def _fits(cosines: np.ndarray, sines: np.ndarray, frequencies: np.ndarray, factor: float) -> bool:
    angles = frequencies[:, None] * np.arange(cosines.shape[1])
    allowed = abs(factor) * (_TOLERANCE + _OF_ANGLES * np.abs(angles))
    return bool(
        (np.abs(cosines - factor * np.cos(angles)) <= allowed).all()
        and (np.abs(sines - factor * np.sin(angles)) <= allowed).all()
    )
