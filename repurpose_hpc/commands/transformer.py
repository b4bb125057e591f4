"""The transformer that commands run on texts, a model or its shards; and the texts."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

from repurpose_hpc.errors import Note, UserError
from repurpose_hpc.io.token_ids import LINES, read_ids, read_lines
from repurpose_hpc.model.comm_dtype import EXACT
from repurpose_hpc.model.forward import Compute, compute
from repurpose_hpc.model.importers.load import is_model_directory, load_tokens
from repurpose_hpc.model.importers.texts import Texts, ending_tokens, pooling_of, tokenizer_of
from repurpose_hpc.model.network import Network
from repurpose_hpc.model.texts import Pooling, is_causal
from repurpose_hpc.plan.files.store import PLAN_FILE, StoredPlan, open_plan, read_network
from repurpose_hpc.plan.rounding import rounded_compute
from repurpose_hpc.restructure.options import ROUND_COST
from repurpose_hpc.runtime.pooling import Pool

if TYPE_CHECKING:
    from repurpose_hpc.runtime.session import Cut


class Reference(NamedTuple):
    """The network that NumPy computes.

    Attributes:
        network: of tokens.
        compute: of every operation, as the workers do.
        comm_dtype: in which ghosts arrive.
    """

    network: Network
    compute: Compute
    comm_dtype: str


class Transformer(Protocol):
    """What the commands ask of it.

    Attributes:
        vocabulary: tokens that there are.
        padding: the id that no text may have; None: there is none.
        longest: tokens that a sequence may have.
    """

    vocabulary: int
    padding: int | None
    longest: int

    def source(self, workers: int, round_cost: float | None) -> Cut | StoredPlan:
        """What a ``TokenSession`` takes; of shards, the arguments were decided when they were made.

        Args:
            workers: parts to split a model into.
            round_cost: see ``split_network``; None: its default.
        """

    def reference(self) -> Reference:
        """All of it, to compare what ranks compute with."""

    def tokenizer(self) -> Texts:
        """Texts as tokens; an error if there is no tokenizer."""

    def ending_tokens(self) -> tuple[int, ...]:
        """The tokens after which a text ends."""

    def pooling(self) -> Pooling:
        """How a text's vector is made; an error if it is made in a way that is not supported."""


class _Model:
    """Of a directory or a file; every rank reads all of it."""

    def __init__(self, path: Path, check: bool, longest: int | None) -> None:
        self._path, self._network = path, load_tokens(path, longest, check)
        ends, self.longest = self._network.ends, self._network.longest
        self.vocabulary, self.padding = len(ends.embeddings), ends.padding

    def source(self, workers: int, round_cost: float | None) -> Cut:
        # Imported when it is known that it will be needed: SciPy takes its time.
        from repurpose_hpc.restructure.exact import split_network

        price = ROUND_COST if round_cost is None else round_cost
        return split_network(self._network, workers, round_cost=price)

    def reference(self) -> Reference:
        return Reference(self._network, compute, EXACT)

    def tokenizer(self) -> Texts:
        return tokenizer_of(self._path, self.vocabulary)

    def ending_tokens(self) -> tuple[int, ...]:
        return ending_tokens(self._path)

    def pooling(self) -> Pooling:
        return pooling_of(self._path)


class _Shards:
    """Of a directory of shards; a rank reads the plan, and what its workers have."""

    def __init__(self, directory: Path) -> None:
        self._stored, self._path = open_plan(directory), directory / PLAN_FILE
        if not self._stored.longest:
            raise UserError(
                f"{directory}: expected shards of a transformer for texts of any lengths, found those of a "
                "network of samples; restructure the transformer without --input-shape"
            )
        ends, self.longest = self._stored.ends, self._stored.longest
        self.vocabulary, self.padding = len(ends.embeddings), ends.padding

    def source(self, workers: int, round_cost: float | None) -> StoredPlan:
        return self._stored

    def reference(self) -> Reference:
        network, plan = read_network(self._stored), self._stored.plan
        return Reference(network, rounded_compute(network, plan, plan.comm_dtype), plan.comm_dtype)

    def tokenizer(self) -> Texts:
        if not self._stored.texts.tokenizer:
            raise UserError(
                f"{self._path}: expected a tokenizer for texts, found none; give token ids, or restructure "
                "MODEL again with its tokenizer.json"
            )
        return Texts.read(self._stored.texts.tokenizer, self._path, self.vocabulary)

    def ending_tokens(self) -> tuple[int, ...]:
        return self._stored.texts.ends

    def pooling(self) -> Pooling:
        pooling = self._stored.texts.pooling
        if pooling is None or pooling.pool not in [pool.value for pool in Pool]:
            raise UserError(
                f"{self._path}: expected how texts are pooled, found that MODEL had a kind which is not "
                "supported; --pool says what to do instead"
            )
        return pooling


def is_plan(path: Path) -> bool:
    """Whether a path is that of shards."""
    return not is_model_directory(path) and (path / PLAN_FILE).is_file()


def open_transformer(path: Path, check: bool, longest: int | None) -> Transformer:
    """A transformer, from its model or its shards.

    Args:
        path: of either.
        check: see ``load_tokens``; one rank is enough.
        longest: see ``load_tokens``.

    Raises:
        UserError: something is missing, damaged or not supported; shards are of another kind of network.
    """
    if not is_plan(path):
        return _Model(path, check, longest)
    if longest is not None:
        raise UserError(f"{path}: longest is of .onnx files, shards say it themselves; leave it out")
    return _Shards(path)


def read_calibration(path: Path, model: Transformer, network: Network) -> list[np.ndarray]:
    """``read_texts``, but of lines those without tokens are left out, and long ones made shorter.

    Where no token sees those behind it, a long line becomes several texts of about the same length; else it
    is cut.  Notes say how many.

    Args:
        path, model: see ``read_texts``.
        network: of the model.

    Raises:
        UserError: see ``read_texts``, or there is no text at all.
    """
    if path.suffix != LINES:
        return read_texts(path, model)
    tokenizer, lines, longest = model.tokenizer(), read_lines(path), model.longest
    nothing, are_split = np.empty(0, np.int64), is_causal(network)
    texts = [tokenizer.ids(line) if line.strip() else nothing for line in lines]
    blank = sum(not text.size for text in texts)
    if blank == len(texts):
        raise UserError(f"{path}: expected texts, one a line, found blank lines alone; give it one")
    if blank:
        _note(f"{path}: {blank} of {len(lines)} lines are blank, or without tokens, and were left out")
    long = [place for place, text in enumerate(texts) if text.size > longest]
    if long:
        _note(
            f"{path}: {len(long)} of {len(lines)} lines have more than {longest} tokens, as the model has "
            f"positions, and were {'split into several texts' if are_split else 'cut'}"
        )
    parts = [[text] if text.size else [] for text in texts]
    for place in long:
        parts[place] = (
            np.array_split(texts[place], -(-texts[place].size // longest))
            if are_split
            else [tokenizer.cut_ids(lines[place], longest)]
        )
    return [text for of_line in parts for text in of_line]


def _note(text: str) -> None:
    warnings.warn(text, Note, stacklevel=3)


def read_texts(path: Path, model: Transformer) -> list[np.ndarray]:
    """The ids of texts, each (tokens,) int64, as yet unchecked.

    Args:
        path: lines in a ``.txt``, for the tokenizer of the model; else see ``read_ids``.
        model: that will read them.

    Raises:
        UserError: the file cannot be read, or the model has no tokenizer for it.
    """
    if path.suffix != LINES:
        return read_ids(path)
    tokenizer = model.tokenizer()
    return [tokenizer.ids(line) for line in read_lines(path)]
