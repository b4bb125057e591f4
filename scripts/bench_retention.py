"""Tokens per second of a network of retention beside one of attention, by the length of the text so far.

    python scripts/bench_retention.py
    mpirun -n 2 python scripts/bench_retention.py --contexts 1024 8192

Both have random weights, the same width, blocks and heads, and as many weights: values of retention are twice
as wide as its keys, as in public models, and its perceptrons are narrower for it.  A text is read up to each
length, then ``generate`` goes on with it, several times in turns.  Needs no PyTorch.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from time import perf_counter
from typing import NamedTuple

import numpy as np
from mpi4py import MPI

from repurpose_hpc.commands.parser import argument_type
from repurpose_hpc.fields import integer
from repurpose_hpc.model.activations import Activation
from repurpose_hpc.model.importers.huggingface.config import Config
from repurpose_hpc.model.importers.huggingface.families import FAMILIES
from repurpose_hpc.model.importers.transformers.architecture import Architecture
from repurpose_hpc.model.importers.transformers.arrays import Arrays
from repurpose_hpc.model.importers.transformers.transformer import assemble
from repurpose_hpc.model.network import Network
from repurpose_hpc.restructure.exact import split_network
from repurpose_hpc.runtime.generation import Sampling, generate
from repurpose_hpc.runtime.tokens import Tokens, TokenSession

POSITIVE = argument_type(integer(1))
VOCABULARY, HEAD_SIZE = 1024, 64
# Neurons of the perceptrons beside attention, over the width, as in Llama.
HIDDEN = 2.6875


class Measured(NamedTuple):
    """Seconds of a token of a prompt up to a context, and of each step behind it; bytes of what is kept."""

    prompt: float
    steps: list[float]
    kept: int


class _Drawn:
    """Random arrays of any name."""

    def __init__(self) -> None:
        self._rng = np.random.default_rng(0)

    def __contains__(self, name: str) -> bool:
        return True

    def array(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        """Normally distributed numbers, 1 where they scale normalisations."""
        if len(shape) == 1:
            return np.ones(shape, np.float32)
        return (self._rng.standard_normal(shape) / np.sqrt(shape[-1])).astype(np.float32)


def main() -> None:
    """Measure, and print two tables on the root."""
    args, comm = _arguments(), MPI.COMM_WORLD
    longest = max(args.contexts) + args.tokens * args.repeat + 1
    networks = {
        "attention": network_of(args.width, args.layers, longest, retains=False),
        "retention": network_of(args.width, args.layers, longest, retains=True),
    }
    cuts = {name: split_network(network, comm.size) for name, network in networks.items()}
    sessions = {name: TokenSession(cut, comm, longest=longest) for name, cut in cuts.items()}
    results: dict[int, dict[str, Measured]] = {}
    for context in sorted(args.contexts):
        prompts = {name: _read_up_to(session, context) for name, session in sessions.items()}
        steps: dict[str, list[float]] = {name: [] for name in sessions}
        for _ in range(args.repeat):
            for name, session in sessions.items():
                comm.Barrier()
                steps[name].append(_step(session, args.tokens, comm))
        kept = {
            name: comm.allreduce(TokenSession(cut, comm, longest=context).kept_bytes)
            for name, cut in cuts.items()
        }
        results[context] = {name: Measured(prompts[name], steps[name], kept[name]) for name in sessions}
    if comm.rank == 0:
        print(table(results, {name: weights_of(network) for name, network in networks.items()}))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--width", type=POSITIVE, default=512, help=f"a multiple of {HEAD_SIZE}")
    parser.add_argument("--layers", type=POSITIVE, default=8)
    parser.add_argument("--contexts", type=POSITIVE, nargs="+", default=[512, 2048, 8192])
    parser.add_argument("--tokens", type=POSITIVE, default=16, help="of a text, each time")
    parser.add_argument("--repeat", type=POSITIVE, default=7)
    return parser.parse_args()


def network_of(width: int, layers: int, longest: int, retains: bool) -> Network:
    """A decoder with random weights."""
    heads, hidden = width // HEAD_SIZE, int(HIDDEN * width)
    architecture = Architecture(
        layers=layers,
        width=width,
        # Gate and the wider values of retention have 4 width² weights more.
        hidden=hidden - 4 * width // 3 if retains else hidden,
        heads=heads,
        groups=heads,
        head_size=HEAD_SIZE,
        vocabulary=VOCABULARY,
        longest=longest,
        epsilon=1e-6,
        activation=Activation("silu"),
        is_gated=True,
        frequencies=10_000.0 ** -np.linspace(0, 1, HEAD_SIZE // 2),
        decay=1 - 2.0 ** (-5 - np.arange(heads)) if retains else None,
        value_size=2 * HEAD_SIZE if retains else 0,
        is_interleaved=retains,
    )
    family = FAMILIES["retnet" if retains else "llama"]
    arrays = Arrays(family.names | family.variants(Config(Path("config.json"), {})), _Drawn())
    tokens = arrays.weight("tokens", (VOCABULARY, width))
    return assemble(architecture, arrays, tokens, tokens)


def weights_of(network: Network) -> int:
    """Numbers that a step reads, but for what is kept."""
    return sum(mixing.weights.size for mixing in network.mixings if not mixing.fixed)


def _read_up_to(session: TokenSession, context: int) -> float:
    """Seconds of each token that goes on with the text up to a length."""
    ids = np.random.default_rng(context).integers(0, VOCABULARY, context - session.length(0))
    began = perf_counter()
    session.candidates([Tokens(0, ids)], 1)
    return (perf_counter() - began) / ids.size


def _step(session: TokenSession, tokens: int, comm: MPI.Comm) -> float:
    """Seconds of a step of ``generate``, which goes on with the text."""
    result = generate(session, [np.ones(1, np.int64)], tokens, Sampling(), comm=comm)
    return result.step_seconds / result.steps


def table(results: dict[int, dict[str, Measured]], weights: dict[str, int]) -> str:
    """The result in Markdown.

    Args:
        results: by context, then by network.
        weights: of the networks.
    """
    sizes = ", ".join(f"{name} {count / 1e6:.1f} million" for name, count in weights.items())
    lines = [
        f"Weights: {sizes}.",
        "",
        "| context | attention, tokens/s | retention, tokens/s | ratio (range) "
        "| prompt: attention, tokens/s | retention | kept: attention, KiB | retention |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for context, of in results.items():
        attention, retention = of["attention"], of["retention"]
        ratios = np.array(attention.steps) / np.array(retention.steps)
        rates = [f"{1 / np.median(each.steps):.0f}" for each in (attention, retention)]
        cells = [
            *(f"{context:,}", *rates, f"{np.median(ratios):.2f} ({ratios.min():.2f} to {ratios.max():.2f})"),
            *(f"{1 / each.prompt:,.0f}" for each in (attention, retention)),
            *(f"{each.kept / 1024:,.0f}" for each in (attention, retention)),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
