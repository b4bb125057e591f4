"""Images and their mirror images, to fine-tune on: twice as many, and the original says what they are.

    python scripts/mirrored.py TRAIN.npz --shape 28 28 --out TRAIN_MIRRORED.npz

TRAIN has x, (samples, channels · height · width), and y.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np


def main() -> None:
    """Write both, the mirror images behind the others."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("train", type=Path)
    parser.add_argument("--shape", type=int, nargs=2, required=True, help="height and width")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    with np.load(args.train) as data:
        x, y = data["x"], data["y"]
    mirrored = x.reshape(len(x), -1, *args.shape)[..., ::-1].reshape(x.shape)
    np.savez(args.out, x=np.concatenate([x, mirrored]), y=np.concatenate([y, y]))


if __name__ == "__main__":
    main()
