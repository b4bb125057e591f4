"""Optimisers, which update one array at a time: during a backward pass only one gradient need exist.

What they keep between steps are arrays of the shape and dtype of the weights, made when an array is updated
for the first time.  Nothing else of that size is made.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, TypeVar

import numpy as np

from repurpose_hpc.errors import UserError
from repurpose_hpc.fields import Declared, number, option
from repurpose_hpc.kernels.updates.weights import AdamWStep, SGDStep, adamw, sgd

_STEPS = "steps"
_SHARE = number(least=0, below=1, example=0.9)


@dataclass(frozen=True, kw_only=True)
class Hyperparameters(Declared):
    """Numbers that an optimiser takes; each ignores those of others.

    Raises:
        FieldError: a value out of range.
    """

    momentum: float = option(0.9, kind=_SHARE, help="sgd: share of the velocity that a step keeps")
    beta1: float = option(0.9, kind=_SHARE, help="adamw: share of the mean of gradients that a step keeps")
    beta2: float = option(0.999, kind=_SHARE, help="adamw: share of the mean of their squares that it keeps")
    eps: float = option(
        1e-8,
        kind=number(above=0, example=1e-8),
        help="adamw: what is added to the root of that mean, by which the step is divided",
    )
    weight_decay: float = option(
        0.0,
        kind=number(least=0, example=0.01),
        help="adamw: share of a weight that it loses at learning rate 1; sgd: how much of a weight is added "
        "to its gradient",
    )


class Optimiser(ABC):
    """Changes weights by their gradients, and keeps what it needs of earlier steps.

    Attributes:
        name: in the registry.
        keeps: names of the arrays that are kept for each array of weights.
        steps: that were begun.
    """

    name: ClassVar[str]
    keeps: ClassVar[tuple[str, ...]]

    def __init__(self, hyperparameters: Hyperparameters) -> None:
        self.hyperparameters, self.steps = hyperparameters, 0
        self._rate = math.nan  # an update before the first step is seen
        self._kept: dict[str, np.ndarray] = {}

    def begin_step(self, rate: float) -> None:
        """The next step begins; its learning rate is ``rate``.  Every array is then updated once at most."""
        self.steps += 1
        self._rate = rate

    def update(
        self, name: str, weights: np.ndarray, gradient: np.ndarray, decays: bool, size: float = 1.0
    ) -> None:
        """Change an array of weights in place.

        A weight that is 0 and whose gradient has always been 0 stays exactly 0.

        Args:
            name: of the array, the same in every step.
            weights: of any shape, float32 or float64, C-contiguous.
            gradient: of the same shape and dtype, C-contiguous; it is not changed.
            decays: whether the weight decay is for it.
            size: root mean square of what the weights multiply.  They change as if that were scaled to 1, and
                they by the inverse: a learning rate means the same for pixels up to 255 and up to 1.

        Raises:
            ValueError: another shape, dtype or order.
            UserError: what was kept of this name is of another shape or dtype.
        """
        _check_arrays(weights, gradient)
        kept = [self._array(kind, name, weights) for kind in self.keeps]
        decay = self.hyperparameters.weight_decay if decays else 0.0
        arrays = (array.reshape(-1) for array in (weights, gradient, *kept))
        self._apply(*arrays, decay=decay, size=size)

    @abstractmethod
    def _apply(
        self, weights: np.ndarray, gradient: np.ndarray, *kept: np.ndarray, decay: float, size: float
    ) -> None:
        """``update`` of flat arrays, ``kept`` as ``keeps`` names them."""

    def state(self) -> dict[str, np.ndarray]:
        """All that a run needs to go on with the same bits: ``steps`` (int64, ()), and kept arrays.

        These are named ``velocity/NAME`` and the like.  They are those in use, not copies: write them
        before the next step.
        """
        return {_STEPS: np.array(self.steps, np.int64), **self._kept}

    def load(self, state: Mapping[str, np.ndarray]) -> None:
        """Go on from what ``state`` gave; its arrays become those in use and are not copied.

        Raises:
            UserError: the state is that of another optimiser.
        """
        kept = dict(state)
        steps = kept.pop(_STEPS, None)
        kinds = {name.partition("/")[0] for name in kept}
        if steps is None or not kinds <= set(self.keeps):
            found = ", ".join(sorted({name.partition("/")[0] for name in state})) or "nothing"
            raise UserError(
                f"state of the optimiser: expected {_STEPS} and {', '.join(self.keeps)} of {self.name}, "
                f"found {found}; go on with the optimiser of the first run, or begin anew"
            )
        self.steps, self._kept = int(steps), kept

    def _array(self, kind: str, name: str, weights: np.ndarray) -> np.ndarray:
        """What is kept of an array of weights; zeros at first."""
        key = f"{kind}/{name}"
        if key not in self._kept:
            self._kept[key] = np.zeros_like(weights)
        array = self._kept[key]
        if (array.shape, array.dtype) != (weights.shape, weights.dtype):
            raise UserError(
                f"state of the optimiser: expected {kind} of {name} of shape {weights.shape} and type "
                f"{weights.dtype}, found {array.shape} and {array.dtype}; go on with the network of the "
                "first run, or begin anew"
            )
        return array


def _check_arrays(weights: np.ndarray, gradient: np.ndarray) -> None:
    if (gradient.shape, gradient.dtype) != (weights.shape, weights.dtype):
        raise ValueError(
            f"expected a gradient of shape {weights.shape} and type {weights.dtype}, found {gradient.shape} "
            f"and {gradient.dtype}"
        )
    # Others could be made flat only by a copy, and a copy of the weights would be changed instead of them.
    if not (weights.flags.c_contiguous and gradient.flags.c_contiguous):
        raise ValueError("expected weights and gradient to be C-contiguous")


_Class = TypeVar("_Class", bound=type[Optimiser])
OPTIMISERS: dict[str, type[Optimiser]] = {}


def optimiser(name: str) -> Callable[[_Class], _Class]:
    """A decorator that puts a class into the registry."""

    def register(cls: _Class) -> _Class:
        cls.name = name
        OPTIMISERS[name] = cls
        return cls

    return register


@optimiser("adamw")
class AdamW(Optimiser):
    """AdamW: the mean of gradients over the root of the mean of their squares, both unbiased.

    Weight decay is decoupled: it takes rate · weight_decay · weight from a weight.  Means are unbiased by the
    number of steps of the optimiser, not of the array.
    """

    keeps = "mean", "square"

    def _apply(
        self, weights: np.ndarray, gradient: np.ndarray, *kept: np.ndarray, decay: float, size: float
    ) -> None:
        given = self.hyperparameters
        step = AdamWStep(
            rate=self._rate / size / (1 - given.beta1**self.steps),
            root=1 / math.sqrt(1 - given.beta2**self.steps),
            beta1=given.beta1,
            beta2=given.beta2,
            eps=given.eps * size,
            decay=self._rate * decay,
        )
        adamw(weights, gradient, *kept, step)


@optimiser("sgd")
class SGD(Optimiser):
    """Gradient descent with momentum; the weight decay is a part of the gradient, weight_decay · weight."""

    keeps = ("velocity",)

    def _apply(
        self, weights: np.ndarray, gradient: np.ndarray, *kept: np.ndarray, decay: float, size: float
    ) -> None:
        step = SGDStep(self._rate / size**2, self.hyperparameters.momentum, decay * size**2)
        sgd(weights, gradient, *kept, step)
