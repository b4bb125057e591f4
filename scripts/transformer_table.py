"""What becomes of a transformer of which less crosses, as CSV and as a Markdown table.

    python scripts/transformer_table.py MODEL --calibration DATA --test DATA --out docs/results/NAME.csv

A decoder is judged by the perplexity of the next token; an encoder by what it is for: how often the nearest
neighbour of a text is still the same, and the rank correlation of all similarities.  Calibration data alone
decide, a part of them drawn by each seed; the test data only report.  A second call computes only what is
missing.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rows import mean_table, read_csv, write_csv
from scipy.stats import spearmanr

from repurpose_hpc.commands.transformer import open_transformer, read_texts
from repurpose_hpc.model.forward import Compute, compute, forward
from repurpose_hpc.model.network import Network
from repurpose_hpc.model.texts import UNPOOLED, Pooling
from repurpose_hpc.plan.rounds import rounds_of
from repurpose_hpc.restructure.cut import Cut
from repurpose_hpc.restructure.exact import with_copied_outputs
from repurpose_hpc.restructure.tokens.budget import dense_values, load_of
from repurpose_hpc.restructure.tokens.driver import measure_halves, restructure_tokens
from repurpose_hpc.restructure.tokens.fits import Fit, Shape
from repurpose_hpc.restructure.tokens.forms import DIRECT, Form, Kind
from repurpose_hpc.restructure.tokens.graph import Decided, cut_for
from repurpose_hpc.restructure.tokens.halves import halves_of
from repurpose_hpc.restructure.tokens.method import FULL, TokenMethod
from repurpose_hpc.restructure.tokens.options import TokenOptions
from repurpose_hpc.restructure.tokens.quality import is_decoder, measure

# Of the calibration texts, those that a seed draws.
DRAWN = 0.8
# So many values for a round that rounds alone count.
ROUNDS = 1e6
METHODS = {
    "full": FULL,
    "nothing shared": TokenMethod(shares=False),
    "nothing predicted": TokenMethod(predicts=False),
    "all halves alike": TokenMethod(senses=False),
    "neurons, not directions": TokenMethod(rotates=False),
    "nothing adjusted": TokenMethod(adjusts=False, predicts=False),
}


class Point(NamedTuple):
    """A row: a method, what it may send and compute, and the seed that draws the calibration texts."""

    method: str
    budget: float = 1.0
    load: float = 1.5
    comm_dtype: str = "float32"
    round_cost: float = 0.0
    seed: int = 0


POINTS = (
    *(Point("full", 0.5, load) for load in (1.25, 1.5, 2.0, 2.5)),
    *(Point("full", 0.25, load, "int8") for load in (1.25, 1.5, 2.0, 2.5)),
    *(Point("full", budget, 1.5, seed=seed) for budget in (0.5, 0.25) for seed in (1, 2)),
    *(Point(method, 0.5, 1.5) for method in METHODS if method != "full"),
    Point("full", 1.0, 1.5, "int8"),
    *(Point("full", 0.5, load, round_cost=ROUNDS) for load in (1.25, 1.5, 2.0)),
    Point("attention dropped"),
)
KEYS = ("method", "budget", "load", "comm_dtype", "round_cost")


def main() -> None:
    """Measure what is missing, row by row, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--calibration", type=Path, required=True)
    parser.add_argument("--test", type=Path, required=True)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    model = open_transformer(args.model, check=False, longest=None)
    network, rows = model.reference().network, read_csv(args.out)
    calibration, test = (read_texts(path, model) for path in (args.calibration, args.test))
    pooling = UNPOOLED if is_decoder(network) else model.pooling()
    for point in POINTS:
        key = {name: str(value) for name, value in point._asdict().items()}
        if any(key.items() <= row.items() for row in rows):
            continue
        rng = np.random.default_rng(point.seed)
        drawn = rng.permutation(len(calibration))[: int(DRAWN * len(calibration))]
        began = time.perf_counter()
        cut = _cut(network, [calibration[place] for place in drawn], point, args.workers, pooling)
        seconds = time.perf_counter() - began
        measured = {
            **_sent(network, cut),
            **_judged(network, cut, test, pooling),
            "seconds": round(seconds, 1),
        }
        rows.append(key | {name: str(value) for name, value in measured.items()})
        print(*rows[-1].values(), flush=True)
        write_csv(args.out, rows)
    print(_table(rows))


def _cut(network: Network, texts: list[np.ndarray], point: Point, workers: int, pooling: Pooling) -> Cut:
    if point.method == "attention dropped":
        return _dropped(network, workers)
    options = TokenOptions(
        workers=workers,
        comm_budget=point.budget,
        load=point.load,
        comm_dtype=point.comm_dtype,
        round_cost=point.round_cost,
    )
    method = METHODS[point.method]
    measured = measure_halves(network, texts, options, pooling, method)
    return restructure_tokens(texts, options, measured, method=method)


def _dropped(network: Network, workers: int) -> Cut:
    """Attention adds its bias alone, and nothing is adjusted; perceptrons are as they were."""
    network = with_copied_outputs(network)
    nothing, decided = Shape(0, 0, False), []
    for half in halves_of(network):
        if half.is_divisible:
            decided.append(Decided(half, DIRECT, None))
            continue
        D = half.width
        empty = np.zeros((D, 0))
        fit = Fit(np.arange(0), np.zeros((0, D)), empty, empty, empty, half.out.bias)
        decided.append(Decided(half, Form(Kind.NARROW, nothing, 0), fit))
    return cut_for(network, decided, np.ones(workers))


def _sent(network: Network, cut: Cut) -> dict[str, Any]:
    plan = cut.plan
    values = int(cut.traffic_matrix().sum())
    return {
        "values": values,
        "fraction": round(values / dense_values(network, plan.workers), 4),
        "bytes": plan.bytes_sent(cut.network, plan.comm_dtype),
        "rounds": rounds_of(cut.network, plan),
        "computed": round(load_of(network, cut, np.ones(plan.workers)), 3),
    }


def _judged(network: Network, cut: Cut, texts: Sequence[np.ndarray], pooling: Pooling) -> dict[str, Any]:
    if is_decoder(network):
        quality = measure(network, cut, texts)
        assert quality.perplexity is not None
        increase = round(quality.perplexity_increase, 3)
        return {"perplexity": round(quality.perplexity, 3), "increase": increase}
    before = vectors(network, texts, compute)
    after = vectors(cut.network, texts, cut.compute())
    similar, similar_then = before @ before.T, after @ after.T
    pairs = np.triu_indices(len(texts), 1)
    np.fill_diagonal(similar, -np.inf)
    np.fill_diagonal(similar_then, -np.inf)
    same = similar.argmax(axis=1) == similar_then.argmax(axis=1)
    return {
        "neighbours": round(float(same.mean()), 4),
        "rank_correlation": round(float(spearmanr(similar[pairs], similar_then[pairs])[0]), 4),
        "cosine": round(float((before * after).sum(axis=1).mean()), 4),
    }


def vectors(network: Network, texts: Sequence[np.ndarray], compute: Compute) -> np.ndarray:
    """The mean of each text's outputs, of length 1: (texts, outputs)."""
    found = [
        forward(network.at(text.size), text[None], np.float32, compute).reshape(text.size, -1).mean(axis=0)
        for text in texts
    ]
    rows = np.array(found, np.float64)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def _table(rows: list[dict[str, str]]) -> str:
    """A line for each point; means over the seeds."""
    formats = {"fraction": ".3f", "bytes": ",.0f", "rounds": ".0f", "computed": ".2f"}
    formats |= {"increase": ".2f"} if "increase" in rows[0] else {"neighbours": ".3f", "cosine": ".4f"}
    return mean_table((*KEYS, *formats), rows, KEYS, formats)


if __name__ == "__main__":
    main()
