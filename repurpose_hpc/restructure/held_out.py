"""One sample in five is held out: a network that has not seen them is measured on them.

A promise restructures with the others only, and measures every trial there.  Without a promise all samples
restructure; what is measured is another network, of the same options, that the others alone have made.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from repurpose_hpc.io.samples import Samples
from repurpose_hpc.restructure.calibration.evaluation import Comparison

# One sample in so many is held out.
ONE_IN = 5
# The fewest samples of which some are held out just to measure errors.
FEWEST = 50
# The split must not depend on, nor change, what else is drawn from the seed.
SPLIT_STREAM = 1


@dataclass(frozen=True, eq=False)
class Split:
    """Samples in two parts.

    Attributes:
        mask: of those that are held out, bool (samples,).
        rest: to restructure with.
        held_out: to measure with.
    """

    mask: np.ndarray
    rest: Samples
    held_out: Samples


def split(samples: Samples, seed: int) -> Split:
    """The parts of samples, ``understood``; there are ``ONE_IN`` or more."""
    mask = hold_out(samples.samples, seed)
    return Split(mask, samples.subset(~mask), samples.subset(mask))


def hold_out(samples: int, seed: int) -> np.ndarray:
    """Mask of the samples that are held out, bool (samples,): one in ``ONE_IN``, rounded down."""
    order = np.random.default_rng([seed, SPLIT_STREAM]).permutation(samples)
    held_out = np.zeros(samples, bool)
    held_out[order[: samples // ONE_IN]] = True
    return held_out


def split_record(mask: np.ndarray, seed: int, noun: str = "samples") -> dict[str, Any]:
    """The record of which samples were held out, for the provenance.

    Args:
        mask: of those that were, bool (samples,), by ``hold_out``.
        seed: that it was made with.
        noun: of the samples.
    """
    return {
        "held_out_share": 1 / ONE_IN,
        noun: mask.size,
        "split": f"numpy.random.default_rng([{seed}, {SPLIT_STREAM}]).permutation({noun})[:held_out_{noun}]",
        "held_out_sha256": hashlib.sha256(np.flatnonzero(mask).astype("<i8").tobytes()).hexdigest(),
    }


def held_out_findings(comparison: Comparison | None) -> dict:
    """Findings on held-out samples under the names of the report; None: there are none."""
    if comparison is None:
        return {"held_out_samples": 0}
    findings = {f"{name}_held_out": value for name, value in comparison.findings().items()}
    return {"held_out_samples": comparison.samples, **findings}
