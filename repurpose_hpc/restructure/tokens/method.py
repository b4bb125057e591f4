"""What the method for networks of tokens consists of, to be left out one by one."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TokenMethod:
    """Ingredients.

    Attributes:
        shares: all workers may compute a half of a block, or neurons of a perceptron.
        predicts: what x tells of y need not cross.
        senses: errors of halves are weighed by what they do to the outputs.
        rotates: what crosses are directions of the stream; else neurons of it, those with the largest errors.
        adjusts: what stands for y is fitted; else it is what it was, without what does not cross.
    """

    shares: bool = True
    predicts: bool = True
    senses: bool = True
    rotates: bool = True
    adjusts: bool = True


FULL = TokenMethod()
