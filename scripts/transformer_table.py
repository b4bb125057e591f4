"""What becomes of a transformer of which less crosses, as CSV and as a Markdown table.

    python scripts/transformer_table.py MODEL --calibration DATA --out FILE.csv
    python scripts/transformer_table.py MODEL --calibration DATA --test DATA --out docs/results/NAME.csv

A decoder is judged by the perplexity of the next token; an encoder by what it is for: how often the nearest
neighbour of a text is still the same, and the rank correlation of all similarities.  Calibration data alone
decide, four texts in five drawn by each seed.  Without test data the fifth judges: that is what to develop
with.  Test data only report.  A second call computes only what is missing.  Beside the method stand its peers
(``sync_points``, ``block_pruning``).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from block_pruning import block_pruning
from rows import mean_table, read_csv, write_csv
from scipy.stats import spearmanr
from sync_points import dense, sync_point_drop

from repurpose_hpc.commands.transformer import open_transformer, read_texts
from repurpose_hpc.model.forward import Compute, compute, forward
from repurpose_hpc.model.network import Network
from repurpose_hpc.model.texts import UNPOOLED, Pooling, is_decoder
from repurpose_hpc.plan.rounds import rounds_of
from repurpose_hpc.restructure.cut import Cut
from repurpose_hpc.restructure.tokens.budget import dense_values, load_of
from repurpose_hpc.restructure.tokens.driver import Measured, measure_halves, restructure_tokens
from repurpose_hpc.restructure.tokens.method import FULL, TokenMethod
from repurpose_hpc.restructure.tokens.options import TokenOptions
from repurpose_hpc.restructure.tokens.quality import held_out, measure
from repurpose_hpc.restructure.tokens.scales import with_scales

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


Peer = Callable[[Network, Sequence[np.ndarray], int, float], Cut]
PEERS: dict[str, Peer] = {
    "dense": lambda network, texts, workers, budget: dense(network, workers),
    "sync points dropped": sync_point_drop,
    "blocks pruned": block_pruning,
}
POINTS = (
    *(Point("full", 0.5, load) for load in (1.25, 1.5, 2.0, 2.5)),
    *(Point("full", budget) for budget in (0.75, 0.25)),
    *(Point("full", 0.5, seed=seed) for seed in (1, 2)),
    *(Point(method, 0.5) for method in METHODS if method != "full"),
    *(Point("dense", comm_dtype=comm_dtype) for comm_dtype in ("float32", "int8", "int4")),
    *(Point("full", budget, comm_dtype="int8") for budget in (0.5, 0.25)),
    *(Point("sync points dropped", budget) for budget in (0.75, 0.5)),
    *(Point("blocks pruned", budget) for budget in (0.75, 0.5, 0.25)),
    *(Point("blocks pruned", 0.5, seed=seed) for seed in (1, 2)),
    *(Point("full", 0.5, load, round_cost=ROUNDS) for load in (1.25, 1.5, 2.0)),
)
# Further ones, of decoders.
DECODER_POINTS = (
    *(Point("full", 0.25, load, "int8") for load in (2.0, 2.5)),
    Point("full", 0.5, comm_dtype="int4"),
    *(Point("sync points dropped", 0.5, seed=seed) for seed in (1, 2)),
)
KEYS = ("method", "budget", "load", "comm_dtype", "round_cost")


def main() -> None:
    """Measure what is missing, row by row, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--calibration", type=Path, required=True)
    parser.add_argument("--test", type=Path, help="default: the calibration texts that were not drawn")
    parser.add_argument("--workers", type=int, default=4)
    methods = [*METHODS, *PEERS]
    parser.add_argument("--methods", nargs="+", choices=methods, default=methods, metavar="METHOD")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    model = open_transformer(args.model, check=False, longest=None)
    network, rows = model.reference().network, read_csv(args.out)
    calibration = read_texts(args.calibration, model)
    test = None if args.test is None else read_texts(args.test, model)
    pooling = UNPOOLED if is_decoder(network) else model.pooling()
    cuts = _Cuts(network, calibration, args.workers, pooling)
    points = POINTS + DECODER_POINTS * is_decoder(network)
    for point in (point for point in points if point.method in args.methods):
        key = {name: str(value) for name, value in point._asdict().items()}
        if any(key.items() <= row.items() for row in rows):
            continue
        cut = cuts.cut(point)
        judges = held_out(calibration, point.seed).held_out if test is None else test
        measured = {**_sent(network, cut), **_judged(network, cut, judges, pooling)}
        rows.append(key | {name: str(value) for name, value in measured.items()})
        print(*rows[-1].values(), flush=True)
        write_csv(args.out, rows)
    print(_table(rows))


class _Cuts:
    """A network, restructured in many ways.

    Args:
        network: of tokens.
        texts: calibration data, of which every seed holds out one in five.
        workers: P.
        pooling: what is made of the outputs of an encoder.
    """

    def __init__(self, network: Network, texts: Sequence[np.ndarray], workers: int, pooling: Pooling) -> None:
        self._network, self._texts, self._workers, self._pooling = network, texts, workers, pooling
        self._measured = cache(self._measure)

    def cut(self, point: Point) -> Cut:
        """As the method or a peer does it."""
        texts = held_out(self._texts, point.seed).rest
        if point.method in PEERS:
            cut = PEERS[point.method](self._network, texts, self._workers, point.budget)
            return with_scales(cut, texts, point.comm_dtype)
        options = TokenOptions(
            workers=self._workers,
            comm_budget=point.budget,
            load=point.load,
            comm_dtype=point.comm_dtype,
            round_cost=point.round_cost,
        )
        measured = self._measured(point.method, point.comm_dtype, point.seed)
        return restructure_tokens(texts, options, measured, method=METHODS[point.method])

    def _measure(self, method: str, comm_dtype: str, seed: int) -> Measured:
        """What depends on no budget."""
        options = TokenOptions(workers=self._workers, comm_dtype=comm_dtype)
        texts = held_out(self._texts, seed).rest
        return measure_halves(self._network, texts, options, self._pooling, METHODS[method])


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
