"""Text of a transformer on all ranks, on one, and by PyTorch and llama.cpp with one thread, in turns.

    mpirun -n 2 python scripts/bench_generate.py MODEL_DIR

A step adds one token to one text.  Nobody computes logits of the tokens of a prompt before its last.  PyTorch
runs the model by the package transformers, llama.cpp by the package llama-cpp-python (which pip builds) from
GGUF files of float32 and float16 that are written for it, keys and values of the same type; F16 is this
project with weights, keys and values in float16.  What is not installed is left out.  Beside them, the rates
at which one rank, and all ranks at once, read matrices larger than their caches for a product with a vector,
by NumPy and by this project: what all of them read together is the most that several ranks can gain.  Times
are medians; while one rank works alone the others wait.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

import numpy as np
from mpi4py import MPI

from repurpose_hpc.commands.parser import argument_type
from repurpose_hpc.fields import integer
from repurpose_hpc.model.importers.load import load_tokens
from repurpose_hpc.model.network import Network
from repurpose_hpc.restructure.exact import split_network
from repurpose_hpc.runtime.buffers import Scratch
from repurpose_hpc.runtime.lowering.blocks import NO_ACTIVATION, DenseProduct
from repurpose_hpc.runtime.tokens import Tokens, TokenSession

POSITIVE = argument_type(integer(1))
# Of the matrix that is read, float32.
MATRIX = 8192
# What an entrant does: read a prompt, and add so many tokens; returns seconds of both, of a step the median.
Entrant = Callable[[np.ndarray, int], tuple[float, float]]


def main() -> None:
    """Measure, and print a table on the root."""
    args, comm = _arguments(), MPI.COMM_WORLD
    network = load_tokens(args.model)
    prompt = np.random.default_rng(0).integers(0, network.outputs, args.prompt)
    longest = args.prompt + args.tokens
    entrants: dict[str, tuple[bool, Entrant]] = {
        f"{comm.size} ranks": (True, _ours(network, longest, comm)),
        "1 rank": (False, _ours(network, longest)),
        f"{comm.size} ranks F16": (True, _ours(network, longest, comm, "float16")),
        "1 rank F16": (False, _ours(network, longest, None, "float16")),
    }
    peers = _peers(args.model, longest) if comm.rank == 0 else {}
    for name in comm.bcast(list(peers), root=0):
        entrants[name] = (False, peers.get(name, _nothing))
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in entrants}
    for _ in range(args.repeat + 1):
        for name, (is_collective, entrant) in entrants.items():
            comm.Barrier()
            if is_collective or comm.rank == 0:
                times[name].append(entrant(prompt, args.tokens))
    rates = {}
    for name, product in {"NumPy": numpy_product(), "this project": own_product()}.items():
        alone = read_rate(product) if comm.rank == 0 else 0.0
        comm.Barrier()
        rates[name] = alone, comm.size * comm.allreduce(read_rate(product), op=MPI.MIN)
    if comm.rank == 0:
        weights = sum(mixing.weights.size for mixing in network.mixings if not mixing.fixed)
        print(table({name: of[1:] for name, of in times.items()}, args.prompt, weights))
        for name, (alone, together) in rates.items():
            print(
                f"\nIn a product with a vector {name} reads {alone / 1e9:.1f} GB/s with one rank, and "
                f"{together / 1e9:.1f} GB/s with all {comm.size} at once."
            )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("--prompt", type=POSITIVE, default=64, help="tokens")
    parser.add_argument("--tokens", type=POSITIVE, default=32, help="steps")
    parser.add_argument("--repeat", type=POSITIVE, default=5)
    return parser.parse_args()


def _ours(network: Network, longest: int, comm: MPI.Comm | None = None, stored: str = "float32") -> Entrant:
    """This project, with a part for each rank; ``stored``: how weights, keys and values are."""
    cut = split_network(network, 1 if comm is None else comm.size)
    session = TokenSession(cut, comm, longest=longest, weights_dtype=stored, kept_dtype=stored)

    def run(prompt: np.ndarray, tokens: int) -> tuple[float, float]:
        session.forget(0)
        began = perf_counter()
        session.candidates([Tokens(0, prompt)], 1)
        read, steps = perf_counter() - began, []
        for _ in range(tokens):
            began = perf_counter()
            session.candidates([Tokens(0, prompt[:1])], 1)
            steps.append(perf_counter() - began)
        return read, float(np.median(steps))

    return run


def _peers(model: Path, longest: int) -> dict[str, Entrant]:
    """What others make of the model; those whose packages are missing are named and left out."""
    peers: dict[str, Entrant] = {}
    for name, make in {"PyTorch": _torch, "llama.cpp": _llama_cpp}.items():
        try:
            peers |= make(model, longest)
        except ImportError as error:
            print(f"{name} is left out: not installed ({error})")
    return peers


def _nothing(prompt: np.ndarray, tokens: int) -> tuple[float, float]:
    """What ranks do that only wait for the root."""
    return 0.0, 0.0


def _torch(model: Path, longest: int) -> dict[str, Entrant]:
    """PyTorch with one thread."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(1)
    network = AutoModelForCausalLM.from_pretrained(model, torch_dtype=torch.float32).eval()

    def run(prompt: np.ndarray, tokens: int) -> tuple[float, float]:
        with torch.inference_mode():
            began = perf_counter()
            ids = torch.from_numpy(prompt)[None]
            past = network(ids, use_cache=True, logits_to_keep=1).past_key_values
            read, steps, token = perf_counter() - began, [], torch.from_numpy(prompt[None, :1])
            for _ in range(tokens):
                began = perf_counter()
                past = network(token, past_key_values=past, use_cache=True).past_key_values
                steps.append(perf_counter() - began)
        return read, float(np.median(steps))

    return {"PyTorch": run}


def _llama_cpp(model: Path, longest: int) -> dict[str, Entrant]:
    """llama.cpp with one thread, from files of two types."""
    import gguf_files
    import llama_cpp

    metadata, tensors = gguf_files.contents(model)

    def made(kind: str) -> Entrant:
        cached = getattr(llama_cpp, f"GGML_TYPE_{kind}")
        with TemporaryDirectory() as folder:
            path = gguf_files.write(Path(folder) / "model.gguf", metadata, tensors, kind)
            options = {"n_threads": 1, "n_threads_batch": 1, "type_k": cached, "type_v": cached}
            network = llama_cpp.Llama(str(path), n_ctx=longest, use_mmap=False, verbose=False, **options)

        def run(prompt: np.ndarray, tokens: int) -> tuple[float, float]:
            network.reset()
            began = perf_counter()
            network.eval(prompt.tolist())
            llama_cpp.llama_get_logits(network.ctx)  # waits for them
            read, steps = perf_counter() - began, []
            for _ in range(tokens):
                began = perf_counter()
                network.eval(prompt[:1].tolist())
                llama_cpp.llama_get_logits(network.ctx)
                steps.append(perf_counter() - began)
            return read, float(np.median(steps))

        return run

    return {f"llama.cpp {kind}": made(kind) for kind in ("F32", "F16")}


def numpy_product() -> Callable[[], object]:
    """NumPy's product of a matrix and a vector."""
    matrix, x = np.ones((MATRIX, MATRIX), np.float32), np.ones(MATRIX, np.float32)
    return lambda: matrix @ x


def own_product() -> Callable[[], object]:
    """The same product by this project."""
    product = DenseProduct(np.ones((MATRIX, MATRIX), np.float32))
    x, out = (np.ones((MATRIX, 1), np.float32) for _ in range(2))
    scratch = Scratch(x.dtype, product.scratch(1))
    ((_, function, arguments),) = product.calls(x, np.zeros_like(out), out, scratch, NO_ACTIVATION)
    return lambda: function(*arguments)


def read_rate(product: Callable[[], object]) -> float:
    """Bytes of the matrix per second."""
    times = []
    for _ in range(7):
        began = perf_counter()
        product()
        times.append(perf_counter() - began)
    return 4 * MATRIX**2 / float(np.median(times[1:]))


def table(times: dict[str, list[tuple[float, float]]], prompt: int, weights: int) -> str:
    """The result in Markdown.

    Args:
        times: of each entrant, see ``Entrant``.
        prompt: its tokens.
        weights: numbers that a step reads, of 4 bytes, or of 2 in F16.
    """
    lines = [
        f"Weights of {4 * weights / 1e6:.0f} MB in float32.",
        "",
        "| | prompt, s | prompt tokens/s | tokens/s | weights read, GB/s |",
        "|---|---|---|---|---|",
    ]
    for name, of in times.items():
        read, step = np.median(np.array(of), axis=0)
        size = weights * (2 if name.endswith("F16") else 4)
        rates = f"{prompt / read:,.0f} | {1 / step:.1f} | {size / step / 1e9:.1f}"
        lines.append(f"| {name} | {read:.3f} | {rates} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
