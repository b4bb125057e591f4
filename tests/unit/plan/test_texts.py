"""What plans of networks of tokens say of texts, on disk."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.small_transformers import decoder
from repurpose_hpc.errors import UserError
from repurpose_hpc.model.ends import Ends
from repurpose_hpc.model.forward import forward
from repurpose_hpc.model.importers.transformers.transformer import embedding
from repurpose_hpc.model.texts import NO_RULES, Pooling, TextRules
from repurpose_hpc.plan.files.checks import check_tokens
from repurpose_hpc.plan.files.store import hold_tokens, open_plan, read_network, write_plan
from repurpose_hpc.plan.files.texts import described, read_rules
from repurpose_hpc.restructure.exact import split_network

RULES = TextRules('{"model": "\u4e2d\\u0000"}', (2, 7), Pooling("mean", True))


@given(
    st.builds(
        TextRules,
        st.text(),
        st.lists(st.integers(0)).map(tuple),
        st.none() | st.builds(Pooling, st.text(), st.booleans()),
    )
)
def test_rules_are_read_as_they_were_written(rules):
    assert read_rules(described(rules)) == rules


@pytest.mark.parametrize("text", [b"", b"{}", b"[]", b'{"tokenizer": "", "ends": 3, "pooling": {}}', b"\xff"])
def test_damaged_rules(text):
    with pytest.raises((ValueError, KeyError)):
        read_rules(text)


@pytest.mark.parametrize("rules", [NO_RULES, RULES])
@pytest.mark.parametrize("round_cost", [0.0, 1e9])
def test_a_split_network_with_its_rules(tmp_path, rules, round_cost):
    network = decoder(2)
    cut = split_network(network, 3, round_cost=round_cost)
    for name in ("shards", "again"):
        write_plan(tmp_path / name, cut.network, cut.plan, {}, texts=rules)
    files = [sorted((tmp_path / name).iterdir()) for name in ("shards", "again")]
    for first, second in zip(*files, strict=True):
        assert first.read_bytes() == second.read_bytes()
    stored = open_plan(tmp_path / "shards")
    assert stored.texts == rules and stored.longest == network.longest
    ids = np.array([[3, 1, 4, 1, 5]])
    np.testing.assert_array_equal(
        forward(read_network(stored).at(5), ids), forward(cut.network.astype(np.float32).at(5), ids)
    )


def test_networks_of_tokens_are_told_apart(tmp_path):
    """By the first line of their plan; on sequences of one length they are networks of samples."""
    network, found = decoder(2), {}
    for name, each in (("tokens", network), ("samples", network.at(5))):
        cut = split_network(each, 2)
        write_plan(tmp_path / name, cut.network, cut.plan, {})
        found[name] = open_plan(tmp_path / name)
    assert hold_tokens(tmp_path / "tokens") and not hold_tokens(tmp_path / "samples")
    assert not hold_tokens(tmp_path) and not hold_tokens(tmp_path / "missing")
    found["samples"].check_samples()
    with pytest.raises(UserError, match="a network of samples, found those of a transformer"):
        found["tokens"].check_samples()
    ends = found["tokens"].ends
    check_tokens(24, ends)
    check_tokens(0, Ends())
    for tokens in (np.full((3, 4), np.nan, np.float32), np.ones((3, 4), np.int64)):
        front = replace(ends.front, constants={"tokens": tokens})
        with pytest.raises(ValueError, match="not finite real numbers"):
            check_tokens(24, replace(ends, front=front))
    for tokens in (None, np.float32(1), np.ones(3, np.float32), np.ones((0, 4), np.float32)):
        constants = {"tokens": tokens} if tokens is not None else {}
        for front in (None, replace(ends.front, constants=constants)):
            with pytest.raises(ValueError, match="no embeddings"):
                check_tokens(24, replace(ends, front=front))
    check_tokens(24, embedding(np.ones((3, 4)), padding=2))
    for padding in (3, -1, 1.0, "1", True, [1]):
        with pytest.raises(ValueError, match="its id of padding is .*, which is none of 3 tokens"):
            check_tokens(24, embedding(np.ones((3, 4)), padding))
