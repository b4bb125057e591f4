"""What belongs to a transformer beside its network, for texts."""

from __future__ import annotations

from typing import NamedTuple


class Pooling(NamedTuple):
    """How a text's vector is made.

    Attributes:
        pool: of the outputs of its tokens: ``first``, ``last``, ``mean``, or ``none``.
        is_normalised: whether its length is 1.
    """

    pool: str
    is_normalised: bool


UNPOOLED = Pooling("none", False)


class TextRules(NamedTuple):
    """What the files of a model say of texts.

    Attributes:
        tokenizer: content of a ``tokenizer.json``; "": there is none.
        ends: tokens after which a text ends.
        pooling: of a text's outputs; None: of a kind that is not supported.
    """

    tokenizer: str = ""
    ends: tuple[int, ...] = ()
    pooling: Pooling | None = UNPOOLED


NO_RULES = TextRules()
