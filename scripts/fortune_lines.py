"""Sentences of Debian's packages ``fortunes`` and ``fortunes-min``, to calibrate and to test encoders with.

    python scripts/fortune_lines.py DIR [--calibration 3000] [--test 500] [--fresh 500] [--seed 0]

writes ``DIR/calibration.txt``, ``DIR/test.txt`` and ``DIR/fresh.txt``, a text in each line; none is in two.
``fresh.txt`` has the last texts of the order of which the others are the first: with these numbers nobody has
looked at them while something was chosen.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

DATA = Path("/usr/share/games/fortunes")
# Characters of a text.
SHORTEST, LONGEST = 20, 220


def lines(data: Path = DATA) -> list[str]:
    """All texts that are neither short nor long, each once and in one line, in a fixed order."""
    found = set()
    for file in data.iterdir():
        if not file.suffix:
            texts = file.read_text(encoding="utf-8").split("\n%\n")
            found |= {" ".join(text.replace("\x08", "").split()) for text in texts}
    return sorted(text for text in found if SHORTEST < len(text) < LONGEST)


def main() -> None:
    """Write both files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--calibration", type=int, default=3000, help="texts")
    parser.add_argument("--test", type=int, default=500, help="texts")
    parser.add_argument("--fresh", type=int, default=500, help="texts")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    texts = lines()
    if args.test + args.calibration + args.fresh > len(texts):
        raise SystemExit(f"expected at most {len(texts)} texts together, as many as there are; ask for fewer")
    order = np.random.default_rng(args.seed).permutation(len(texts)).tolist()
    parts = {"test": order[: args.test], "calibration": order[args.test : args.test + args.calibration]}
    parts["fresh"] = order[len(order) - args.fresh :]
    args.directory.mkdir(parents=True, exist_ok=True)
    for name, places in parts.items():
        text = "".join(f"{texts[place]}\n" for place in places)
        (args.directory / f"{name}.txt").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
