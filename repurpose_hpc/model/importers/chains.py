"""Multilayer perceptrons stored as arrays W0, b0, W1, b1 ... in ``.npz`` or ``.safetensors`` files.

W_l has shape (outputs, inputs); a missing b_l means a zero bias.  A ReLU stands between the
layers and nothing after the last, unless the entry ``activations`` says otherwise: in
``.npz`` an array of strings, in ``.safetensors`` a comma-separated value of the file's
metadata, one entry for each layer, such as ``relu``, ``leaky_relu:0.01`` or ``gelu`` (see
``activations.ActivationKind.form``); the last may also be ``softmax`` or ``log_softmax``.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from repurpose_hpc.errors import UserError
from repurpose_hpc.io.arrays import read_npz
from repurpose_hpc.io.reading import reading
from repurpose_hpc.model.activations import DECLARED, IDENTITY, RELU, Activation, parse
from repurpose_hpc.model.chain import chain
from repurpose_hpc.model.importers.arrays import as_weights
from repurpose_hpc.model.network import HEADS, Network

_ARRAY_NAME = re.compile(r"[Wb](0|[1-9][0-9]{0,4})")
# Missing arrays that a message names.
_MOST_NAMED = 5


def load_chain(path: Path) -> Network:
    """The multilayer perceptron stored in ``path``, an ``.npz`` or ``.safetensors`` file.

    Raises:
        UserError: unreadable file, unknown array names, missing layers, shapes that do not
            chain, weights that are not finite floating-point numbers, unknown activations.
    """
    arrays, names = _read_npz(path) if path.suffix == ".npz" else _read_safetensors(path)
    layers = _count_layers(arrays, path)
    weights = [as_weights(arrays[f"W{layer}"], f"{path}: W{layer}") for layer in range(layers)]
    _check_weights(weights, path)
    biases = [_bias(arrays, layer, weights[layer], path) for layer in range(layers)]
    activations, head = parse_activations(names, layers, path)
    return chain(weights, biases, activations, head)


def _read_npz(path: Path) -> tuple[dict[str, np.ndarray], list[str] | None]:
    with reading(path, ".npz file", "save it again with numpy.savez"):
        arrays = read_npz(path)
    names = arrays.pop("activations", None)
    if names is None:
        return arrays, None
    if names.dtype.kind != "U" or names.ndim != 1:
        raise UserError(
            f"{path}: activations: expected a one-dimensional array of strings, "
            f"found {names.dtype} of shape {names.shape}; store e.g. numpy.array(['relu', 'identity'])"
        )
    return arrays, names.tolist()


def _read_safetensors(path: Path) -> tuple[dict[str, np.ndarray], list[str] | None]:
    try:
        import safetensors
    except ImportError:
        raise UserError(
            f"{path}: reading .safetensors needs a package that is not installed; "
            "pip install 'repurpose-hpc[safetensors]'"
        ) from None
    remedy = "save it again, in float32 if its type is the problem"
    with (
        reading(path, ".safetensors file", remedy),
        safetensors.safe_open(path, framework="numpy") as file,
    ):
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        metadata = file.metadata() or {}
    names = metadata.get("activations")
    return arrays, None if names is None else [name.strip() for name in names.split(",")]


def _count_layers(arrays: dict[str, np.ndarray], path: Path) -> int:
    """The number of layers, after a check that the names are W0 ... and b0 ... without gaps."""
    unknown = sorted(name for name in arrays if not _ARRAY_NAME.fullmatch(name))
    if unknown:
        raise UserError(
            f"{path}: expected arrays W0, b0, W1, b1 ... and activations, found {', '.join(unknown)}; "
            "rename or remove them, or export the model to ONNX"
        )
    numbers = {int(name[1:]) for name in arrays}
    layers = max(numbers, default=-1) + 1
    if layers == 0:
        raise UserError(f"{path}: expected arrays W0, b0, W1, b1 ..., found none; the model is empty")
    missing = [f"W{layer}" for layer in range(layers) if f"W{layer}" not in arrays][:_MOST_NAMED]
    if missing:
        raise UserError(
            f"{path}: expected W0 ... W{layers - 1} without gaps, found no {', '.join(missing)}; "
            "number the layers consecutively from 0"
        )
    return layers


def _check_weights(weights: list[np.ndarray], path: Path) -> None:
    for layer, W in enumerate(weights):
        if W.ndim != 2 or 0 in W.shape:
            raise UserError(
                f"{path}: W{layer}: expected shape (outputs, inputs), neither zero, found {W.shape}; "
                "store one matrix for each dense layer"
            )
        if layer and W.shape[1] != weights[layer - 1].shape[0]:
            raise UserError(
                f"{path}: W{layer}: expected {weights[layer - 1].shape[0]} inputs, "
                f"the outputs of W{layer - 1}, found shape {W.shape}; "
                "weights are stored as (outputs, inputs), transpose them if need be"
            )


def _bias(arrays: dict[str, np.ndarray], layer: int, W: np.ndarray, path: Path) -> np.ndarray:
    name = f"b{layer}"
    if name not in arrays:
        return np.zeros(W.shape[:1], W.dtype)
    b = as_weights(arrays[name], f"{path}: {name}").astype(W.dtype)
    if b.shape != W.shape[:1]:
        raise UserError(
            f"{path}: b{layer}: expected shape {W.shape[:1]} as W{layer} has {W.shape[0]} outputs, "
            f"found {b.shape}; store one bias for each output"
        )
    return b


def parse_activations(names: list[str] | None, layers: int, path: Path) -> tuple[list[Activation], str]:
    """One activation for each layer, and the head.

    Args:
        names: words for them; None: ReLU between layers.
        layers: how many.
        path: of the file that has the names.

    Raises:
        UserError: other words, or another number of them.
    """
    if names is None:
        return [RELU] * (layers - 1) + [IDENTITY], "identity"
    if len(names) != layers:
        raise UserError(
            f"{path}: activations: expected {layers} entries, one for each layer, found {len(names)}; "
            "write identity where nothing follows a layer"
        )
    head = "identity"
    if names[-1] in HEADS:
        names, head = [*names[:-1], "identity"], names[-1]
    return [_parse_activation(name, path) for name in names], head


def _parse_activation(name: str, path: Path) -> Activation:
    try:
        return parse(name)
    except ValueError as error:
        forms = ", ".join(kind.form for kind in DECLARED.values())
        reason = "" if name.partition(":")[0] not in DECLARED else f" ({error})"
        raise UserError(
            f"{path}: activations: expected one of {forms} "
            f"(after the last layer also softmax or log_softmax), found {name!r}{reason}; correct the entry"
        ) from None
