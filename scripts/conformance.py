"""The onnx package's own tests against the importer: those of operators, and models of PyTorch from 2017.

    python scripts/conformance.py [--kind node pytorch] [--refused] [--update]

Every test is a model with an input and the outputs that are right.  A network needs weights, so a model
without any gets a layer in front that changes nothing; its other inputs become constants.  Imports are
checked as a user's are.  Tests with inputs or outputs that no network can have (integers, no samples) are
left out.  What is right may only become more: ``tests/data/conformance.txt`` has the list, which
``--update`` writes.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

ROOT = Path(__file__).resolve().parent.parent
LISTED = ROOT / "tests" / "data" / "conformance.txt"
KINDS = ("node", "pytorch")
_DATA = Path(onnx.__file__).parent / "backend" / "test" / "data"
# Of the largest value that is expected.
_TOLERANCE = 1e-4
# Tests whose expected values have four digits.
_ROUNDED = {"test_averagepool_2d_ceil_last_window_starts_on_pad": 1e-3}
_WITH_WEIGHTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")


@dataclass(frozen=True, eq=False)
class Case:
    """A test.

    Attributes:
        name: unique.
        model: with one input.
        x: its value, float32, samples first.
        expected: the outputs, samples first.
    """

    name: str
    model: onnx.ModelProto
    x: np.ndarray
    expected: list[np.ndarray]


def cases(kind: str) -> Iterator[Case]:
    """The tests of a kind that a network can take."""
    for name, model, inputs, expected in _node_tests() if kind == "node" else _pytorch_tests():
        if (case := _case(name, model, inputs, expected)) is not None:
            yield case


def judge(case: Case) -> tuple[str, str]:
    """What becomes of a test: "right", "refused", "WRONG" or "CRASH", and the reason."""
    from repurpose_hpc.errors import UserError
    from repurpose_hpc.model.forward import forward
    from repurpose_hpc.model.importers.load import load_model

    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = Path(folder) / "model.onnx"
        onnx.save(case.model, path)
        try:
            y = forward(load_model(path), case.x.reshape(len(case.x), -1))
        except UserError as error:
            return "refused", str(error).removeprefix(f"{path}: ")
        except Exception as error:  # a defect of the importer, whatever it is
            return "CRASH", repr(error)
    error = _error(y, np.hstack([part.reshape(len(part), -1) for part in case.expected]))
    right = error <= _ROUNDED.get(case.name, _TOLERANCE)
    return ("right", "") if right else ("WRONG", f"relative error {error:.2g}")


def listed() -> list[str]:
    """Names of the tests that have been right before."""
    return LISTED.read_text().split()


def _error(y: np.ndarray, expected: np.ndarray) -> float:
    if y.shape != expected.shape or (np.isnan(y) != np.isnan(expected)).any():
        return np.inf
    difference = np.abs(y - expected)[(y != expected) & ~np.isnan(y)]
    return float(difference.max(initial=0) / max(np.nanmax(np.abs(expected), initial=0), 1e-9))


Test = tuple[str, onnx.ModelProto, list, list]


def _node_tests() -> Iterator[Test]:
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        tests = collect_testcases(None)
    for test in tests:
        if test.model is not None and test.data_sets:
            inputs, expected = test.data_sets[0]
            yield test.name, test.model, list(inputs), list(expected)


def _pytorch_tests() -> Iterator[Test]:
    for folder in sorted(_DATA.glob("pytorch-*/*")):
        values = [
            [_tensor(path) for path in sorted((folder / "test_data_set_0").glob(f"{kind}_*.pb"))]
            for kind in ("input", "output")
        ]
        yield folder.name, onnx.load(folder / "model.onnx"), *values


def _tensor(path: Path) -> np.ndarray:
    tensor = TensorProto()
    tensor.ParseFromString(path.read_bytes())
    return numpy_helper.to_array(tensor)


def _case(name: str, model: onnx.ModelProto, inputs: list, expected: list) -> Case | None:
    """A test as a network takes it; None: no network can."""
    constants = {item.name for item in model.graph.initializer}
    free = [item.name for item in model.graph.input if item.name not in constants]
    if len(free) != len(inputs) or not all(isinstance(value, (np.ndarray, np.generic)) for value in inputs):
        return None
    values = dict(zip(free, map(np.asarray, inputs), strict=True))
    source = next((key for key, value in values.items() if _is_samples(value)), None)
    if source is None or not all(_is_result(value, len(values[source])) for value in expected):
        return None
    x = values.pop(source)
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    _change(changed.graph, source, x, values, expected)
    if changed.ir_version < 4:  # where initializers are inputs, too
        changed.ir_version = 4
    return Case(name, changed, x, expected)


def _is_samples(value: np.ndarray) -> bool:
    return value.dtype == np.float32 and 2 <= value.ndim <= 4 and value.size > 0


def _is_result(value: object, samples: int) -> bool:
    return (
        isinstance(value, np.ndarray)
        and value.dtype == np.float32
        and value.ndim > 1
        and len(value) == samples
    )


def _change(
    graph: onnx.GraphProto, source: str, x: np.ndarray, constants: dict[str, np.ndarray], expected: list
) -> None:
    """Leave one input, for any number of samples, and put a layer in front of a graph without weights."""
    graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
    entry = source
    if not any(node.op_type in _WITH_WEIGHTS for node in graph.node):
        channels, kernel = x.shape[1], (1,) * (x.ndim - 2)
        identity = np.eye(channels, dtype=np.float32).reshape(channels, channels, *kernel)
        entry, weights = f"{source}.entry", f"{source}.identity"
        graph.initializer.append(numpy_helper.from_array(identity, weights))
        layer = helper.make_node("Conv" if kernel else "MatMul", [entry, weights], [source])
        nodes = [layer, *graph.node]
        del graph.node[:]
        graph.node.extend(nodes)
    outputs = [item.name for item in graph.output]
    for items in (graph.input, graph.output, graph.value_info):
        del items[:]
    graph.input.append(helper.make_tensor_value_info(entry, TensorProto.FLOAT, ["N", *x.shape[1:]]))
    graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", *value.shape[1:]])
        for name, value in zip(outputs, expected, strict=True)
    )


def main(argv: list[str] | None = None) -> int:
    """Run the tests; the exit status is 1 if one is wrong, or is not right any more."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kind", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--refused", action="store_true", help="list what is refused, too")
    parser.add_argument("--update", action="store_true", help="write the list of those that are right")
    args = parser.parse_args(argv)
    verdicts: dict[str, str] = {}
    for kind in args.kind:
        of_kind = {case.name: judge(case) for case in cases(kind)}
        _print(kind, of_kind, ("WRONG", "CRASH", "refused") if args.refused else ("WRONG", "CRASH"))
        verdicts |= {name: verdict for name, (verdict, _) in of_kind.items()}
    lost = [name for name in listed() if verdicts.get(name, "right") != "right"]
    for name in lost:
        print(f"not right any more: {name}")
    if args.update:
        right = {name for name, verdict in verdicts.items() if verdict == "right"}
        LISTED.write_text("".join(f"{name}\n" for name in sorted(right | set(listed()))))
    return 1 if lost or {"WRONG", "CRASH"} & set(verdicts.values()) else 0


def _print(kind: str, verdicts: dict[str, tuple[str, str]], shown: tuple[str, ...]) -> None:
    counts = Counter(verdict for verdict, _ in verdicts.values())
    print(f"{kind}: {len(verdicts)} tests, " + ", ".join(f"{n} {verdict}" for verdict, n in counts.items()))
    for name, (verdict, reason) in verdicts.items():
        if verdict in shown:
            print(f"  {verdict} {name}: {reason}")


if __name__ == "__main__":
    sys.exit(main())
