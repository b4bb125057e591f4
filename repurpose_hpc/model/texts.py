"""What belongs to a transformer beside its network, for texts; and which texts it can read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from repurpose_hpc.errors import UserError
from repurpose_hpc.model.network import Network
from repurpose_hpc.model.operations import UNLIMITED, Attention, Retention


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


def check_texts(texts: Sequence[np.ndarray], longest: int, vocabulary: int, padding: int | None) -> None:
    """Refuse texts that a network of tokens cannot read.

    Args:
        texts: ids of each, (tokens,).
        longest: tokens that a text may have.
        vocabulary, padding: see ``check_ids``.

    Raises:
        UserError: names the first text without tokens or with too many, or the first id that stands for none.
    """
    for place, text in enumerate(texts):
        if not 1 <= text.size <= longest:
            raise UserError(
                f"expected texts of 1 to {longest} tokens, as the model has positions, got {text.size} in "
                f"text {place} (counted from 0); divide it, or leave it out"
            )
        check_ids(text, vocabulary, padding, f" of text {place}")


def check_ids(ids: np.ndarray, vocabulary: int, padding: int | None, text: str = "") -> None:
    """Refuse numbers that stand for no token, and that of padding.

    Args:
        ids: of a text.
        vocabulary: how many tokens there are.
        padding: see ``Ends.padding``.
        text: which one it is, in words, if there are several.

    Raises:
        UserError: names the first.
    """
    wrong = np.flatnonzero((ids < 0) | (ids >= vocabulary))
    if wrong.size:
        raise UserError(
            f"expected token ids from 0 to {vocabulary - 1}, the vocabulary of the model, found "
            f"{ids[wrong[0]]} at place {wrong[0]}{text} (counted from 0); check that tokenizer and model "
            "belong together"
        )
    padded = np.flatnonzero(ids == padding)
    if padded.size:
        raise UserError(
            f"expected texts without padding, found its id {padding} at place {padded[0]}{text} (counted "
            "from 0): this model has no position for it; give ids of texts as long as they are, or "
            "attention_mask beside input_ids, which says where they end"
        )


def is_causal(network: Network) -> bool:
    """Whether no token sees one behind it."""
    attentions = [op for op in network.operations if isinstance(op, Attention)]
    return all(op.after != UNLIMITED and op.after <= 0 for op in attentions)


def keeps_states(network: Network) -> bool:
    """Whether something is kept of a sequence that cannot be taken back to an earlier token."""
    return any(isinstance(op, Retention) for op in network.operations)


def is_decoder(network: Network) -> bool:
    """Whether the outputs of a token tell the next: one for each of the vocabulary, and none looks ahead."""
    has_logits = len(network.output_tensors) == 1 and network.outputs == len(network.ends.embeddings)
    return has_logits and is_causal(network)


def tokens_alone(graph: Network) -> set[str]:
    """The tensors behind as many operations that look around in a sequence as there are on any path.

    None of these operations reads them.  A mixing that reads one tensor of the first stage among them reads
    the target of such an operation, which nothing in the first stage reads: no ghosts are needed in both.
    """
    looked = dict.fromkeys(graph.input_tensors, 0)
    alone = {}
    for op in graph.operations:
        before = max(looked[source] for source in op.sources)
        looked[op.target], alone[op.target] = before + op.looks_around, before
    most = max(looked.values())
    return {target for target, before in alone.items() if before == most}
