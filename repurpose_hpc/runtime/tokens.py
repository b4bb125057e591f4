"""A transformer to feed with tokens: every sequence goes on where it ended.

Ranks exchange ghosts and sums of the tokens of a batch as in ``infer``; keys and values stay with the rank
that has their head.  The outputs of a batch that are wanted are gathered on the root, or of each token the
largest that every rank has.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from repurpose_hpc.errors import UserError
from repurpose_hpc.model.comm_dtype import EXACT, WEIGHTS_DTYPES
from repurpose_hpc.model.ends import Ends
from repurpose_hpc.model.precision import precision
from repurpose_hpc.model.texts import check_ids, is_causal, keeps_states
from repurpose_hpc.mpi.agreement import agreed, check_same
from repurpose_hpc.mpi.groups import Groups
from repurpose_hpc.plan.files.store import StoredPlan
from repurpose_hpc.runtime.candidates import CandidateGather, Candidates, best, best_of_tokens
from repurpose_hpc.runtime.embeddings import Embeddings
from repurpose_hpc.runtime.exchange.choose import check_named, check_transport
from repurpose_hpc.runtime.exchange.transports import DEFAULT_TRANSPORT
from repurpose_hpc.runtime.pooling import Pool, joined, pooled, wanted
from repurpose_hpc.runtime.program import Program
from repurpose_hpc.runtime.resources import KEPT_DTYPES, Formats
from repurpose_hpc.runtime.sequences import Piece, Sequences
from repurpose_hpc.runtime.session import Cut, hosted_shards, opened
from repurpose_hpc.runtime.streams.outputs import OutputGather, in_order

if TYPE_CHECKING:
    from mpi4py import MPI

# Tokens of a batch: as many as make products with weights efficient.
CHUNK = 64


class Tokens(NamedTuple):
    """Further tokens of a sequence.

    Attributes:
        slot: of the sequence.
        ids: numbers of the tokens, (n,) integers.
    """

    slot: int
    ids: np.ndarray


class _Piece(NamedTuple):
    """Tokens of an entry that are in a batch: those from ``first`` to ``end``."""

    entry: int
    first: int
    end: int


class TokenSession:
    """A transformer, ready to run.

    *Collective* over ``comm``, if there is one, are the constructor, ``run``, ``candidates`` and ``close``;
    all ranks give the same arguments.

    Attributes:
        graph: the network of tokens, without its ends.
        workers: parts into which it is split.
        slots: sequences that are kept at a time.
        longest: tokens that one may have.
        padding: the id that no sequence may have; None: there is none.
    """

    def __init__(
        self,
        source: Cut | StoredPlan | str | Path,
        comm: MPI.Comm | None = None,
        *,
        slots: int = 1,
        longest: int | None = None,
        chunk: int = CHUNK,
        dtype: type = np.float32,
        transport: str = DEFAULT_TRANSPORT,
        weights_dtype: str = EXACT,
        kept_dtype: str = EXACT,
    ) -> None:
        """Cut or load this rank's part of the network, and make room for sequences.

        Args:
            source: of a network of tokens: what ``split_network`` returned, or a directory of shards.
            comm: at most as many ranks as there are workers; None: this process hosts all workers.
            slots, longest: see the class; None: as many tokens as the network has positions.
            chunk: tokens of a batch, at most; where tokens see later ones, a sequence is one batch.
            dtype: float32 or float64, to compute in.
            transport: how exchanges are carried.
            weights_dtype: how weights are kept in memory, one of ``WEIGHTS_DTYPES``; float32: as they are.
            kept_dtype: how keys and values are, one of ``KEPT_DTYPES``; float32: as they are.

        Raises:
            UserError: on every rank: something else than these arguments, or not the same on all ranks.
        """
        self._comm = comm
        ranks, rank = (1, 0) if comm is None else (comm.size, comm.rank)
        with agreed(comm):
            plan, kind = opened(source), precision(dtype)
            shards = hosted_shards(plan, ranks, rank, kind)
            self.graph, self.workers = shards[0].graph, plan.plan.workers
            self.slots, self.longest = slots, self._checked_length(longest)
            self._is_causal = is_causal(self.graph)
            self._chunk = chunk if self._is_causal else max(chunk, self.longest)
            check_named(transport)
            formats = _formats(weights_dtype, plan.plan.comm_dtype, kept_dtype)
            if slots < 1 or chunk < 1:
                raise UserError(f"expected 1 or more slots and tokens of a chunk, got {slots} and {chunk}")
        common = {"slots": slots, "longest": self.longest, "chunk": chunk, "dtype": kind}
        common |= {"weights_dtype": weights_dtype, "kept_dtype": kept_dtype, "transport": transport}
        check_same({**common, "plan": plan.plan.identity()}, comm)
        check_transport(transport, Groups(comm))
        self._sequences = Sequences(slots, self.longest, self._chunk, kind, kept_dtype)
        self.program = Program(shards, comm, self._chunk, formats, transport, sequences=self._sequences)
        table = self.graph.ends.embeddings
        self._embeddings = Embeddings(table, self.program.input_columns, kind, isinstance(plan, StoredPlan))
        self.padding = self.graph.ends.padding
        # Without them, and all columns of the embeddings.
        self.graph = replace(self.graph, ends=Ends())
        columns = self.program.output_columns
        self._gather = None if comm is None else OutputGather(comm, columns, kind, self._chunk)
        self._gather_candidates = None if comm is None else CandidateGather(comm, columns, kind)

    def _checked_length(self, longest: int | None) -> int:
        most = self.graph.longest
        if not most:
            raise UserError("source: expected a network of tokens, found another; load_tokens reads one")
        if longest is not None and not 1 <= longest <= most:
            raise UserError(f"longest: expected 1 to {most} positions, as the network has, got {longest}")
        return longest or most

    @property
    def vocabulary(self) -> int:
        """How many tokens there are."""
        return self._embeddings.vocabulary

    @property
    def kept_bytes(self) -> int:
        """Bytes of keys, values and states for which this rank has room."""
        return self._sequences.bytes

    def length(self, slot: int) -> int:
        """Tokens that are kept of a sequence.

        Raises:
            UserError: there is no such slot.
        """
        self._check_slot(slot)
        return int(self._sequences.lengths[slot])

    def forget(self, slot: int, length: int = 0) -> None:
        """Keep the first ``length`` tokens of a sequence only, all ranks the same.

        Raises:
            UserError: there is no such slot, it has not so many tokens, or its state cannot be taken back.
        """
        self._check_slot(slot)
        kept = self.length(slot)
        if not 0 <= length <= kept:
            raise UserError(f"length: expected 0 to {kept} tokens that are kept, got {length}")
        if keeps_states(self.graph) and 0 < length < kept:
            raise UserError(
                f"length: expected 0 or all {kept} tokens that are kept, as a state does not go back to an "
                f"earlier token, got {length}; forget all, and run the first {length} again"
            )
        self._sequences.forget(slot, length)

    def run(self, further: Sequence[Tokens], pool: Pool = Pool.NONE) -> list[np.ndarray] | None:
        """The outputs of further tokens of some sequences; collective.

        Args:
            further: the same on all ranks; of a sequence one entry.
            pool: what to make of the outputs of each entry's tokens, before they go to the root.

        Returns:
            on the root, for each entry, (tokens, outputs), or (1, outputs) where they are pooled; None
            elsewhere.

        Raises:
            UserError: on every rank: ids outside the vocabulary, a sequence that is there twice, that becomes
                too long, or that cannot go on because its tokens see later ones.
        """
        further = self._checked(further)
        parts: list[list[np.ndarray]] = [[] for _ in further]
        pieces: list[list[int]] = [[] for _ in further]
        for batch in self._batches(further):
            rows, sizes = pooled(*self._run_batch(further, batch, pool), pool)
            outputs = self._gathered(rows) if rows.shape[1] else None
            if outputs is None:  # not the root, or nothing is wanted of these pieces
                continue
            for piece, of_piece in zip(batch, np.split(outputs, np.cumsum(sizes)[:-1]), strict=True):
                parts[piece.entry].append(of_piece)
                pieces[piece.entry].append(piece.end - piece.first)
        if not self._is_root:
            return None
        return [joined(rows, sizes, pool) for rows, sizes in zip(parts, pieces, strict=True)]

    def candidates(self, further: Sequence[Tokens], count: int) -> list[Candidates] | None:
        """The largest outputs of the last token of each entry; collective.

        Every rank sends its own alone, if not all are asked for.

        Args:
            further: see ``run``.
            count: of them, 1 or more; all, if there are not so many.

        Returns:
            on the root those of each entry; None elsewhere.

        Raises:
            UserError: see ``run``.
            ValueError: none are asked for.
        """
        if count < 1:
            raise ValueError(f"expected 1 or more candidates, got {count}")
        if count >= self.graph.outputs:
            whole, ids = self.run(further, Pool.LAST), np.arange(self.graph.outputs)
            return None if whole is None else [best(ids, logits, count) for (logits,) in whole]
        further = self._checked(further)
        found: list[Candidates] = []
        for batch in self._batches(further):
            rows, _ = self._run_batch(further, batch, Pool.LAST)
            # Entries are complete in their order.
            if rows.shape[1]:
                found += self._candidates(rows, count) or []
        return found if self._is_root else None

    def warm_up(self, ids: np.ndarray) -> None:
        """Have everything compiled that a run calls, by sequences that are forgotten again; collective.

        Args:
            ids: of a sequence, the same on all ranks; nothing is in slot 0.  A run with its last token wanted
                is made, and one with a single token.
        """
        for sequence in (ids, ids[:1]):
            self.run([Tokens(0, sequence)], Pool.LAST)
            self.forget(0)

    def sent(self) -> tuple[int, int]:
        """Values and bytes that all ranks together send each other for a token that is wanted; collective.

        What the root gets of the outputs does not count.
        """
        counts = self.program.values_sent, self.program.bytes_sent
        if self._comm is None:
            return counts
        values, bytes_sent = (sum(self._comm.allgather(count)) for count in counts)
        return values, bytes_sent

    def close(self) -> None:
        """Give back what MPI keeps; collective."""
        self.program.free()

    @property
    def _is_root(self) -> bool:
        return self._comm is None or self._comm.rank == 0

    def _checked(self, further: Sequence[Tokens]) -> list[Tokens]:
        """The arguments of a run.

        Raises:
            UserError: they are wrong.
        """
        further = [Tokens(slot, np.asarray(ids)) for slot, ids in further]
        for tokens in further:
            self._check(tokens)
        slots = [slot for slot, _ in further]
        if len(set(slots)) < len(slots):
            raise UserError(f"expected one entry of a sequence, got slots {slots}; join their tokens")
        return further

    def _check_slot(self, slot: int) -> None:
        if not 0 <= slot < self.slots:
            raise UserError(f"expected a slot from 0 to {self.slots - 1}, got {slot}; make more of them")

    def _check(self, tokens: Tokens) -> None:
        slot, ids = tokens
        self._check_slot(slot)
        if ids.ndim != 1 or not ids.size or ids.dtype.kind not in "iu":
            raise UserError(
                f"expected one or more integers for slot {slot}, got {ids.dtype} of shape {ids.shape}; give "
                "the numbers of its tokens"
            )
        check_ids(ids, self.vocabulary, self.padding, f" of slot {slot}")
        if self.length(slot) + ids.size > self.longest:
            raise UserError(
                f"expected sequences of {self.longest} tokens at most, got {self.length(slot)} and "
                f"{ids.size} more; shorten the text, or make more room if the network has more positions"
            )
        if self.length(slot) and not self._is_causal:
            raise UserError(
                "expected whole sequences, as tokens of this network see those behind them, got more of one "
                "that there is; forget it first"
            )

    def _batches(self, further: Sequence[Tokens]) -> Iterator[list[_Piece]]:
        """The pieces of each batch; entries and their tokens are in order."""
        batch: list[_Piece] = []
        room = self._chunk
        for place, (_, ids) in enumerate(further):
            first = 0
            while first < ids.size:
                if not room or (not self._is_causal and ids.size > room):
                    yield batch
                    batch, room = [], self._chunk
                end = min(ids.size, first + room)
                batch.append(_Piece(place, first, end))
                room, first = room - (end - first), end
        if batch:
            yield batch

    def _run_batch(
        self, further: Sequence[Tokens], batch: Sequence[_Piece], pool: Pool
    ) -> tuple[np.ndarray, list[int]]:
        """The outputs that are wanted, (those of this rank, tokens), and how many tokens of each piece."""
        self._sequences.place([Piece(further[place].slot, end - first) for place, first, end in batch])
        ids = np.concatenate([further[place].ids[first:end] for place, first, end in batch])
        X = self._embeddings.rows(ids)
        of_pieces = [wanted(first, end, further[place].ids.size, pool) for place, first, end in batch]
        sizes = [len(tokens) for tokens in of_pieces]
        if sum(sizes) == ids.size:
            return self.program.forward(X), sizes
        begin = np.cumsum([0, *(end - first for _, first, end in batch[:-1])]).tolist()
        columns = [start + token for start, tokens in zip(begin, of_pieces, strict=True) for token in tokens]
        return self.program.forward(X, np.array(columns, np.int64)), sizes

    def _gathered(self, rows: np.ndarray) -> np.ndarray | None:
        """The outputs of a batch, (tokens, outputs), on the root."""
        if self._gather is not None:
            return self._gather(np.ascontiguousarray(rows))
        return in_order(rows, self.program.output_columns)

    def _candidates(self, rows: np.ndarray, count: int) -> list[Candidates] | None:
        """The largest outputs of each token, of those of this rank, (outputs, tokens), on the root."""
        if self._gather_candidates is not None:
            return self._gather_candidates(rows, count)
        return best_of_tokens(self.program.output_columns, rows, count)


def _formats(weights_dtype: str, comm_dtype: str, kept_dtype: str) -> Formats:
    """The formats of a run.

    Raises:
        UserError: there is no such format.
    """
    for name, value, known in (
        ("weights_dtype", weights_dtype, WEIGHTS_DTYPES),
        ("kept_dtype", kept_dtype, KEPT_DTYPES),
    ):
        if value not in known:
            raise UserError(f"{name}: expected one of {', '.join(known)}, got {value!r}; choose one of them")
    return Formats(weights_dtype, comm_dtype, kept_dtype)
