"""Texts that a network of tokens can read."""

import numpy as np
import pytest

from repurpose_hpc.errors import UserError
from repurpose_hpc.model.texts import check_ids, check_texts

VOCABULARY, LONGEST = 7, 5


@pytest.mark.parametrize("ids", [[0, VOCABULARY], [-1]])
def test_numbers_that_stand_for_no_token(ids):
    with pytest.raises(UserError, match=f"from 0 to {VOCABULARY - 1}, the vocabulary .* found {ids[-1]} at"):
        check_ids(np.array(ids), VOCABULARY, None)


def test_padding_is_no_token_of_a_text():
    check_ids(np.array([0, 3]), VOCABULARY, 2)
    with pytest.raises(UserError, match="without padding, found its id 2 at place 1 .counted from 0."):
        check_ids(np.array([0, 2, 2]), VOCABULARY, 2)


def test_of_several_texts_the_one_is_named():
    with pytest.raises(UserError, match=rf"found {VOCABULARY} at place 1 of text 7 \(counted from 0\)"):
        check_ids(np.array([0, VOCABULARY]), VOCABULARY, None, " of text 7")


@pytest.mark.parametrize("tokens", [0, LONGEST + 1])
def test_texts_have_tokens_and_no_more_than_there_are_positions(tokens):
    texts = [np.zeros(LONGEST, int), np.zeros(tokens, int)]
    with pytest.raises(UserError, match=rf"texts of 1 to {LONGEST} tokens.* got {tokens} in text 1"):
        check_texts(texts, LONGEST, VOCABULARY, None)
    check_texts(texts[:1], LONGEST, VOCABULARY, None)
    with pytest.raises(UserError, match="its id 0 at place 0 of text 0"):
        check_texts(texts[:1], LONGEST, VOCABULARY, 0)
