"""Texts through an encoder by this project, ONNX Runtime and PyTorch, each with one thread, in turns.

    OMP_NUM_THREADS=1 python scripts/bench_encoder.py MODEL_DIR

Needs the packages transformers and onnxscript beside the extra ``bench``.  ONNX Runtime runs what PyTorch
exports, with its own optimisations and after its optimiser for transformers; the faster counts.  All outputs
are compared before anything is timed.  Times are medians of the turns.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import perf_counter

import numpy as np

from repurpose_hpc.commands.parser import argument_type
from repurpose_hpc.fields import integer
from repurpose_hpc.model.importers.load import load_tokens
from repurpose_hpc.restructure.exact import split_network
from repurpose_hpc.runtime.encoding import encode
from repurpose_hpc.runtime.options import RunOptions
from repurpose_hpc.runtime.pooling import Pool
from repurpose_hpc.runtime.tokens import TokenSession

POSITIVE = argument_type(integer(1))
# Largest accepted difference from PyTorch, of outputs of order 1.
TOLERANCE = 1e-4
# The last hidden states (texts, tokens, width) of ids (texts, tokens).
Entrant = Callable[[np.ndarray], np.ndarray]


def main() -> None:
    """Measure, and print a table."""
    args = _arguments()
    network = load_tokens(args.model)
    ids = np.random.default_rng(0).integers(0, args.vocabulary, (args.texts, args.tokens))
    torch_entrant, module = _torch(args.model)
    entrants = {
        "repurpose-hpc": _ours(network, ids, args.batch_size),
        **_onnxruntime(module, ids),
        "PyTorch": torch_entrant,
    }
    expected = torch_entrant(ids)
    for name, entrant in entrants.items():
        difference = np.abs(entrant(ids) - expected).max()
        if not difference <= TOLERANCE:
            raise SystemExit(f"{name}: outputs differ by {difference:.3g} from those of PyTorch")
    times: dict[str, list[float]] = {name: [] for name in entrants}
    for _ in range(args.repeat):
        for name, entrant in entrants.items():
            began = perf_counter()
            entrant(ids)
            times[name].append(perf_counter() - began)
    print(table(times, ids.size))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("--texts", type=POSITIVE, default=32)
    parser.add_argument("--tokens", type=POSITIVE, default=64, help="of each text")
    parser.add_argument("--vocabulary", type=POSITIVE, default=1000, help="ids are below")
    parser.add_argument("--batch-size", type=POSITIVE, default=RunOptions().batch_size, help="as of infer")
    parser.add_argument("--repeat", type=POSITIVE, default=15, help="turns")
    return parser.parse_args()


def _ours(network, ids: np.ndarray, batch_size: int) -> Entrant:
    """This project, one rank."""
    texts, tokens = ids.shape
    session = TokenSession(split_network(network, 1), slots=texts, longest=tokens, chunk=batch_size)

    def run(ids: np.ndarray) -> np.ndarray:
        return np.array(
            [rows for group in encode(session, ids, batch_size, Pool.NONE) for rows in group or ()]
        )

    return run


def _torch(directory: Path):
    """PyTorch, and its module from ids to the last hidden states."""
    import torch
    from transformers import AutoModel

    torch.set_num_threads(1)
    model = AutoModel.from_pretrained(directory, torch_dtype=torch.float32).eval()

    class States(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, input_ids):
            return self.model(input_ids=input_ids).last_hidden_state

    module = States().eval()  # else the exporter leaves dropout on

    def run(ids: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return module(torch.from_numpy(ids)).numpy()

    return run, module


def _onnxruntime(module, ids: np.ndarray) -> dict[str, Entrant]:
    """ONNX Runtime on what PyTorch exports, and on what its optimiser makes of that."""
    import onnxruntime
    import torch
    from onnxruntime.transformers.optimizer import optimize_model

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    heads, width = module.model.config.num_attention_heads, module.model.config.hidden_size
    with tempfile.TemporaryDirectory() as folder:
        exported, optimised = Path(folder) / "exported.onnx", Path(folder) / "optimised.onnx"
        torch.onnx.export(module, (torch.from_numpy(ids),), exported, dynamo=False, input_names=["ids"])
        fused = optimize_model(str(exported), "bert", num_heads=heads, hidden_size=width, use_gpu=False)
        fused.save_model_to_file(str(optimised))
        print(
            "fused by the optimiser:",
            {name: count for name, count in fused.get_fused_operator_statistics().items() if count},
        )
        sessions = {
            name: onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
            for name, path in (("onnxruntime", exported), ("onnxruntime, optimised", optimised))
        }
    return {
        name: lambda ids, session=session: session.run(None, {"ids": ids})[0]
        for name, session in sessions.items()
    }


def table(times: dict[str, list[float]], tokens: int) -> str:
    """The result in Markdown."""
    lines = ["| | ms | tokens/s | time over ours |", "|---|---|---|---|"]
    medians = {name: float(np.median(of)) for name, of in times.items()}
    ours = medians["repurpose-hpc"]
    for name, median in medians.items():
        lines.append(f"| {name} | {1e3 * median:.1f} | {tokens / median:,.0f} | {median / ours:.2f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
