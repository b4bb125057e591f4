"""Transformers for texts of any lengths, as the command ``forecast`` takes them: shards, or a model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from repurpose_hpc.errors import UserError
from repurpose_hpc.forecast.demand import Demand
from repurpose_hpc.forecast.tokens import Piece, piece_demand
from repurpose_hpc.model.importers.load import ONNX, load_tokens
from repurpose_hpc.model.network import Network
from repurpose_hpc.plan.files.store import check_model, open_plan, read_network
from repurpose_hpc.plan.plan import REPLICATED, single_worker_plan
from repurpose_hpc.restructure.cut import Cut
from repurpose_hpc.restructure.exact import split_network

# Ranks that a model is forecast for: heads are no more than a few dozen.
RANKS = 1, 2, 4, 8, 16, 32, 64
SINGLE, PLAN, SPLIT = "single", "plan", "split"


@dataclass(frozen=True, eq=False)
class TokenForecastInput:
    """A network of tokens whose time is forecast.

    Attributes:
        original: the network before restructuring.
        cut: of shards; None: there are none.
        piece: of each sequence, that goes through at a time.
    """

    original: Network
    cut: Cut | None
    piece: Piece

    @property
    def placement(self) -> str:
        """Of the input: every rank looks tokens up by itself."""
        return REPLICATED

    @property
    def workers(self) -> int | None:
        """Workers of the shards; None: there are none."""
        return self.cut.plan.workers if self.cut else None

    @property
    def comm_dtype(self) -> str | None:
        """Format of the ghosts of shards; None: there are none."""
        return self.cut.plan.comm_dtype if self.cut else None

    @property
    def ranks(self) -> tuple[int, ...]:
        """Numbers of ranks to forecast for."""
        return (1, self.cut.plan.workers) if self.cut else RANKS

    def demand(self, ranks: int, per_node: int) -> tuple[str, Demand | None]:
        """Basis of the forecast, and the demand of the restructured network; None: there is none.

        Raises:
            UserError: the shards are of another number of workers.
        """
        if self.cut is None:
            return SPLIT if ranks > 1 else SINGLE, None
        if ranks == 1:
            return SINGLE, self.dense_demand(1, per_node)
        if ranks != self.cut.plan.workers:
            raise UserError(
                f"ranks: expected 1 or {self.cut.plan.workers}, the workers of the shards, got {ranks}; "
                "forecast the MODEL for others, or restructure for as many workers"
            )
        return PLAN, piece_demand(self.cut.network, self.cut.plan, per_node, self.piece)

    def dense_demand(self, ranks: int, per_node: int) -> Demand:
        """The same for the network as it is, split over so many ranks."""
        dense = dense_cut(self.original, ranks)
        return piece_demand(dense.network, dense.plan, per_node, self.piece)


def dense_cut(network: Network, ranks: int) -> Cut:
    """A network of tokens as it is, split over so many ranks; of one as one process computes it."""
    return split_network(network, ranks) if ranks > 1 else Cut(network, single_worker_plan(network))


def open_token_shards(directory: Path, original: Path | None, piece: Piece) -> TokenForecastInput:
    """The transformer in shards.

    Args:
        directory: of the shards.
        original: the model that they were made of; None: they were only split.
        piece: to forecast.

    Raises:
        UserError: something cannot be read or does not belong together, the model is missing, or the piece
            is too long.
    """
    stored = open_plan(directory)
    network = read_network(stored)
    piece.check(network)
    if original is None and "calibration_sha256" in stored.provenance:
        raise UserError(
            f"{directory}: expected --original MODEL beside shards of a transformer that was restructured, "
            "as they do not say what one process would compute; name the model that they were made of"
        )
    model = network
    if original is not None:
        longest = stored.longest if original.suffix == ONNX else None
        model = load_tokens(original, longest, check=False)
        check_model(stored, model, str(original), "name the model that they were made of")
    return TokenForecastInput(model, Cut(network, stored.plan), piece)


def open_token_model(path: Path, piece: Piece) -> TokenForecastInput:
    """A transformer, to be split as it is.

    Raises:
        UserError: it cannot be read, or the piece is too long.
    """
    network = load_tokens(path, check=False)
    piece.check(network)
    return TokenForecastInput(network, None, piece)
