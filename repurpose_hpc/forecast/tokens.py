"""Networks of tokens in forecasts: a sample is a piece of a sequence, whose tokens go through together.

A piece of one token is a step of generating text.  A piece of many is a prompt, or a whole text.  Keys and
values of the tokens before a piece, its *context*, are kept, and attention reads them from memory.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from repurpose_hpc.errors import UserError
from repurpose_hpc.forecast.demand import Demand, plan_demand
from repurpose_hpc.forecast.machine import MachineModel
from repurpose_hpc.forecast.timeline import Clocks
from repurpose_hpc.model.network import Network
from repurpose_hpc.model.texts import is_causal, is_decoder, tokens_alone
from repurpose_hpc.plan.plan import Plan


class Piece(NamedTuple):
    """Tokens of a sequence that follow one another.

    Attributes:
        tokens: how many, 1 or more.
        context: tokens of the sequence before them.
    """

    tokens: int
    context: int

    def check(self, network: Network) -> None:
        """Refuse pieces of sequences that a network of tokens cannot read.

        Raises:
            UserError: they are too long, or go on where tokens see later ones.
        """
        if self.tokens + self.context > network.longest:
            raise UserError(
                f"expected {network.longest} tokens at most, as the model has positions, got tokens="
                f"{self.tokens} behind context={self.context}; ask for fewer"
            )
        if self.context and not is_causal(network):
            raise UserError(
                f"context: expected 0, as tokens of this network see those behind them, got {self.context}; "
                "leave it out"
            )


def piece_demand(network: Network, plan: Plan, per_node: int, piece: Piece) -> Demand:
    """The demand of a piece of a sequence.

    Of a decoder the outputs of the last token alone count, as ``generate`` has it: what is behind the last
    operation that looks at other tokens is computed, and sent, for this one.  Of others all count.

    Args:
        network: of tokens.
        plan: for ``network``.
        per_node: ranks of a node.
        piece: that ``network`` can read.
    """
    of_piece = network.at(piece.tokens)
    if piece.tokens > 1 and is_decoder(network):
        alone = tokens_alone(network)
        # What the last attention makes is read for the last token alone.
        alone |= {mixing.source for mixing in network.mixings if mixing.target in alone}
        positions = {name: () if name in alone else shape for name, shape in of_piece.positions_of.items()}
        of_piece = replace(of_piece, positions_of=positions)
    return plan_demand(of_piece, plan, per_node, plan.comm_dtype, piece.context)


def piece_seconds(network: Network, plan: Plan, machine: MachineModel, piece: Piece) -> float:
    """Duration of a forward of a piece of one sequence, with a rank for every worker.

    Args:
        network: of tokens.
        plan: for ``network``.
        machine: with links for as many ranks as there are workers.
        piece: that ``network`` can read.
    """
    demand = piece_demand(network, plan, machine.ranks_per_node, piece)
    return Clocks(demand, machine, batch=1).run()
