"""Small transformers whose halves have given forms, fitted to random texts."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from helpers.small_transformers import texts
from repurpose_hpc.model.forward import Compute, compute
from repurpose_hpc.model.network import Network
from repurpose_hpc.model.operations import Operation
from repurpose_hpc.restructure.cut import Cut
from repurpose_hpc.restructure.exact import with_copied_outputs
from repurpose_hpc.restructure.tokens.fits import Shape, fit, most_active
from repurpose_hpc.restructure.tokens.forms import Form, Kind
from repurpose_hpc.restructure.tokens.graph import Decided, cut_for
from repurpose_hpc.restructure.tokens.halves import Half, halves_of
from repurpose_hpc.restructure.tokens.propagation import Propagation, fitting_moments, joint_moments
from repurpose_hpc.restructure.tokens.scales import with_scales

CALIBRATION = texts(0, (9, 14, 20, 11, 9, 17) * 5)


class Wish(NamedTuple):
    """A form for a half; neurons are shared only in a perceptron, and never the last one."""

    kind: Kind
    width: int = 0
    shared: int = 0
    predicts: bool = False
    rounds: int = 0

    def form(self, half: Half) -> Form:
        """For a half that is as wide, or less: then all of it crosses."""
        if self.kind != Kind.NARROW:
            return Form(self.kind, None, 0 if self.kind == Kind.SHARED else 1)
        width = min(self.width, half.width)
        if width == half.width:
            return Form(self.kind, Shape(width, 0, False), self.rounds)
        shared = min(self.shared, half.neurons - 1) if half.is_divisible else 0
        return Form(self.kind, Shape(width, shared, self.predicts), self.rounds)


WISHES = {
    "direct": Wish(Kind.DIRECT),
    "gathered": Wish(Kind.GATHERED),
    "shared": Wish(Kind.SHARED),
    "all in one round": Wish(Kind.NARROW, 10_000, rounds=1),
    "all in two rounds": Wish(Kind.NARROW, 10_000, rounds=2),
    "narrow in one round": Wish(Kind.NARROW, 5, rounds=1),
    "narrow in two rounds": Wish(Kind.NARROW, 5, rounds=2),
    "predicted": Wish(Kind.NARROW, 3, predicts=True, rounds=2),
    "some shared": Wish(Kind.NARROW, 2, 3, rounds=1),
    "some shared and predicted": Wish(Kind.NARROW, 2, 5, True, 2),
    "predicted alone": Wish(Kind.NARROW, 0, predicts=True),
    "some shared alone": Wish(Kind.NARROW, 0, 4),
    "some shared and predicted alone": Wish(Kind.NARROW, 0, 4, True),
    "all shared but one": Wish(Kind.NARROW, 2, 10_000, rounds=2),
    "a mean": Wish(Kind.NARROW, 0),
}


def decided(network: Network, wishes: Sequence[Wish]) -> list[Decided]:
    """The halves of a network whose outputs are not of the stream, by turns in the forms that are wished."""
    propagation, found = Propagation(network.astype(np.float32), CALIBRATION), []
    for number, half in enumerate(halves_of(network)):
        form, fitted = wishes[number % len(wishes)].form(half), None
        propagation.reach(half)
        if form.shape is not None:
            variance = np.diag(joint_moments(propagation, half).covariance)[-half.neurons :]
            shared = np.sort(most_active(half, variance)[: form.shape.shared])
            fitted = fit(half, fitting_moments(propagation, half, shared), form.shape, shared)
        propagation.replace(half, fitted)
        found.append(Decided(half, form, fitted))
    return found


def cut_of(
    network: Network, wishes: Sequence[Wish], part_weights: np.ndarray, comm_dtype: str = "float32"
) -> Cut:
    """A network for workers of these capacities, its halves by turns in the forms that are wished."""
    network = with_copied_outputs(network)
    cut = cut_for(network, decided(network, wishes), part_weights)
    return with_scales(cut, CALIBRATION, comm_dtype)


def original_compute(halves: Sequence[Decided]) -> Compute:
    """Computes operations of the original network, but for what halves add, which is as it was fitted."""
    found, seen = {each.half.name: each for each in halves}, {}
    read = {each.half.read for each in halves}

    def computed(op: Operation, *x: np.ndarray) -> np.ndarray:
        seen.update({name: value for name, value in zip(op.sources, x, strict=True) if name in read})
        each = found.get(op.name)
        if each is None or each.fit is None:
            return compute(op, *x)
        return each.fit.apply(each.half, seen[each.half.read], x[0])

    return computed
