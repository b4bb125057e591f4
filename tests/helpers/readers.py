"""Every reader of the product, with small valid files for it: what damaged ones are tried on.

A reader is given a folder and reads all of a file in it, as commands do.  To succeed and to raise
``UserError`` are right.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import h5py
import numpy as np

from helpers import nir_files, small_plans
from helpers.mutations import Mutation, array_header, blind, in_archive, in_message, in_sealed, resealed
from helpers.small_transformers import decoder
from repurpose_hpc.commands.parser import restructure_options
from repurpose_hpc.commands.transformer import open_transformer
from repurpose_hpc.forecast.machine import FOLDER, read_machine
from repurpose_hpc.io.hdf5 import source_files
from repurpose_hpc.io.samples import Samples, open_samples
from repurpose_hpc.model.importers.load import load_model, load_tokens
from repurpose_hpc.model.importers.nir.options import SpikingOptions
from repurpose_hpc.model.labels import understood
from repurpose_hpc.model.texts import Pooling, TextRules
from repurpose_hpc.plan.files.store import check_model, file_sha256, open_plan, read_network, write_plan
from repurpose_hpc.restructure import cache
from repurpose_hpc.restructure.checkpoint import Checkpoint, _arrays
from repurpose_hpc.restructure.decisions import Decisions
from repurpose_hpc.restructure.driver import restructure
from repurpose_hpc.restructure.exact import split_network
from repurpose_hpc.restructure.options import Options
from repurpose_hpc.runtime.session import Session
from repurpose_hpc.runtime.streams.outputs import ResumableOutputFile
from repurpose_hpc.studies.accuracy.table import AccuracyTable
from repurpose_hpc.studies.scaling.launches import read_findings
from repurpose_hpc.studies.scaling.table import ScalingTable

WIDTHS = (3, 4, 2)
X = np.random.default_rng(0).normal(size=(7, 3)).astype(np.float32)
NETWORK = small_plans.random_network(0, WIDTHS)


@dataclass(frozen=True)
class Reader:
    """A reader.

    Attributes:
        write: puts valid files into an empty folder.
        read: reads them.
        mutations: of the files.
        spared: beginnings of the names of files that are left as they are.
        trusts: a part of the path of a library that damage may crash, see SECURITY.md.
    """

    write: Callable[[Path], None]
    read: Callable[[Path], None]
    mutations: tuple[Mutation, ...] = (blind,)
    spared: tuple[str, ...] = ()
    trusts: str = ""


def _read_samples(name: str) -> Callable[[Path], None]:
    def read(folder: Path) -> None:
        samples = open_samples(folder / name)
        for columns in (None, np.array([2, 0])):
            for _ in samples.batches(3, columns if samples.width > 2 else None):
                pass
        samples.fingerprint()
        source_files(folder / name)
        understood(NETWORK, samples)
        samples.check_unchanged()

    return read


def _write_npz(save: Callable[..., None], **arrays: np.ndarray) -> Callable[[Path], None]:
    return lambda folder: save(folder / "data.npz", **arrays)


def _write_hdf5(folder: Path) -> None:
    with h5py.File(folder / "data.h5", "w") as file:
        file.create_dataset("x", data=X, chunks=(2, 3), compression="gzip")
        file["y"] = np.arange(7) % 2


def _write_virtual(folder: Path) -> None:
    with h5py.File(folder / "source.h5", "w") as file:
        file["a"] = X
    layout = h5py.VirtualLayout(X.shape, X.dtype)
    layout[:] = h5py.VirtualSource("source.h5", "a", X.shape)
    with h5py.File(folder / "data.h5", "w") as file:
        file.create_virtual_dataset("x", layout)
        file["y"] = X[:, :2]


def _read_chain(suffix: str) -> Callable[[Path], None]:
    return lambda folder: _use(load_model(folder / f"model{suffix}"))


def _use(network) -> None:
    network.fingerprint()


def _write_safetensors(folder: Path) -> None:
    from safetensors.numpy import save_file

    arrays = {"W0": X[:4], "b0": X[0, :1].repeat(4), "W1": X[:2, :1].repeat(4, 1), "b1": X[0, :2]}
    arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    save_file(arrays, folder / "model.safetensors", {"activations": "relu, softmax"})


def _write_dense_onnx(folder: Path) -> None:
    from helpers.onnx_models import node, save

    nodes = [
        node("Reshape", "x shape", "flat"),
        node("Gemm", "flat W b", "h", transB=1),
        node("LeakyRelu", "h", "r", alpha=0.1),
        node("MatMul", "r V", "z"),
        node("Add", "z c", "s"),
        node("Softmax", "s", "y", axis=-1),
    ]
    constants = {"shape": np.array([-1, 6]), "W": np.ones((4, 6), np.float32), "b": np.ones(4, np.float32)}
    constants |= {"V": np.ones((4, 2), np.float32), "c": np.float32([1, 2])}
    save(folder / "model.onnx", nodes, constants, ("N", 2, 3))


def _write_conv_onnx(folder: Path) -> None:
    from helpers.onnx_models import node, save

    nodes = [
        node("Conv", "x W b", "c", pads=[1, 1, 1, 1], strides=[2, 2], kernel_shape=[3, 3]),
        node("Relu", "c", "r"),
        node("MaxPool", "r", "p", kernel_shape=[2, 2]),
        node("Pad", "p pads", "q"),
        node("Slice", "q starts ends axes", "s"),
        node("Expand", "k wide", "e"),
        node("Add", "s e", "a"),
        node("Flatten", "a", "f"),
        node("Gather", "f order", "g", axis=1),
        node("Gemm", "g V", "y"),
    ]
    constants = {
        "W": np.ones((2, 1, 3, 3), np.float32),
        "b": np.ones(2, np.float32),
        "pads": np.array([0, 0, 0, 1, 0, 0, 0, 1]),
        "starts": np.array([0, 0]),
        "axes": np.array([2, 3]),
        "ends": np.array([100, 2]),
        "k": np.float32([[[1]], [[2]]]),
        "wide": np.array([1, 2, 1, 1]),
        "order": np.array([1, 0, 3]),
        "V": np.ones((3, 2), np.float32),
    }
    save(folder / "model.onnx", nodes, constants, ("N", 1, 6, 6))


def _write_external_onnx(folder: Path) -> None:
    import onnx

    _write_dense_onnx(folder)
    model = onnx.load(folder / "model.onnx")
    onnx.save(
        model, folder / "model.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0
    )


def _read_onnx(folder: Path) -> None:
    from repurpose_hpc.model.importers.onnx.file import data_files

    data_files(folder / "model.onnx")
    _use(load_model(folder / "model.onnx", check=False))


def _write_gguf(folder: Path) -> None:
    import gguf_files

    from helpers.model_directories import llama

    heads = {"num_attention_heads": 2, "num_key_value_heads": 1}
    small = {"num_hidden_layers": 1, "hidden_size": 32, "intermediate_size": 2}
    directory = llama(folder / "directory", **heads, **small)
    metadata, tensors = gguf_files.contents(directory)
    shutil.rmtree(directory)
    tokens = {"tokenizer.ggml.tokens": [f"w{token}" for token in range(23)]}
    gguf_files.write(folder / "model.gguf", metadata | tokens, tensors, "Q8_0")


def _read_gguf(folder: Path) -> None:
    _use(load_tokens(folder / "model.gguf"))


def _write_nir(folder: Path) -> None:
    nodes = {
        "in": nir_files.node("Input", shape=np.array([3])),
        "fc": nir_files.node("Affine", weight=np.ones((4, 3)), bias=np.zeros(4)),
        "lif": nir_files.node("LIF", tau=np.full(4, 1e-3), r=10.0, v_leak=0.0, v_threshold=1.0),
        "out": nir_files.node("Output", shape=np.array([4])),
    }
    nir_files.write(folder / "model.nir", nodes, nir_files.chain("in", "fc", "lif", "out"))


def _read_nir(folder: Path) -> None:
    options = SpikingOptions(steps=3, convention="snntorch")
    _use(load_model(folder / "model.nir", spiking=options))


def _write_link_text(folder: Path) -> None:
    (folder / "links.txt").write_text("0 1 2\n1.5 0 3e1\n2 3 0\n")


def _read_links(name: str) -> Callable[[Path], None]:
    return lambda folder: _options({"workers": 3, "link_costs": str(folder / name)})


def _options(given: dict) -> None:
    restructure_options(given, None)


_ORIGIN = {
    "version": "1",
    **{name: {"path": f"{name}.npz", "sha256": name} for name in ("model", "calibration", "test")},
}


def _write_study(folder: Path) -> None:
    table = AccuracyTable(folder / "study.csv", _ORIGIN)
    findings = {"values_sent": 3, "comm_fraction": 0.25, "seconds": 1.5, "test_accuracy": 0.5}
    table.put(Options(2, 0.5), findings)
    table.put(Options(4, 0.5), {"error": "it, has 'failed'\nand \"more\""})


def _read_study(folder: Path) -> None:
    table = AccuracyTable(folder / "study.csv", _ORIGIN)
    table.find(Options(2, 0.5))
    table.put(Options(2, 0.25), {"seconds": 1.0})


_STUDY = {"kind": "strong", "dtype": "float32", "seed": 0}
_ROW = {
    **{"batch": 1, "hosts": 1, "oversubscribed": False, "weights": 20, "repeats": 3},
    **{"seconds_median": 2e-3, "seconds_p10": 1e-3, "seconds_p90": 3e-3, "single_seconds": 4e-3},
    **{"values": 3, "dense_values": 9, "messages": 2, "bytes": 12, "relative_difference": 0.0},
}


def _write_scaling(folder: Path) -> None:
    table = ScalingTable(folder / "scaling.json", _STUDY)
    table.put(1, "dense", [_ROW, {"batch": 2, "error": "failed"}])
    table.put(2, "dense", [_ROW])


def _read_scaling(folder: Path) -> None:
    table = ScalingTable(folder / "scaling.json", _STUDY)
    table.finished(1, "dense", 1)
    table.put(2, "restructured", [_ROW])
    table.summary()


def _write_findings(folder: Path) -> None:
    (folder / "point.json").write_text(json.dumps({"batches": [_ROW]}))


def _read_point(folder: Path) -> None:
    read_findings(folder / "point.json")


def _write_machine(folder: Path) -> None:
    (folder / "machine.json").write_bytes((FOLDER / "gigabit.json").read_bytes())


def _read_machine(folder: Path) -> None:
    read_machine(str(folder / "machine.json"), folder / "none.json")


def _resumed(folder: Path) -> ResumableOutputFile:
    return ResumableOutputFile(folder / "out.h5", 7, 3, np.dtype(np.float32), "key")


def _write_resume(folder: Path) -> None:
    output = _resumed(folder)
    output.append(X[:4])
    output.discard()


def _read_resume(folder: Path) -> None:
    output = _resumed(folder)
    for _ in output.read(3):
        pass
    output.append(X[output.written :])
    output.commit()
    with h5py.File(folder / "out.h5", "r") as file:
        if not np.array_equal(file["y"][()], X):
            raise AssertionError("the outputs are others")


@functools.cache
def _decisions() -> Decisions:
    with tempfile.TemporaryDirectory() as folder:
        checkpoint, options = Checkpoint(Path(folder), {}), Options(2, 0.3, comm_dtype="int8")
        restructure(NETWORK, Samples.of(X), options, lambda line: None, checkpoint=checkpoint)
        decisions = checkpoint.load(NETWORK)
    assert decisions is not None
    return decisions


def _write_checkpoint(folder: Path) -> None:
    Checkpoint(folder, {}).save(_decisions())


def _read_checkpoint(folder: Path) -> None:
    checkpoint = Checkpoint(folder, {})
    decisions = checkpoint.load(NETWORK)
    if decisions is not None:
        if _values(decisions) != _values(_decisions()):
            raise AssertionError("the decisions are others")
        checkpoint.save(decisions)


def _values(decisions: Decisions) -> dict[str, tuple]:
    arrays = _arrays(decisions)
    for name, mixing in decisions.finished.items():
        arrays |= {f"weights {name}": mixing.weights, f"bias {name}": mixing.bias}
    return {name: (array.dtype, array.shape, array.tobytes()) for name, array in arrays.items()}


def _write_shards(folder: Path) -> None:
    plan = small_plans.random_plan(NETWORK, 2, "replicated")
    network = small_plans.pruned(NETWORK, plan)
    provenance = {"model_fingerprint": NETWORK.fingerprint(), "options": asdict(Options(2, 0.5))}
    write_plan(folder / "plan", network, small_plans.scaled(network, plan, 7), provenance)


def _write_with_ends(folder: Path) -> None:
    """Shards of a model with a front and a back."""
    from helpers.onnx_models import node, save

    nodes = [
        node("Cast", "x", "whole", to=6),
        node("Cast", "whole", "again", to=1),
        node("MatMul", "again W", "h"),
        node("Relu", "h", "r"),
        node("MatMul", "r V", "z"),
        node("ArgMax", "z", "y", axis=1),
    ]
    constants = {"W": np.ones((3, 4), np.float32), "V": np.ones((4, 2), np.float32)}
    network = load_model(save(folder / "m.onnx", nodes, constants, ("N", 3)), check=False)
    (folder / "m.onnx").unlink()
    plan = small_plans.random_plan(network, 2, "replicated")
    write_plan(
        folder / "plan", small_plans.pruned(network, plan), plan, {"model_fingerprint": NETWORK.fingerprint()}
    )


def _write_of_tokens(folder: Path) -> None:
    """Shards of a transformer for texts of any lengths."""
    cut = split_network(decoder(2, layers=1), 2)
    rules = TextRules("{}", (1, 2), Pooling("mean", is_normalised=True))
    write_plan(folder / "plan", cut.network, cut.plan, {}, texts=rules)


def _read_of_tokens(folder: Path) -> None:
    model = open_transformer(folder / "plan", check=False, longest=None)
    model.pooling()
    model.ending_tokens()
    model.reference().network.fingerprint()


def _read_shards(folder: Path) -> None:
    stored = open_plan(folder / "plan")
    network = read_network(stored)
    stored.traffic_matrix()
    network.fingerprint()
    check_model(stored, NETWORK, "model", "restructure it")


def _read_recorded(folder: Path) -> None:
    """Shards whose checksums the plan has, whatever they hold: what is not refused runs."""
    plan = folder / "plan" / "plan.h5"
    paths = sorted(folder.glob("plan/worker-*.h5"))
    digests = np.array([file_sha256(path) for path in paths], "S")
    plan.write_bytes(resealed(plan.read_bytes(), lambda file: file["shard_sha256"].write_direct(digests)))
    with Session(folder / "plan") as session:
        session.run(X)


def _read_cache(folder: Path) -> None:
    """A cache whose entry is always this one."""
    before, cache._key = cache._key, lambda *parts: "plan"
    os.environ["REPURPOSE_HPC_CACHE"] = str(folder)
    try:
        cache.look_up(NETWORK, None, Options(2, 0.5), np.dtype(np.float32))
    finally:
        cache._key = before
        del os.environ["REPURPOSE_HPC_CACHE"]


_NPZ = {"x": X, "y": np.arange(7) % 2}
_CHAIN = {
    "W0": X[:4],
    "W1": X[:2, :1].repeat(4, 1),
    "b1": X[0, :2],
    "activations": np.array(["tanh", "softmax"]),
}
_ARCHIVE: tuple[Mutation, ...] = (blind, in_archive, in_archive)
_MESSAGE: tuple[Mutation, ...] = (blind, in_message, in_message)
_NPY: tuple[Mutation, ...] = (blind, array_header)

READERS = {
    "npy": Reader(lambda folder: np.save(folder / "x.npy", X), _read_samples("x.npy"), _NPY),
    "npy in columns": Reader(
        lambda folder: np.save(folder / "x.npy", np.asfortranarray(X)), _read_samples("x.npy"), _NPY
    ),
    "npz": Reader(_write_npz(np.savez, **_NPZ), _read_samples("data.npz"), _ARCHIVE),
    "npz compressed": Reader(_write_npz(np.savez_compressed, **_NPZ), _read_samples("data.npz"), _ARCHIVE),
    "npz in columns": Reader(
        _write_npz(np.savez, x=np.asfortranarray(X), y=X[:, :2].T.copy().T),
        _read_samples("data.npz"),
        _ARCHIVE,
    ),
    "hdf5": Reader(_write_hdf5, _read_samples("data.h5"), trusts="h5py"),
    "hdf5 virtual": Reader(_write_virtual, _read_samples("data.h5"), trusts="h5py"),
    "chain npz": Reader(
        lambda folder: np.savez(folder / "model.npz", **_CHAIN), _read_chain(".npz"), _ARCHIVE
    ),
    "chain safetensors": Reader(_write_safetensors, _read_chain(".safetensors")),
    "onnx dense": Reader(_write_dense_onnx, _read_onnx, _MESSAGE),
    "onnx convolution": Reader(_write_conv_onnx, _read_onnx, _MESSAGE),
    "onnx external": Reader(_write_external_onnx, _read_onnx, _MESSAGE, spared=("weights.bin",)),
    "onnx external data": Reader(_write_external_onnx, _read_onnx, spared=("model.onnx",)),
    "gguf": Reader(_write_gguf, _read_gguf),
    "nir": Reader(_write_nir, _read_nir, trusts="h5py"),
    "link costs": Reader(_write_link_text, _read_links("links.txt")),
    "link costs npy": Reader(
        lambda folder: np.save(folder / "links.npy", 1.0 - np.eye(3)), _read_links("links.npy"), _NPY
    ),
    "study": Reader(_write_study, _read_study),
    "scaling": Reader(_write_scaling, _read_scaling, spared=("scaling.csv",)),
    "point": Reader(_write_findings, _read_point),
    "machine": Reader(_write_machine, _read_machine),
    "resume": Reader(_write_resume, _read_resume),
    "checkpoint": Reader(_write_checkpoint, _read_checkpoint, _ARCHIVE[:1]),
    "shards": Reader(_write_shards, _read_shards, (blind, in_sealed)),
    # HDF5 may hang on what it has itself changed several times.
    "shards recorded": Reader(
        _write_shards, _read_recorded, (in_sealed,), spared=("plan.h5",), trusts="h5py"
    ),
    "shards with ends": Reader(_write_with_ends, _read_shards, (in_sealed,), spared=("worker",)),
    "shards of tokens": Reader(_write_of_tokens, _read_of_tokens, (in_sealed,), spared=("worker",)),
    "cache": Reader(_write_shards, _read_cache, (blind, in_sealed)),
}
