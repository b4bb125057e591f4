"""Networks as directories of sparse matrices, and those of the Graph Challenge."""

import hashlib

import graph_challenge
import numpy as np
import pytest
import scipy.io
import scipy.sparse

from helpers.sparse_networks import dense_forward, sparse_chain
from repurpose_hpc import load_model
from repurpose_hpc.errors import UserError
from repurpose_hpc.model.forward import forward
from repurpose_hpc.model.importers.matrices import load_matrices

# Of files of the official network, as they are published.
OFFICIAL = {
    5: "77d4bc3b2cc6d869e6fc4391ab95160663a0e7f1b6597bbc1befe42d282050e1",
    7: "2c63b12ddca93f266438c44210bc333cdc975f25df2b5886455ef52d6e41331d",
    9: "7a6b97ef1402c8490fc089acfbd383f1f8bd17f9bc26d2bc5562d432165012df",
}


MARKET = "%%MatrixMarket matrix coordinate real general\n"


def write_chain(folder, network, first=0, suffix="mtx"):
    folder.mkdir(exist_ok=True)
    for number, mixing in enumerate(network.mixings, first):
        if suffix == "mtx":
            scipy.io.mmwrite(folder / f"W{number}.mtx", mixing.weights.matrix, precision=17)
        else:
            scipy.sparse.save_npz(folder / f"W{number}.npz", mixing.weights.matrix)
        np.save(folder / f"b{number}.npy", mixing.bias)
    return folder


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("suffix", ["mtx", "npz"])
def test_a_chain_of_matrices_is_that_network(tmp_path, first, suffix):
    network = sparse_chain(0)
    loaded = load_model(write_chain(tmp_path / "chain", network, first, suffix))
    x = np.random.default_rng(0).standard_normal((30, network.inputs))
    np.testing.assert_allclose(forward(loaded, x), dense_forward(network, x), atol=1e-12)
    assert all(mixing.is_sparse for mixing in loaded.mixings)
    assert loaded.fingerprint() == load_model(tmp_path / "chain").fingerprint()


def test_activations_and_missing_biases(tmp_path):
    folder = write_chain(tmp_path / "chain", sparse_chain(0))
    (folder / "b1.npy").unlink()
    (folder / "activations.txt").write_text("tanh\nclip:0:2\nidentity\nsoftmax\n")
    network = load_model(folder)
    assert [op.activation.kind for op in network.operations if hasattr(op, "activation")] == ["tanh", "clip"]
    assert network.heads == ("softmax",) and not network.mixings[1].bias.any()
    (folder / "activations.txt").write_text("tanh\n")
    with pytest.raises(UserError, match="activations.txt: activations: expected 4 entries"):
        load_model(folder)


def test_a_single_matrix_is_a_network_of_one_layer(tmp_path):
    network = sparse_chain(0)
    folder = write_chain(tmp_path / "chain", network)
    assert load_model(folder / "W0.mtx").mixings[0].weights.shape == network.mixings[0].weights.shape


@pytest.mark.parametrize("by_axis, opset", [(False, 17), (True, 17), (False, 9)])
def test_sparse_initializers_of_onnx(tmp_path, by_axis, opset):
    onnx = pytest.importorskip("onnx")
    W = scipy.sparse.random_array((300, 400), density=0.02, rng=np.random.default_rng(0), dtype=np.float32)
    places = np.stack(W.coords, axis=1) if by_axis else np.ravel_multi_index(W.coords, W.shape)
    order = np.lexsort(W.coords[::-1])
    sparse = onnx.helper.make_sparse_tensor(
        onnx.numpy_helper.from_array(W.data[order], "W"),
        onnx.numpy_helper.from_array(places[order].astype(np.int64)),
        W.shape,
    )
    ends = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["N", size])
        for name, size in (("x", 300), ("y", 400))
    ]
    node = onnx.helper.make_node("MatMul", ["x", "W"], ["y"])
    graph = onnx.helper.make_graph([node], "g", ends[:1], ends[1:], sparse_initializer=[sparse])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)], ir_version=8)
    onnx.save(model, tmp_path / "model.onnx")
    network = load_model(tmp_path / "model.onnx")
    assert network.mixings[0].is_sparse and network.weight_count == W.nnz
    x = np.random.default_rng(1).standard_normal((5, 300), np.float32)
    np.testing.assert_allclose(forward(network, x), x @ W.toarray(), atol=1e-5)


@pytest.mark.parametrize(
    "change, message",
    [
        (
            lambda folder: (folder / "W2.mtx").unlink(),
            "expected layers 0 to 3 without gaps, .* none of number 2",
        ),
        (lambda folder: (folder / "W2.mtx").rename(folder / "V2.mtx"), r"found V\*.mtx, W\*.mtx"),
        (
            lambda folder: (folder / "W1.mtx").write_bytes((folder / "W3.mtx").read_bytes()),
            "W1.mtx: expected 17 col",
        ),
        (lambda folder: np.save(folder / "b2.npy", np.zeros(3)), r"b2.npy: expected shape \(11,\)"),
        (lambda folder: np.save(folder / "b2.npy", np.full(11, np.nan)), "b2.npy: expected finite"),
        (lambda folder: (folder / "W1.mtx").write_text("?"), "W1.mtx: expected a readable sparse matrix"),
        (
            lambda folder: (folder / "W0.mtx").unlink(),
            "b0.npy: expected biases and activations of the layers",
        ),
        (
            lambda folder: (folder / "W3.mtx").write_text(f"{MARKET}4 11 1\n2 3 nan\n"),
            "W3.mtx: expected finite weights of float64, found nan in row 2, column 3",
        ),
        (lambda folder: (folder / "W3.mtx").write_text(f"{MARKET}0 11 0\n"), r"found shape \(0, 11\)"),
        (
            lambda folder: (folder / "W0.mtx").write_text(f"{MARKET}17 3000000000 1\n1 1 1\n"),
            r"expected from 1 to 2147483647 rows and columns, found shape \(17, 3000000000\)",
        ),
    ],
)
def test_chains_that_are_none(tmp_path, change, message):
    folder = write_chain(tmp_path / "chain", sparse_chain(0))
    change(folder)
    with pytest.raises(UserError, match=message):
        load_model(folder)


def test_a_damaged_layer_is_not_left_out(tmp_path):
    folder = write_chain(tmp_path / "chain", sparse_chain(0), suffix="npz")
    (folder / "W3.npz").write_bytes((folder / "W3.npz").read_bytes()[:100])
    with pytest.raises(UserError, match="W3.npz: expected a readable sparse matrix"):
        load_model(folder)
    np.savez(folder / "W3.npz", np.ones((4, 11)))
    with pytest.raises(UserError, match="it holds arr_0, expected what scipy.sparse.save_npz writes"):
        load_model(folder)


def test_triples_whose_name_does_not_say_what_they_are(tmp_path):
    file = tmp_path / "neuron1024-l1.tsv"
    file.write_text("1\t2\t3\n")
    for path in (tmp_path, file):
        with pytest.raises(UserError, match="neuron1024-l1.tsv: expected a name such as n1024-l1.tsv"):
            load_model(path)
    file = file.rename(tmp_path / "n1024-l1.tsv")
    for path in (tmp_path, file):  # a column of the file is a neuron of the layer
        weights, bias = load_model(path).mixings[0].weights, load_model(path).mixings[0].bias
        assert weights.shape == (1024, 1024) and weights.matrix[1, 0] == 3 and (bias < 0).all()
    file.write_text("1\t2\t1e39\n")
    with pytest.raises(
        UserError, match=r"expected finite weights of float32, found 1e\+39 in row 1, column 2"
    ):
        load_model(file)
    file.write_text("1\t2\t3\n")
    (tmp_path / "activations.txt").write_text("relu")
    with pytest.raises(
        UserError, match="activations.txt: expected biases and activations of the layers alone"
    ):
        load_model(tmp_path)


def test_input_shapes_are_refused(tmp_path):
    with pytest.raises(UserError, match="expected no input shape"):
        load_model(write_chain(tmp_path / "chain", sparse_chain(0)), {"x": (13,)})


def test_the_generator_writes_the_official_files(tmp_path):
    network = graph_challenge.official(1024, max(OFFICIAL))
    graph_challenge.write(network, tmp_path)
    for number, digest in OFFICIAL.items():
        assert hashlib.sha256((tmp_path / f"n1024-l{number}.tsv").read_bytes()).hexdigest() == digest
    loaded = load_matrices(tmp_path, 7)
    for found, made in zip(loaded.mixings, network.mixings, strict=False):
        np.testing.assert_array_equal(found.weights.columns, made.weights.columns)
        np.testing.assert_array_equal(found.weights.starts, made.weights.starts)
        assert (found.weights.values == 1 / 16).all() and (found.bias == np.float32(-0.3)).all()


def test_categories_are_those_of_the_reference(tmp_path, capsys):
    """The reference adds the bias only where Y W is not zero; as it is negative, that is the same."""
    network = graph_challenge.official(1024, 4)
    graph_challenge.write(network, tmp_path / "neuron1024")
    rng = np.random.default_rng(0)
    x = (rng.random((40, 1024)) < rng.choice([0.02, 0.3], 40)[:, None]).astype(np.float32)
    images, truth = tmp_path / "sparse-images-1024.tsv", tmp_path / "truth.tsv"
    images.write_text("".join(f"{i + 1}\t{j + 1}\t1\n" for i, j in np.argwhere(x)))
    y = scipy.sparse.csr_array(x.astype(np.float64))
    for mixing in network.mixings:
        y = scipy.sparse.csr_array(y @ mixing.weights.matrix.T.astype(np.float64))
        y.data = np.clip(y.data - 0.3, 0, 32)
        y.eliminate_zeros()
    expected = 1 + np.flatnonzero(np.diff(y.indptr))
    assert 0 < expected.size < 40
    np.savetxt(truth, expected, fmt="%d")
    with pytest.raises(SystemExit) as ended:
        graph_challenge.compare(tmp_path / "neuron1024", None, images, truth)
    assert ended.value.code == 0 and f"{expected.size} of both" in capsys.readouterr().out
    np.savetxt(truth, [41], fmt="%d")
    with pytest.raises(SystemExit, match="expected numbers from 1 to 40"):
        graph_challenge.compare(tmp_path / "neuron1024", None, images, truth)
