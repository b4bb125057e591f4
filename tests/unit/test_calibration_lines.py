"""Lines of a file as calibration texts: blank ones are left out, long ones made shorter."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.small_transformers import decoder, encoder
from repurpose_hpc.commands.transformer import read_calibration
from repurpose_hpc.errors import Note, UserError
from repurpose_hpc.model.importers.transformers.texts import Texts

pytest.importorskip("tokenizers")
LONGEST, END = 6, 18


class _Model:
    """Words w0 to w17; all texts of an encoder end with another token."""

    longest = LONGEST

    def __init__(self, has_end: bool) -> None:
        from tokenizers import Tokenizer, models, pre_tokenizers, processors

        words = {f"w{number}": number for number in range(END)} | {"end": END}
        made = Tokenizer(models.WordLevel(words, unk_token="w0"))
        made.pre_tokenizer = pre_tokenizers.Whitespace()
        if has_end:
            made.post_processor = processors.TemplateProcessing(
                single="$A end", special_tokens=[("end", END)]
            )
        self._texts = Texts(made, "tokenizer.json", END + 1)

    def tokenizer(self):
        return self._texts


def _read(path, lines, network):
    path.write_text("".join(f"{line}\n" for line in lines))
    return [text.tolist() for text in read_calibration(path, _Model(network is ENCODER), network)]


DECODER, ENCODER = decoder(), encoder()


def test_long_lines_of_a_decoder_become_texts_of_about_the_same_length(tmp_path):
    line = " ".join(f"w{number}" for number in range(13))
    with pytest.warns(Note) as notes:
        found = _read(tmp_path / "x.txt", ["w1 w2", "", line, " \t"], DECODER)
    assert found == [[1, 2], [0, 1, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11, 12]]
    first, second = (str(note.message) for note in notes)
    assert "2 of 4 lines are blank" in first
    assert "1 of 4 lines have more than 6 tokens" in second and "split into several texts" in second


def test_long_lines_of_an_encoder_are_cut_and_keep_their_end(tmp_path):
    with pytest.warns(Note, match="1 of 2 lines have more than 6 tokens, as .* and were cut"):
        found = _read(tmp_path / "x.txt", ["w1 w2 w3 w4 w5 w6 w7", "w8"], ENCODER)
    assert found == [[1, 2, 3, 4, 5, END], [8, END]]
    # The next line is as long as it is.
    assert len(_Model(True).tokenizer().ids("w1 " * 20)) == 21


def test_nothing_is_said_of_lines_that_fit(tmp_path, recwarn):
    assert _read(tmp_path / "x.txt", ["w1 w2 w3 w4 w5 w6"], DECODER) == [[1, 2, 3, 4, 5, 6]]
    assert not recwarn.list


def test_blank_lines_alone(tmp_path):
    with pytest.raises(UserError, match="found blank lines alone"):
        _read(tmp_path / "x.txt", ["", "  "], DECODER)


def test_ids_are_as_they_are(tmp_path):
    np.save(tmp_path / "ids.npy", np.zeros((2, 9), int))
    assert [text.size for text in read_calibration(tmp_path / "ids.npy", _Model(False), DECODER)] == [9, 9]


@pytest.mark.filterwarnings("ignore::repurpose_hpc.errors.Note")
@given(lengths=st.lists(st.integers(0, 40), min_size=1).filter(any))
def test_no_token_of_a_decoder_is_lost(lengths, tmp_path_factory):
    lines = [" ".join(["w3"] * length) for length in lengths]
    found = _read(tmp_path_factory.mktemp("lines") / "x.txt", lines, DECODER)
    assert sum(map(len, found)) == sum(lengths) and all(1 <= len(text) <= LONGEST for text in found)
    assert all(len(text) > 1 for text in found) or 1 in lengths  # a promise needs two tokens
