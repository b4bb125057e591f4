"""Texts that a causal transformer writes: prompts are read in chunks, then every step adds a token to each.

The root chooses the tokens, from the most probable ones that every rank has, and sends them to all ranks
(``MPI_Bcast``).
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np

from repurpose_hpc.errors import UserError
from repurpose_hpc.model.texts import is_causal
from repurpose_hpc.runtime.candidates import Candidates
from repurpose_hpc.runtime.tokens import Tokens, TokenSession

if TYPE_CHECKING:
    from mpi4py import MPI


@dataclass(frozen=True)
class Sampling:
    """The choice of a token from its logits.

    Attributes:
        temperature: that logits are divided by; 0: the most probable token.
        top_k: of so many most probable tokens; 0: of all.
        top_p: of the most probable ones that together have this probability.
        seed: of what is drawn; each sequence draws for itself.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0

    def candidates(self, vocabulary: int) -> int:
        """How many of the most probable tokens must be known to choose one."""
        return 1 if self.temperature == 0 else self.top_k or vocabulary

    def choose(self, candidates: Candidates, rng: np.random.Generator) -> int:
        """A token, from as many ``candidates`` as there must be, or all of a smaller vocabulary."""
        ids, logits = candidates
        if self.temperature == 0:
            return int(ids[0])
        below = logits.astype(np.float64) - logits[0]
        with np.errstate(over="ignore"):  # of a temperature near 0, all but the largest are infinitely far
            probabilities = np.exp(below / self.temperature)
        probabilities /= probabilities.sum()
        before = np.cumsum(probabilities) - probabilities
        probabilities[before >= self.top_p] = 0
        return int(ids[rng.choice(ids.size, p=probabilities / probabilities.sum())])


@dataclass
class Generated:
    """What was generated.

    Attributes:
        ids: of each sequence the new tokens, the one that ended it included.
        prompt_tokens: read.
        prompt_seconds: that took.
        steps: after that.
        step_seconds: that took.
        is_interrupted: whether somebody stopped it.
    """

    ids: list[list[int]]
    prompt_tokens: int = 0
    prompt_seconds: float = 0.0
    steps: int = 0
    step_seconds: float = 0.0
    is_interrupted: bool = False
    phases: dict[str, float] = field(default_factory=dict)


def generate(
    session: TokenSession,
    prompts: Sequence[np.ndarray],
    tokens: int,
    sampling: Sampling,
    ends: Sequence[int] = (),
    comm: MPI.Comm | None = None,
    told: Callable[[int, int], None] = lambda sequence, token: None,
) -> Generated:
    """Let every prompt be continued; collective, all ranks give the same.

    Args:
        session: with a slot for each prompt, and nothing in them.
        prompts: ids of each, (n,) integers.
        tokens: new ones of each, at most.
        sampling: how they are chosen.
        ends: tokens after which a sequence ends; that of padding is one of them.
        comm: of the session.
        told: called on the root with sequence and token as they come.

    Raises:
        UserError: on every rank: the network writes no text, or logits are not finite; see
            ``TokenSession.candidates``.
    """
    _check(session, prompts, tokens)
    final = {*ends, session.padding}
    draws = [np.random.default_rng([sampling.seed, place]) for place in range(len(prompts))]
    result = Generated([[] for _ in prompts], prompt_tokens=sum(prompt.size for prompt in prompts))
    began = perf_counter()
    active, count = list(range(len(prompts))), sampling.candidates(session.vocabulary)
    with _interruption() as interrupted:
        candidates = session.candidates([Tokens(place, prompts[place]) for place in active], count)
        result.prompt_seconds = perf_counter() - began
        session.program.reset()
        began = perf_counter()
        for step in range(tokens):
            chosen = _chosen(candidates, active, sampling, draws, interrupted)
            if comm is not None:
                chosen = comm.bcast(chosen, root=0)
            if chosen is None:
                result.is_interrupted = True
                break
            if isinstance(chosen, str):
                raise UserError(chosen)
            for place, token in zip(active, chosen, strict=True):
                result.ids[place].append(token)
                if candidates is not None:
                    told(place, token)
            going_on = [place for place, token in zip(active, chosen, strict=True) if token not in final]
            active = going_on
            if not active or step == tokens - 1:
                break
            further = [Tokens(place, np.array(result.ids[place][-1:])) for place in active]
            candidates = session.candidates(further, count)
            result.steps += 1
    result.step_seconds = perf_counter() - began
    result.phases = session.program.seconds
    return result


def _check(session: TokenSession, prompts: Sequence[np.ndarray], tokens: int) -> None:
    if not is_causal(session.graph) or session.graph.outputs != session.vocabulary:
        raise UserError(
            "expected a network that tells the next token, found one that does not, such as an encoder; "
            "take a model with an output layer over its vocabulary"
        )
    longest = max((prompt.size for prompt in prompts), default=0)
    if not prompts or len(prompts) > session.slots or tokens < 1:
        raise UserError(f"expected 1 to {session.slots} prompts and 1 or more new tokens, got {len(prompts)}")
    # The last token is not read any more.
    if longest + tokens - 1 > session.longest:
        raise UserError(
            f"expected {session.longest} tokens at most, prompt and text together, got a prompt of {longest} "
            f"and {tokens} new ones; ask for fewer, or make more room if the network has more positions"
        )


def _chosen(
    candidates: list[Candidates] | None,
    active: Sequence[int],
    sampling: Sampling,
    draws: Sequence[np.random.Generator],
    interrupted: Callable[[], bool],
) -> list[int] | str | None:
    """The next token of each active sequence, or why there is none; None on other ranks, and to stop."""
    if candidates is None or interrupted():
        return None
    for place, of_text in zip(active, candidates, strict=True):
        if not np.isfinite(of_text.logits).all():
            return (
                f"expected finite logits, found NaN or infinity in those of text {place} (counted from 0); "
                "compute in float64, keep keys and values in float32, or check the weights"
            )
    return [sampling.choose(of_text, draws[place]) for place, of_text in zip(active, candidates, strict=True)]


@contextmanager
def _interruption() -> Iterator[Callable[[], bool]]:
    """A block in which ^C is noted; yields whether it came.  Ranks go on to the end of a step together."""
    came: list[int] = []
    try:
        before = signal.signal(signal.SIGINT, lambda number, frame: came.append(number))
    except ValueError:  # not the main thread
        yield lambda: False
        return
    try:
        yield lambda: bool(came)
    finally:
        signal.signal(signal.SIGINT, before)
