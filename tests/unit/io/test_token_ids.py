"""Texts in files."""

import numpy as np
import pytest

from repurpose_hpc.errors import UserError
from repurpose_hpc.io.token_ids import read_ids, read_lines

IDS = np.array([[5, 6, 7, 0], [8, 0, 0, 0], [1, 2, 3, 4]])
MASK = np.array([[1, 1, 1, 0], [1, 0, 0, 0], [1, 1, 1, 1]])


def test_what_a_tokenizer_returns(tmp_path):
    path = tmp_path / "ids.npz"
    np.savez(path, input_ids=IDS, attention_mask=MASK, token_type_ids=np.zeros_like(IDS))
    found = read_ids(path)
    assert [ids.tolist() for ids in found] == [[5, 6, 7], [8], [1, 2, 3, 4]]
    assert {ids.dtype for ids in found} == {np.dtype(np.int64)}
    np.savez(path, input_ids=IDS, attention_mask=MASK > 0)
    assert [ids.tolist() for ids in read_ids(path)] == [[5, 6, 7], [8], [1, 2, 3, 4]]
    np.savez(path, input_ids=IDS)
    assert [ids.tolist() for ids in read_ids(path)] == IDS.tolist()


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_samples(tmp_path, suffix):
    path = tmp_path / f"ids{suffix}"
    np.save(path, IDS) if suffix == ".npy" else np.savez(path, x=IDS.astype(np.int32))
    assert [ids.tolist() for ids in read_ids(path)] == IDS.tolist()


@pytest.mark.parametrize(
    ("arrays", "text"),
    [
        ({"input_ids": IDS, "attention_mask": MASK[:, ::-1]}, "row 0"),
        ({"input_ids": IDS, "attention_mask": MASK * [[1], [0], [1]]}, "row 1"),
        ({"input_ids": IDS, "attention_mask": MASK[:2]}, "attention_mask"),
        ({"input_ids": IDS, "attention_mask": MASK * [[1], [1], [2]]}, "row 2"),
        ({"input_ids": IDS > 0}, "found bool"),
        ({"input_ids": IDS, "token_type_ids": MASK}, "pairs of texts"),
        ({"input_ids": IDS / 2}, "integers"),
        ({"input_ids": IDS[0]}, "integers"),
        ({"x": IDS / 2}, "integers"),
        ({"x": IDS[..., None]}, "integers"),
        ({"words": IDS}, "an array x"),
    ],
)
def test_what_is_no_ids_is_refused(tmp_path, arrays, text):
    np.savez(tmp_path / "ids.npz", **arrays)
    with pytest.raises(UserError, match=text):
        read_ids(tmp_path / "ids.npz")


def test_lines(tmp_path):
    path = tmp_path / "texts.txt"
    path.write_bytes("\ufeffone\r\ntwo \x0b words\r!\n\nthree\u2028é".encode())
    assert read_lines(path) == ["one", "two \x0b words\r!", "", "three\u2028é"]
    for content, text in ((b"", "empty"), (b"\xff\xfe", "UTF-8")):
        path.write_bytes(content)
        with pytest.raises(UserError, match=text):
            read_lines(path)
