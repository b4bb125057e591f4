"""Texts of Debian's packages ``fortunes`` and ``fortunes-min`` as the bundled language model reads them.

    python scripts/language_texts.py FILE.npz

writes texts to test it with on which nobody has looked while something was chosen: ``x`` uint16 (n, 257), ids
of the texts that chose the epoch when the model was trained.  It was not trained on them, and neither the
calibration texts nor the test texts that are bundled are of them.

Needs the extra ``tokenizers``, and 1:1.99.1-7.3 of both packages: of others the texts come in another order.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from repurpose_hpc import bundled

if TYPE_CHECKING:
    from tokenizers import Tokenizer

DATA = Path("/usr/share/games/fortunes")
# Lines of songs belong to others.
LEFT_OUT = {"songs-poems"}
END = "<|end|>"
VALIDATION_TEXTS, TEST_TEXTS = 600, 600
WINDOW = 256
SEED = 0


def read_texts(data: Path = DATA, seed: int = SEED) -> list[str]:
    """The texts in shuffled order, each once, without the line that says whose they are.

    The first ``VALIDATION_TEXTS`` choose the epoch, ``TEST_TEXTS`` test, and all others train.
    """
    texts = set()
    for file in sorted(data.iterdir()):
        if not file.suffix and file.name not in LEFT_OUT:
            for text in re.split(r"\n%\n?", file.read_text(encoding="utf-8")):
                text = re.sub(r".\x08", "", text).expandtabs(8)
                texts.add(re.split(r"\n\s*-- ", text)[0].strip())
    ordered = sorted(texts - {""})
    return [ordered[index] for index in np.random.default_rng(seed).permutation(len(ordered))]


def as_tokens(texts: list[str], tokenizer: Tokenizer) -> list[list[int]]:
    """Ids of every text, the end among them."""
    return [[*encoding.ids, tokenizer.token_to_id(END)] for encoding in tokenizer.encode_batch(texts)]


def windows(texts: list[list[int]], order: np.ndarray | None = None, start: int = 0) -> np.ndarray:
    """The texts one after the other in that order, or as they are, cut into (windows, WINDOW + 1)."""
    end = texts[0][-1]
    chosen = texts if order is None else [texts[index] for index in order]
    ids = np.concatenate([[end], *chosen])[start:]
    count = (ids.size - 1) // WINDOW
    return ids[WINDOW * np.arange(count)[:, None] + np.arange(WINDOW + 1)]


def write_ids(path: Path, rows: np.ndarray) -> None:
    """Windows as ``x``, uint16."""
    np.savez_compressed(path, x=rows.astype(np.uint16))


def main() -> None:
    """Write the texts, if those of the installed packages are the ones that are bundled."""
    from tokenizers import Tokenizer

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--data", type=Path, default=DATA)
    args = parser.parse_args()
    tokenizer = Tokenizer.from_file(str(bundled.LANGUAGE / "tokenizer.json"))
    ids = as_tokens(read_texts(args.data)[: VALIDATION_TEXTS + TEST_TEXTS], tokenizer)
    with np.load(bundled.LANGUAGE_TEST) as known:
        if not np.array_equal(windows(ids[VALIDATION_TEXTS:]), known["x"]):
            raise SystemExit(f"{args.data}: expected the texts of fortunes 1:1.99.1-7.3, found others")
    write_ids(args.file, windows(ids[:VALIDATION_TEXTS]))


if __name__ == "__main__":
    main()
