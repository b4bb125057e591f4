"""Makes subgraphs of nodes of an ONNX graph, and tries whether they compute every sample by itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from repurpose_hpc.errors import UserError
from repurpose_hpc.model.ends import Port, Step, Subgraph
from repurpose_hpc.model.ends.call import NotByNumpy
from repurpose_hpc.model.importers.onnx.refusal import operator_of
from repurpose_hpc.model.importers.onnx.relations import Relations, reads
from repurpose_hpc.model.importers.onnx.signal import Unsupported
from repurpose_hpc.model.importers.onnx.varying import BATCHES

if TYPE_CHECKING:
    import onnx

# Results with as many rows as the values say, others each time, or perhaps none.
_REFUSED = {
    **dict.fromkeys(
        ("NonMaxSuppression", "NonZero", "Unique", "Compress"), "how much it finds depends on the values"
    ),
    **dict.fromkeys(
        (
            "RandomNormal",
            "RandomNormalLike",
            "RandomUniform",
            "RandomUniformLike",
            "Bernoulli",
            "Multinomial",
        ),
        "its results are drawn at random",
    ),
    "Loop": "it may never end",
}
# Samples of a trial.
_SAMPLES = 5
# Largest relative difference of a sample computed alone.
_TOLERANCE = 1e-4


class Nodes:
    """The nodes of a subgraph, and what they read beside its inputs.

    Args:
        relations: of the whole graph.
        places: of the nodes.
        ports: the inputs.
        shapes: of a sample, by name, of tensors that are not made here and whose shape may be read.
    """

    def __init__(
        self,
        relations: Relations,
        places: Iterable[int],
        ports: Sequence[Port],
        shapes: Mapping[str, tuple[int, ...]],
    ) -> None:
        self._relations, self._ports, self._shapes = relations, ports, shapes
        chosen = sorted({*places, *relations.shape_nodes(places)})
        graph = relations.graph
        protos = [graph.nodes[place] for place in chosen]
        made = {port.name for port in ports}.union(*(proto.output for proto in protos))
        self.constants: dict[str, np.ndarray] = {}
        missing = dict.fromkeys(name for proto in protos for name in reads(proto) if name not in made)
        self.protos = [proto for name in missing for proto in self._supply(name)] + protos

    def subgraph(self, outputs: Sequence[str]) -> Subgraph:
        """The subgraph with these outputs, tried out.

        Raises:
            Unsupported: it cannot be computed for every sample by itself.
        """
        for proto in self.protos:
            if proto.op_type in _REFUSED:
                raise Unsupported(
                    f"node {proto.name or proto.output[0]!r}: {_REFUSED[proto.op_type]}: {proto.op_type}"
                )
        ports = tuple(Port(name, (), "float32") for name in outputs)
        steps = tuple(self._step(proto) for proto in self.protos)
        subgraph = Subgraph(tuple(self._ports), ports, steps, self.constants)
        fixed = next(iter(self._relations.graph.inputs.values()))[0]
        return _tried(subgraph, 0 if fixed == BATCHES[0] else fixed, self._foreign)

    def _supply(self, name: str) -> list[onnx.NodeProto]:
        """A constant, or nodes that make a tensor of the shape of one that is not here."""
        if name in self._relations.constants:
            self.constants[name] = self._relations.constants[name]
            return []
        if name not in self._shapes:
            raise Unsupported(f"it needs {name!r}, which the network does not make as it is")
        from onnx.helper import make_node

        start, end, rest, zero = (f"{name}.{part}" for part in ("start", "end", "sizes", "zero"))
        self.constants |= {
            start: np.array([0]),
            end: np.array([1]),
            rest: np.array(self._shapes[name], np.int64),
            zero: np.zeros((), np.float32),
        }
        return [
            make_node("Shape", [self._ports[0].name], [f"{name}.shape"]),
            make_node("Slice", [f"{name}.shape", start, end], [f"{name}.samples"]),
            make_node("Concat", [f"{name}.samples", rest], [f"{name}.whole"], axis=0),
            make_node("Expand", [zero, f"{name}.whole"], [name]),
        ]

    def _step(self, proto: onnx.NodeProto) -> Step:
        graph = self._relations.graph
        opset = graph.domains.get(proto.domain, graph.opset)
        attributes = {attribute.name: attribute_value(attribute) for attribute in proto.attribute}
        outputs = list(proto.output)
        while outputs and not outputs[-1]:
            outputs.pop()
        return Step(operator_of(proto), tuple(proto.input), tuple(outputs), attributes, opset)

    def _foreign(self, subgraph: Subgraph) -> Subgraph:
        """The same to be run by onnxruntime."""
        from onnx import helper, numpy_helper

        graph = self._relations.graph
        types = {port.name: helper.np_dtype_to_tensor_dtype(np.dtype(port.dtype)) for port in subgraph.inputs}
        made = self._relations.made_by(range(len(graph.nodes)))
        body = helper.make_graph(
            self.protos,
            "subgraph",
            [
                helper.make_tensor_value_info(port.name, types[port.name], [None] * (1 + len(port.shape)))
                for port in subgraph.inputs
            ],
            [
                helper.make_empty_tensor_value_info(port.name)
                for port in subgraph.outputs
                if port.name in made
            ],
            [numpy_helper.from_array(array, name) for name, array in self.constants.items()],
        )
        domains = {"": graph.opset, **graph.domains}
        imports = [helper.make_opsetid(domain, version) for domain, version in domains.items()]
        model = helper.make_model(body, opset_imports=imports, ir_version=10)
        steps = tuple(replace(step, attributes={}) for step in subgraph.steps)
        return replace(subgraph, steps=steps, constants={}, model=model.SerializeToString())


def attribute_value(attribute: onnx.AttributeProto) -> Any:
    """An attribute as a number, text, list or array; graphs, which NumPy does not run, as None."""
    from onnx import AttributeProto, TensorProto
    from onnx.helper import get_attribute_value
    from onnx.numpy_helper import to_array

    value = get_attribute_value(attribute)
    if attribute.type in (AttributeProto.INT, AttributeProto.FLOAT, AttributeProto.STRING):
        return value.decode() if isinstance(value, bytes) else value
    if attribute.type in (AttributeProto.INTS, AttributeProto.FLOATS, AttributeProto.STRINGS):
        return [each.decode() if isinstance(each, bytes) else each for each in value]
    return to_array(value) if isinstance(value, TensorProto) else None


def _tried(subgraph: Subgraph, fixed: int, foreign: Callable[[Subgraph], Subgraph]) -> Subgraph:
    """A subgraph with the shapes and dtypes of its outputs, for batches of any size or of the ``fixed`` one.

    Raises:
        Unsupported: a sample has other results alone than among others.
    """
    draws = [_drawn(subgraph.inputs, *integers) for integers in _ranges(subgraph.constants)]
    subgraph = subgraph if _is_for_numpy(subgraph, draws) else foreign(subgraph)
    reasons = []
    for batch in dict.fromkeys((0, fixed)):
        for arrays in draws:
            try:
                return _settled(replace(subgraph, batch=batch), arrays)
            except (UserError, Unsupported) as error:
                reasons.append(str(error))
    raise Unsupported(reasons[0])


def _is_for_numpy(subgraph: Subgraph, draws: Iterable[list[np.ndarray]]) -> bool:
    for arrays in draws:
        try:
            subgraph.computed(arrays)
        except NotByNumpy:
            return False
        except UserError:  # perhaps not with other values
            continue
        return True
    return True


def _settled(subgraph: Subgraph, arrays: list[np.ndarray]) -> Subgraph:
    """A subgraph with the ports of its outputs, found by computing some samples together and alone."""
    whole = subgraph.in_batches(arrays)
    alone = [subgraph.in_batches([array[[place]] for array in arrays]) for place in range(_SAMPLES)]
    ports = []
    for port, together, *parts in zip(subgraph.outputs, whole, *alone, strict=True):
        if together.dtype.kind not in "biuf":
            raise Unsupported(f"output {port.name!r} is {together.dtype}, expected numbers")
        shapes = {part.shape[1:] for part in parts}
        rows_of_samples = all(part.shape[:1] == (1,) for part in parts)
        if together.shape[:1] != (_SAMPLES,) or not rows_of_samples or shapes != {together.shape[1:]}:
            raise Unsupported(
                f"{port.name!r} has shape {together.shape} for {_SAMPLES} samples, {parts[0].shape} for one, "
                "expected the samples on the first axis and the same shape for each"
            )
        if not _same(together, np.concatenate(parts)):
            raise Unsupported(f"{port.name!r} has other values for a sample alone than among others")
        ports.append(Port(port.name, together.shape[1:], together.dtype.name))
    return replace(subgraph, outputs=tuple(ports))


def _same(x: np.ndarray, y: np.ndarray) -> bool:
    if x.dtype.kind != "f":
        return np.array_equal(x, y)
    return np.allclose(
        x, y, _TOLERANCE, _TOLERANCE * np.abs(x[np.isfinite(x)]).max(initial=0.0), equal_nan=True
    )


def _ranges(constants: Mapping[str, np.ndarray]) -> list[tuple[int, int]]:
    """First and last integers of trials: 0 and 1, in case of need those that constants shift there."""
    whole = (array for array in constants.values() if array.dtype.kind in "iu" and array.size == 1)
    shifts = {sign * int(array.item()) for array in whole for sign in (1, -1)} - {0}
    return [(0, 1), (0, 0), (1, 1), *((shift, shift + 1) for shift in sorted(shifts))]


def _drawn(ports: Iterable[Port], first: int, last: int) -> list[np.ndarray]:
    """Values of some samples, integers from ``first`` to ``last``."""
    rng = np.random.default_rng(0)
    arrays = []
    for port in ports:
        shape = _SAMPLES, *port.shape
        values = rng.standard_normal(shape) if port.kind == "f" else rng.integers(first, last + 1, shape)
        arrays.append(values.astype(port.dtype))
    return arrays
