"""Models whose ends are computed outside the network, with samples, and what onnxruntime computes of them."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper

from helpers.onnx_models import node

RNG = np.random.default_rng(0)
DOMAINS = {"": 17, "ai.onnx.ml": 3}


def weights(*shape):
    """Random weights, float32, of about the length that keeps the size of what they are applied to."""
    return (RNG.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)


@dataclass(frozen=True)
class EndModel:
    """A model and what is to be expected of its ends.

    Attributes:
        nodes, constants: of the graph.
        inputs: name -> dtype and shape of a sample.
        outputs: names; dictionaries among them are compared by their values.
        front, back: operators outside the network.
        largest: integers of the input are below.
    """

    nodes: list
    constants: dict
    inputs: dict = field(default_factory=lambda: {"x": ("float32", (6,))})
    outputs: tuple = ("y",)
    front: tuple = ()
    back: tuple = ()
    largest: int = 2

    def save(self, path: Path, batch="N") -> Path:
        """Write the model."""
        infos = [
            helper.make_tensor_value_info(
                name, helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), (batch, *shape)
            )
            for name, (dtype, shape) in self.inputs.items()
        ]
        constants = {name: np.asarray(value) for name, value in self.constants.items()}
        graph = helper.make_graph(
            self.nodes,
            "graph",
            infos,
            [helper.make_empty_tensor_value_info(name) for name in self.outputs],
            [numpy_helper.from_array(value, name) for name, value in constants.items()],
        )
        imports = [helper.make_opsetid(domain, version) for domain, version in DOMAINS.items()]
        model = helper.make_model(graph, opset_imports=imports, ir_version=9)
        model = onnx.shape_inference.infer_shapes(model)
        for output in model.graph.output:
            if output.type.WhichOneof("value") == "tensor_type":
                output.type.tensor_type.shape.SetInParent()
        onnx.save(model, path)
        return path

    def draw(self, samples: int, seed: int = 1) -> np.ndarray:
        """Samples as a file holds them, (samples, ...)."""
        rng = np.random.default_rng(seed)
        arrays = [
            rng.standard_normal((samples, *shape)).astype(dtype)
            if np.dtype(dtype).kind == "f"
            else rng.integers(0, self.largest, (samples, *shape)).astype(dtype)
            for dtype, shape in self.inputs.values()
        ]
        if len(arrays) == 1:
            return arrays[0]
        return np.hstack([array.reshape(samples, -1).astype(np.float64) for array in arrays])


def expected(path: Path, model: EndModel, x: np.ndarray) -> list[np.ndarray]:
    """The outputs that onnxruntime computes, each (samples, ...)."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    feeds, first, flat = {}, 0, x.reshape(len(x), -1)
    for name, (dtype, shape) in model.inputs.items():
        size = int(np.prod(shape))
        feeds[name] = flat[:, first : first + size].reshape(len(x), *shape).astype(dtype)
        first += size
    results = session.run(list(model.outputs), feeds)
    return [
        np.array([list(row.values()) for row in result]) if isinstance(result, list) else result
        for result in results
    ]


def packed(outputs: list[np.ndarray]) -> np.ndarray:
    """Outputs one after the other, (samples, values)."""
    return np.hstack([output.reshape(len(output), -1).astype(np.float64) for output in outputs])


HIDDEN = 8
DENSE = [node("MatMul", "h W", "m"), node("Relu", "m", "r"), node("MatMul", "r V", "z")]


def _dense(inputs: int, outputs: int) -> dict:
    return {"W": weights(inputs, HIDDEN), "V": weights(HIDDEN, outputs)}


_CLASSES = np.array([3, 5, 9], np.int64)
_IMAGE = {"x": ("float32", (6, 6, 3))}
_MAPS = {"x": ("float32", (3, 6, 6))}

MODELS = {
    "channels_last": EndModel(
        [
            *(node("Sub", "x mean", "a"), node("Div", "a deviation", "b")),
            node("Transpose", "b", "t", perm=[0, 3, 1, 2]),
            *(node("Conv", "t K", "c"), node("Relu", "c", "d")),
            *(node("Flatten", "d", "h"), *DENSE, node("Softmax", "z", "y", axis=1)),
        ],
        {
            **{"mean": np.float32([0.1, 0.2, 0.3]), "deviation": np.float32([0.5, 0.6, 0.7])},
            **{"K": weights(4, 3, 3, 3), **_dense(64, 3)},
        },
        _IMAGE,
    ),
    "tokens": EndModel(
        [node("Gather", "table x", "e"), node("Flatten", "e", "h"), *DENSE, node("Identity", "z", "y")],
        {"table": weights(50, 5), **_dense(20, 3)},
        {"x": ("int32", (4,))},
        front=("Gather",),
        largest=50,
    ),
    "one_hot_and_reals": EndModel(
        [
            *(node("OneHot", "i depth values", "o"), node("Flatten", "o", "f")),
            *(node("Concat", "f x", "h", axis=1), *DENSE, node("Identity", "z", "y")),
        ],
        {"depth": np.array([7]), "values": np.float32([0, 1]), **_dense(20, 3)},
        {"i": ("int64", (2,)), "x": ("float32", (6,))},
        front=("OneHot",),
        largest=7,
    ),
    "map_softmax": EndModel(
        [
            *(node("Conv", "x K", "a"), node("Relu", "a", "b")),
            *(node("Conv", "b L", "c"), node("Conv", "b M", "d")),
            *(node("Reshape", "c flat", "e"), node("Reshape", "d flat", "f")),
            *(node("Concat", "e f", "g", axis=2), node("Softmax", "g", "y", axis=1)),
        ],
        {
            **{"K": weights(5, 3, 3, 3), "L": weights(4, 5, 1, 1), "M": weights(4, 5, 3, 3)},
            "flat": np.array([0, 4, -1]),
        },
        _MAPS,
        back=("Softmax",),
    ),
    "argmax": EndModel(
        [node("MatMul", "x W", "m"), *DENSE[1:], node("ArgMax", "z", "y", axis=1)],
        _dense(6, 3),
        back=("ArgMax",),
    ),
    "segmentation": EndModel(
        [*(node("Conv", "x K", "a"), node("Relu", "a", "b"), node("Conv", "b L", "c")),
         node("ArgMax", "c", "y", axis=1, keepdims=0)],
        {"K": weights(5, 3, 3, 3), "L": weights(4, 5, 1, 1)},
        _MAPS,
        back=("ArgMax",),
    ),
    "boxes": EndModel(
        [
            *(node("MatMul", "x W", "m"), *DENSE[1:], node("Reshape", "z four_each", "b")),
            *(node("Slice", "b zero two last", "at"), node("Slice", "b two four last", "s")),
            *(node("Exp", "s", "e"), node("Mul", "e half", "w"), node("Sub", "at w", "low")),
            *(node("Add", "at w", "high"), node("Concat", "low high", "y", axis=2)),
        ],
        {
            **{"four_each": np.array([-1, 3, 4]), "zero": np.array([0]), "two": np.array([2])},
            **{"four": np.array([4]), "last": np.array([2]), "half": np.float32(0.5), **_dense(6, 12)},
        },
        back=("Sub", "Add", "Concat"),
    ),
    "classifier": EndModel(
        [
            *(node("MatMul", "x W", "m"), *DENSE[1:], node("Softmax", "z", "p", axis=1)),
            *(node("ArgMax", "p", "a", axis=1),),
            node("ArrayFeatureExtractor", "classes a", "f", domain="ai.onnx.ml"),
            *(node("Cast", "f", "g", to=7), node("Reshape", "g minus_one", "label")),
            node("ZipMap", "p", "y", domain="ai.onnx.ml", classlabels_int64s=_CLASSES.tolist()),
        ],
        {"classes": _CLASSES[None], "minus_one": np.array([-1]), **_dense(6, 3)},
        outputs=("label", "y"),
        back=("ArgMax", "ai.onnx.ml.ArrayFeatureExtractor", "Cast", "Reshape"),
    ),
    "sorted_ends": EndModel(
        [
            *(node("TopK", "x count", "h i", axis=1), *DENSE),
            *(node("TopK", "z two", "v j", axis=1), node("Cast", "j", "k", to=1)),
            node("Concat", "v k", "y", axis=1),
        ],
        {"count": np.array([4]), "two": np.array([2]), **_dense(4, 3)},
        front=("TopK",),
        back=("TopK", "Cast", "Concat"),
    ),
    "fixed_batch": EndModel(
        [
            *(node("Reshape", "x row", "a"), node("Mod", "a most", "h", fmod=1), *DENSE),
            node("Mod", "z most", "y", fmod=1),
        ],
        {"row": np.array([1, 6]), "most": np.float32(1.5), **_dense(6, 3)},
        front=("Reshape", "Mod"),
        back=("Mod",),
    ),
}  # fmt: skip
