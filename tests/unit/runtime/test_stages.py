"""Where the tokens of a network go on by themselves."""

import pytest

from helpers.small_transformers import branching, decoder, encoder
from repurpose_hpc.model.operations import Attention, PositionTable, Rotary
from repurpose_hpc.model.texts import tokens_alone

LOOKING = (Attention, PositionTable, Rotary)


def read_for(network, targets):
    """All tensors from which some are computed, and these."""
    read = set(targets)
    for op in reversed(network.operations):
        read |= set(op.sources) if op.target in read else set()
    return read


@pytest.mark.parametrize("network", [decoder(0), decoder(1, layers=3), encoder(2)])
def test_behind_the_last_attention_of_a_transformer_tokens_are_alone(network):
    """What no attention reads, but for what attention itself makes."""
    looking = [op.target for op in network.operations if isinstance(op, LOOKING)]
    targets = {op.target for op in network.operations}
    assert tokens_alone(network) == targets - read_for(network, looking)
    assert {*network.output_tensors} <= tokens_alone(network)


@pytest.mark.parametrize("seed", range(40))
def test_what_looks_around_never_reads_what_tokens_become_alone(seed):
    network = branching(seed)
    alone = tokens_alone(network)
    looking = [op.target for op in network.operations if isinstance(op, LOOKING)]
    assert alone.isdisjoint(read_for(network, looking))
    for tensor in {source for op in network.mixings for source in op.sources} - alone:
        readers = {op.target in alone for op in network.operations if tensor in op.sources}
        mixed = {op.target in alone for op in network.mixings if tensor in op.sources}
        assert len(readers) == 1 or mixed == {False}
