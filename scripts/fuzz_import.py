"""Random legal ONNX graphs: the imported network is right, or the graph is refused.

    python scripts/fuzz_import.py [--first 0] [--count 2000] [--steps 8] [--keep DIR]

Graphs are numbered, so that one that fails can be made again.  Right means: what onnxruntime computes in
float32, or the reference of the onnx package in float64, on inputs that hit the constants of activations,
their neighbours, and very large and small ones.  Beside those that are wrong, the comparison that every
import goes through is counted where it refuses what is right, or passes what is wrong.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import onnx

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "tests"))

from helpers.random_graphs import random_graph  # noqa: E402

_TOLERANCE, _SINGLE_TOLERANCE = 2e-5, 1e-3


def judge(number: int, steps: int = 8, keep: Path | None = None) -> tuple[str, str]:
    """What becomes of a graph: "right", "refused", "WRONG", "CRASH" or "not run", and the reason."""
    from repurpose_hpc.errors import UserError
    from repurpose_hpc.model.importers.load import load_model

    model, compared = random_graph(number, steps)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        path = Path(keep or folder) / f"fuzz{number}.onnx"
        onnx.save(model, path)
        try:
            network = load_model(path, check=False)
        except UserError as error:
            return "refused", str(error).removeprefix(f"{path}: ")
        except Exception as error:  # a defect of the importer, whatever it is
            return "CRASH", repr(error)
        verdict = _compared(path, network, probes(network.ends.inputs(network.inputs), compared, number))
        return _with_check(path, network, *verdict)


def probes(width: int, compared: list[float], number: int) -> np.ndarray:
    """Inputs, float32, (48, width): normal ones of several sizes, and the numbers compared with."""
    rng = np.random.default_rng(number)
    normal = rng.standard_normal((16, width)) * np.array([0.01, 1, 1, 30] * 4)[:, None]
    numbers = np.array([0.0, *compared], np.float32)
    near = [numbers, -numbers, _next_to(numbers, np.inf), _next_to(numbers, -np.inf)]
    hits = rng.choice(np.concatenate([*near, numbers * 1.001]), (24, width))
    large = rng.choice([-1e4, -300.0, 0.1, 1.0, 300.0, 1e4], (8, width))
    return np.concatenate([normal, hits, large]).astype(np.float32)


def _next_to(numbers: np.ndarray, end: float) -> np.ndarray:
    """The next number; next to zero, one whose products with weights float32 still tells from zero."""
    near = np.nextafter(numbers, np.float32(end))
    return np.where(numbers == 0, np.float32(np.copysign(1e-20, end)), near)


def _compared(path: Path, network, x: np.ndarray) -> tuple[str, str]:
    """Whether the network is, value by value, what one of two programs computes."""
    from repurpose_hpc.model.forward import forward

    try:
        results = [_onnxruntime(path, x)]
    except Exception as error:  # of its own kinds
        return "not run", " ".join(str(error).split())[:120]
    with contextlib.suppress(Exception):  # it does not compute all windows
        results.append(_reference(path, x))
    y = forward(network, x)
    # The reference computes some windows in another shape than its own checker infers.
    results = [result for result in results if result.shape == results[0].shape]
    if y.shape != results[0].shape:
        return "WRONG", f"shape {y.shape}, expected {results[0].shape}"
    tolerance = _TOLERANCE
    if len(results) == 1:  # float32 alone does not tell what cancels, or which side of a jump is right
        tolerance = _SINGLE_TOLERANCE
        noise = np.random.default_rng(0).choice([-(2.0**-22), 2.0**-22], (4, *x.shape))
        results += [_onnxruntime(path, (x * (1 + each)).astype(np.float32)) for each in noise]
    bad = np.logical_and.reduce([_differs(y, result, tolerance) for result in results])
    # What overflows in both is not judged.
    bad &= np.logical_or.reduce([np.isfinite(result) for result in results])
    if not bad.any():
        return "right", ""
    sample, place = np.argwhere(bad)[0]
    values = ", ".join(f"{result[sample, place]:.7g}" for result in (y, *results))
    return "WRONG", f"{bad.sum()} of {bad.size}, sample {sample}, output {place}: {values}"


def _differs(y: np.ndarray, expected: np.ndarray, tolerance: float) -> np.ndarray:
    scale = np.where(np.isfinite(expected), np.abs(expected), 0).max(axis=1, keepdims=True, initial=1e-6)
    same = (y == expected) | np.isnan(y) & np.isnan(expected)
    return ~same & ~(np.abs(y - expected) <= tolerance * scale)


def _onnxruntime(path: Path, x: np.ndarray) -> np.ndarray:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    (source,) = session.get_inputs()
    return _flat(session.run(None, {source.name: x.reshape(-1, *source.shape[1:])}))


def _reference(path: Path, x: np.ndarray) -> np.ndarray:
    from onnx.reference import ReferenceEvaluator

    from repurpose_hpc.model.importers.opinion.evaluators import in_float64

    model = in_float64(onnx.load(path))
    sizes = [axis.dim_value for axis in model.graph.input[0].type.tensor_type.shape.dim[1:]]
    return _flat(ReferenceEvaluator(model).run(None, {"x": x.astype(np.float64).reshape(-1, *sizes)}))


def _flat(values: list[np.ndarray]) -> np.ndarray:
    return np.hstack([value.reshape(len(value), -1).astype(np.float64) for value in values])


def _with_check(path: Path, network, verdict: str, reason: str) -> tuple[str, str]:
    """The verdict beside that of the check that every import goes through."""
    from repurpose_hpc.errors import UserError
    from repurpose_hpc.model.importers.load import check_model

    try:
        check_model(path, network)
    except UserError as error:
        if verdict == "right":
            return "FALSE ALARM", str(error).removeprefix(f"{path}: ")
        return verdict, f"{reason} (the check sees it)"
    return verdict, f"{reason} (the check passes it)" if verdict == "WRONG" else reason


def main(argv: list[str] | None = None) -> int:
    """Run the graphs; the exit status is 1 if one is neither right nor refused."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--first", type=int, default=0, help="number of the first graph")
    parser.add_argument("--count", type=int, default=2000, help="graphs")
    parser.add_argument("--steps", type=int, default=8, help="of a graph: more are larger")
    parser.add_argument("--keep", type=Path, help="where to leave the .onnx files")
    parser.add_argument("--refused", action="store_true", help="list what is refused, too")
    args = parser.parse_args(argv)
    counts: Counter[str] = Counter()
    for number in range(args.first, args.first + args.count):
        verdict, reason = judge(number, args.steps, args.keep)
        counts[verdict] += 1
        if verdict.isupper() or (args.refused and verdict != "right"):
            print(f"{verdict} {number}: {reason}", flush=True)
    print(f"{args.count} graphs: " + ", ".join(f"{count} {verdict}" for verdict, count in counts.items()))
    return int(any(verdict.isupper() for verdict in counts))


if __name__ == "__main__":
    sys.exit(main())
