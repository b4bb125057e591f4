"""What the tests of the ONNX importer share: small graphs, and the comparison with onnxruntime."""

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from repurpose_hpc.model.forward import forward
from repurpose_hpc.model.importers.load import load_model

FLOAT = TensorProto.FLOAT


def node(operator, inputs, outputs, **attributes):
    """A node called after its first output; names are separated by spaces, "-" is left out."""
    names = ["" if name == "-" else name for name in inputs.split()]
    outputs = ["" if name == "-" else name for name in outputs.split()]
    return helper.make_node(operator, names, outputs, name=f"node_{outputs[0]}", **attributes)


def save(path, nodes, constants=None, shape=("N", 5), opset=20, outputs=("y",), inputs=("x",)):
    """A model with inputs, all of ``shape`` unless they map to shapes, and outputs."""
    shapes = inputs if isinstance(inputs, dict) else dict.fromkeys(inputs, shape)
    proto = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info(name, FLOAT, each) for name, each in shapes.items()],
        [helper.make_tensor_value_info(name, FLOAT, None) for name in outputs],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in (constants or {}).items()],
    )
    domains = {"": opset} | {each.domain: 1 for each in nodes if each.domain}
    imports = [helper.make_opsetid(domain, version) for domain, version in domains.items()]
    model = helper.make_model(proto, opset_imports=imports, ir_version=9)
    model = onnx.shape_inference.infer_shapes(model)
    for each in model.graph.output:
        each.type.tensor_type.shape.SetInParent()  # the checker wants one even where none can be inferred
    onnx.save(model, path)
    return path


def outputs_of_runtime(path, feeds):
    """The outputs of a file as onnxruntime computes them, from inputs by name."""
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, feeds)


def assert_agrees(path, samples=2, tolerance=1e-5, positive=False):
    """The imported network against onnxruntime, ``tolerance`` of the largest output; returns it."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(1)
    feeds = {
        each.name: rng.normal(size=(samples, *each.shape[1:])).astype(np.float32)
        for each in session.get_inputs()
    }
    if positive:
        feeds = {name: np.abs(x) + 0.5 for name, x in feeds.items()}
    expected = np.hstack([y.reshape(samples, -1) for y in session.run(None, feeds)])
    network = load_model(path)
    y = forward(network, np.hstack([x.reshape(samples, -1) for x in feeds.values()]))
    assert y.shape == expected.shape
    assert expected.any()
    assert np.abs(y - expected).max() <= tolerance * np.abs(expected).max()
    return network
