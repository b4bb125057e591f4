"""Quantised models, as onnxruntime writes them, against onnxruntime."""

import warnings

import numpy as np
import pytest

from repurpose_hpc.errors import Note, UserError
from repurpose_hpc.model.comm_dtype import INT8
from repurpose_hpc.model.forward import forward
from repurpose_hpc.model.importers.load import load_model
from repurpose_hpc.model.operations import Mixing

pytest.importorskip("onnx")
quantization = pytest.importorskip("onnxruntime.quantization")

from onnx import TensorProto, numpy_helper  # noqa: E402

from helpers.onnx_models import node, save  # noqa: E402
from helpers.rewritten import check, check_workers, expected  # noqa: E402
from helpers.stored_weights import rounded  # noqa: E402

RNG = np.random.default_rng(0)
TYPES = quantization.QuantType


def normal(*shape):
    return RNG.normal(size=shape).astype(np.float32)


CONSTANTS = {"K": 0.3 * normal(6, 3, 3, 3), "L": 0.3 * normal(6, 6, 3, 3), "B": normal(6), "V": normal(12, 5)}
CONSTANTS |= {"C": normal(5), "U": normal(5, 4), "D": normal(4)}
MODEL = [
    *(node("Conv", "x K B", "a", pads=[1, 1, 1, 1]), node("Relu", "a", "b")),
    *(node("Conv", "b L", "c", pads=[1, 1, 1, 1]), node("Add", "b c", "d"), node("Sigmoid", "c", "e")),
    *(
        node("Mul", "d e", "f"),
        node("Concat", "d f", "g", axis=1),
        node("MaxPool", "g", "h", kernel_shape=[2, 2]),
    ),
    *(node("GlobalAveragePool", "h", "i"), node("Flatten", "i", "j"), node("Gemm", "j V C", "k")),
    *(node("LeakyRelu", "k", "l", alpha=0.2), node("Gemm", "l U D", "y")),
]
X = normal(64, 3, 8, 8)


class Batches(quantization.CalibrationDataReader):
    """What the ranges of activations are measured with."""

    def __init__(self):
        rng = np.random.default_rng(1)
        self.batches = iter([{"x": rng.normal(size=(4, 3, 8, 8)).astype(np.float32)} for _ in range(6)])

    def get_next(self):
        return next(self.batches, None)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("quantised")
    save(folder / "float.onnx", MODEL, CONSTANTS, ("N", 3, 8, 8), opset=17)
    return folder


def quantised(folder, form, per_channel, activation, weights):
    path = folder / f"{form}-{per_channel}-{activation}-{weights}.onnx"
    quantization.quantize_static(
        folder / "float.onnx",
        path,
        Batches(),
        quant_format=quantization.QuantFormat[form],
        per_channel=per_channel,
        activation_type=TYPES[activation],
        weight_type=TYPES[weights],
    )
    return path


def differences(path, optimised):
    """Of all outputs from those of onnxruntime, in steps of a quantisation to 8 bits."""
    y = forward(load_model(path), X.reshape(len(X), -1), np.float32)
    wanted = expected(path, X, optimised)
    return np.abs(y - wanted) / ((wanted.max() - wanted.min()) / 255)


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("form", ["QDQ", "QOperator"])
@pytest.mark.parametrize(
    ("activation", "weights"), [("QUInt8", "QInt8"), ("QInt8", "QInt8"), ("QUInt8", "QUInt8")]
)
def test_static(folder, form, per_channel, activation, weights):
    """Nearly all outputs are equal, the others a step apart."""
    path = quantised(folder, form, per_channel, activation, weights)
    for optimised in (False, True):
        steps = differences(path, optimised)
        assert steps.max() <= 1.5 and (steps > 0.01).mean() <= 0.02


def test_sixteen_bits(folder):
    """Float32 itself moves what is rounded by a few of these smaller steps."""
    steps = differences(quantised(folder, "QDQ", True, "QUInt16", "QInt16"), optimised=False)
    assert 256 * steps.max() <= 4


@pytest.mark.parametrize("per_channel", [False, True])
def test_weights_in_int8_are_the_integers_of_the_file(folder, per_channel):
    """Of convolutions and dense layers, with the scale of each output (map)."""
    network = load_model(quantised(folder, "QDQ", per_channel, "QUInt8", "QInt8"))
    mixings = [op for op in network.operations if isinstance(op, Mixing)]
    assert sum(mixing.window is not None for mixing in mixings) >= 2
    for mixing in mixings:
        weights = mixing.weights.astype(np.float32)
        np.testing.assert_allclose(rounded(weights, INT8), weights, rtol=1e-6)


@pytest.mark.slow
def test_workers(folder):
    """A step apart where ranks sum in another order."""
    check_workers(quantised(folder, "QDQ", True, "QUInt8", "QInt8"), X[:8], tolerance=1 / 64)


@pytest.mark.parametrize("weights", ["QInt8", "QUInt8"])
def test_ranges_of_each_batch_are_left_out(folder, weights):
    path = folder / "dynamic.onnx"
    quantization.quantize_dynamic(folder / "float.onnx", path, weight_type=TYPES[weights])
    with warnings.catch_warnings(record=True) as notes:
        warnings.simplefilter("always")
        network = load_model(path)
    assert any("not quantised" in str(note.message) for note in notes if note.category is Note)
    flat = X.reshape(len(X), -1)
    together, wanted = forward(network, flat), expected(path, X)
    assert np.abs(together - wanted).max() <= 0.02 * np.abs(wanted).max()
    np.testing.assert_allclose(forward(network, flat[:1]), together[:1], rtol=1e-12)


LAYER = {"scale": np.float32(0.02), "zero": np.int8(3), "W": RNG.integers(-128, 128, (6, 4), np.int8)}
LAYER |= {"s": np.linspace(0.01, 0.03, 4).astype(np.float32), "z": np.arange(-2, 2).astype(np.int8)}
FEATURES = normal(50, 6)
ROUNDED = [node("QuantizeLinear", "x scale zero", "q"), node("DequantizeLinear", "q scale zero", "d")]


def layer(path, nodes, constants=LAYER, opset=21):
    return save(path, nodes, constants, ("N", 6), opset=opset)


def test_scales_and_zero_points_per_axis(tmp_path):
    nodes = [*ROUNDED, node("DequantizeLinear", "W s z", "V", axis=1), node("MatMul", "d V", "y")]
    network = check(layer(tmp_path / "model.onnx", nodes), FEATURES)
    weights = next(op for op in network.operations if isinstance(op, Mixing)).weights
    integers = LAYER["W"].astype(np.float32) - LAYER["z"]
    np.testing.assert_array_equal(weights, (integers * LAYER["s"]).T)


def test_scales_of_activations_per_axis(tmp_path):
    constants = LAYER | {"scales": np.linspace(0.01, 0.1, 6).astype(np.float32), "V": normal(6, 4)}
    nodes = [
        *(node("MatMul", "x E", "p"), node("QuantizeLinear", "p scales", "q", axis=1)),
        *(node("DequantizeLinear", "q scales", "d", axis=1), node("MatMul", "d V", "y")),
    ]
    constants["E"] = np.eye(6, dtype=np.float32)
    check(layer(tmp_path / "model.onnx", nodes, constants), FEATURES)


@pytest.mark.parametrize("name", ["INT4", "UINT4"])
def test_blocks_of_four_bits(tmp_path, name):
    integers = RNG.integers(0, 8, (6, 4))
    packed = numpy_helper.to_array(numpy_helper.from_array(integers.astype(np.int8))).astype(numpy_type(name))
    constants = {"W": packed, "s": np.abs(normal(3, 4)) + 0.1}
    nodes = [node("DequantizeLinear", "W s", "V", axis=0, block_size=2), node("MatMul", "x V", "y")]
    check(layer(tmp_path / "model.onnx", nodes, constants), FEATURES)


def numpy_type(name):
    from onnx.helper import tensor_dtype_to_np_dtype

    return tensor_dtype_to_np_dtype(TensorProto.DataType.Value(name))


def test_weights_that_the_graph_itself_quantises(tmp_path):
    nodes = [
        *(node("QuantizeLinear", "W scale zero", "Q"), node("DequantizeLinear", "Q scale zero", "V")),
        *(node("MatMul", "x V", "y"),),
    ]
    check(layer(tmp_path / "model.onnx", nodes, LAYER | {"W": normal(6, 4)}), FEATURES)


@pytest.mark.parametrize("opset", [10, 13])
def test_opsets_before_there_were_axes(tmp_path, opset):
    nodes = [*ROUNDED, node("DequantizeLinear", "W scale zero", "V"), node("MatMul", "d V", "y")]
    check(layer(tmp_path / "model.onnx", nodes, opset=opset), FEATURES)


def test_products_of_integers(tmp_path):
    constants = LAYER | {"zero": np.uint8(7), "shift": np.arange(4).astype(np.int8), "f": np.float32(0.001)}
    nodes = [
        *(node("QuantizeLinear", "x scale zero", "q"), node("MatMulInteger", "q W zero shift", "m")),
        *(node("Cast", "m", "c", to=TensorProto.FLOAT), node("Mul", "c f", "y")),
    ]
    check(layer(tmp_path / "model.onnx", nodes, constants), FEATURES)


def test_other_types_are_refused(tmp_path):
    nodes = [node("QuantizeLinear", "x scale", "q", output_dtype=TensorProto.FLOAT8E4M3FN)]
    nodes += [node("DequantizeLinear", "q scale", "d"), node("MatMul", "d V", "y")]
    with pytest.raises(UserError, match="it quantises to float8_e4m3fn, expected int4, int8"):
        load_model(layer(tmp_path / "model.onnx", nodes, LAYER | {"V": normal(6, 4)}))


PRODUCT = {"K": 40, "N": 6, "block_size": 16}  # the last block of a row has 8 weights
BLOCKS, BIAS = (6, 3), normal(6)


def packed_product(path, bits, zeros=None, further="", **attributes):
    """A file with one product of (N, 40) and weights of a few bits in blocks."""
    constants = {"B": RNG.integers(0, 256, (*BLOCKS, 2 * bits)).astype(np.uint8), "b": BIAS}
    constants |= {"s": np.abs(normal(*BLOCKS)) + 0.1, "z": zeros, "groups": np.zeros(48, np.int32)}
    inputs = f"x B s {'-' if zeros is None else 'z'} {further}"
    used = {name: value for name, value in constants.items() if name in inputs.split()}
    product = node(
        "MatMulNBits", inputs, "y", domain="com.microsoft", **{"bits": bits, **PRODUCT, **attributes}
    )
    return save(path, [product], used, ("N", 40), opset=21)


ZEROS = {
    "left out": lambda bits: None,
    "packed": lambda bits: RNG.integers(0, 256, (6, -(-3 * bits // 8))).astype(np.uint8),
    "numbers": lambda bits: normal(*BLOCKS),
}


@pytest.mark.parametrize("further", ["", "- b"])
@pytest.mark.parametrize(
    ("bits", "zeros"),
    [(2, "left out"), (2, "packed"), *((4, zeros) for zeros in ZEROS), (8, "left out"), (8, "packed")],
)
def test_weights_packed_in_blocks(tmp_path, bits, zeros, further):
    """As ONNX Runtime's quantisers write them; 0 is in the middle where no zero point is given."""
    path = packed_product(tmp_path / "model.onnx", bits, ZEROS[zeros](bits), further)
    network = check(path, normal(50, 40))
    assert [op.weights.shape[:2] for op in network.mixings] == [(6, 40)]


def test_activations_before_packed_weights_stay(tmp_path):
    """Where the file lets onnxruntime round them, the comparison does not."""
    x = normal(50, 40)
    path = packed_product(tmp_path / "model.onnx", 4, accuracy_level=4)
    y, rounding = forward(load_model(path), x), expected(path, x)
    assert 1e-4 < np.abs(y - rounding).max() / np.abs(rounding).max() < 0.05
    with warnings.catch_warnings():
        warnings.simplefilter("error", Note)
        load_model(path)


def test_packed_weights_that_are_refused(tmp_path):
    for options, message in (
        ({"bits": 3}, "attribute bits is 3, expected one of 2, 4, 8"),
        ({"bits": 4, "further": "groups"}, "its input 'groups' gives columns of weights other blocks"),
        ({"bits": 4, "N": 7}, "its inputs and attributes do not fit"),
    ):
        with pytest.raises(UserError, match=message):
            load_model(packed_product(tmp_path / "model.onnx", **options))
