"""Multilayer perceptrons as sparse matrices: a file for each layer, in one directory.

The files of the layers are called alike but for a number, consecutive from 0 or 1: ``W0.mtx``, ``W1.mtx``
(MatrixMarket), or ``.npz`` (``scipy.sparse.save_npz``).  Rows are outputs, columns are inputs.  The bias of
layer 0 is in ``b0.npy``; without a file it is 0.  A ReLU stands between layers and nothing after the last,
unless a file ``activations.txt`` has a line for each layer, in the words of ``importers.chains``.

Those of the Sparse DNN Graph Challenge are ``n1024-l1.tsv``, ``n1024-l2.tsv``: triples, in which rows are
inputs.  Their biases follow from the number of neurons, and every layer ends with a ReLU clipped at 32.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from repurpose_hpc.errors import UserError
from repurpose_hpc.io.matrices import READERS, Matrix, is_sparse_npz, read_matrix, suffix_of
from repurpose_hpc.io.reading import reading
from repurpose_hpc.model.activations import Activation
from repurpose_hpc.model.chain import chain
from repurpose_hpc.model.importers.arrays import as_weights
from repurpose_hpc.model.importers.chains import parse_activations
from repurpose_hpc.model.network import Network
from repurpose_hpc.model.weights import sparse

_LAYER = re.compile(r"(?P<name>.*?)(?P<number>\d+)\.(?P<suffix>tsv|mtx|npz)(\.gz)?")
_CHALLENGE = re.compile(r"n(?P<neurons>\d+)-l")
# Files that go with those of layers.
_BESIDE = re.compile(r"b\d+\.npy|activations\.txt")
# Biases of the challenge, by neurons of a layer.
BIASES = {1024: -0.3, 4096: -0.35, 16384: -0.4, 65536: -0.45}
CLIPPED = Activation("clip", 0.0, 32.0)


class _Layer(NamedTuple):
    """A file of a directory; of a single one without a directory the number is None."""

    name: str
    number: int | None
    path: Path


def holds_matrices(path: Path) -> bool:
    """Whether a path is that of a sparse matrix, or of a directory with layers."""
    if path.is_dir():
        return any(_LAYER.fullmatch(file.name) and _is_matrix(file) for file in path.iterdir())
    return path.is_file() and _is_matrix(path)


def _is_matrix(file: Path) -> bool:
    suffix = suffix_of(file)
    return suffix in READERS and (suffix != ".npz" or is_sparse_npz(file))


def load_matrices(path: Path, layers: int | None = None) -> Network:
    """The multilayer perceptron in a directory of sparse matrices, or of a single one.

    Args:
        path: of the directory, or of a file.
        layers: only the first so many; None: all.

    Raises:
        UserError: a file is missing or damaged, or shapes do not chain; names file and line.
    """
    files = _layers_in(path)
    challenge = _CHALLENGE.fullmatch(files[0].name)
    _check_beside(path, files, bool(challenge))
    files = files[:layers]
    if challenge:
        return _challenge(files, int(challenge["neurons"]))
    matrices = [_read(layer.path) for layer in files]
    for before, after, layer in zip(matrices, matrices[1:], files[1:], strict=False):
        if after.shape[1] != before.shape[0]:
            raise UserError(
                f"{layer.path}: expected {before.shape[0]} columns, the outputs of the layer before, found "
                f"shape {after.shape}; rows are outputs and columns are inputs, transpose it if need be"
            )
    biases = [_bias(layer, matrix) for layer, matrix in zip(files, matrices, strict=True)]
    return _network(matrices, biases, *_activations(path, len(files)))


def _layers_in(path: Path) -> list[_Layer]:
    """The files of the layers, in order, after a check that none is missing."""
    if not path.is_dir():
        of_file = _LAYER.fullmatch(path.name)
        return [_Layer(of_file["name"] if of_file else "", None, path)]
    found: dict[tuple[str, str], dict[int, _Layer]] = {}
    matches = [(file, match) for file in sorted(path.iterdir()) if (match := _LAYER.fullmatch(file.name))]
    kinds = {(match["name"], match["suffix"]) for file, match in matches if _is_matrix(file)}
    for file, match in matches:
        # One that is damaged is a layer as well: whoever reads it says what is wrong.
        if (match["name"], match["suffix"]) in kinds:
            number = int(match["number"])
            of_name = found.setdefault((match["name"], match["suffix"]), {})
            if number in of_name:
                raise UserError(
                    f"{file}: expected one file for each layer, found {of_name[number].path.name}, too; "
                    "remove one of them"
                )
            of_name[number] = _Layer(match["name"], number, file)
    if len(found) != 1:
        names = ", ".join(f"{name}*.{suffix}" for name, suffix in found)
        raise UserError(
            f"{path}: expected the layers of one network, such as W0.mtx, W1.mtx, found {names}; move the "
            "others away"
        )
    (of_name,) = found.values()
    numbers = sorted(of_name)
    first = min(numbers[0], 1)
    missing = sorted({*range(first, numbers[-1] + 1)} - {*numbers})
    if missing:
        example = of_name[numbers[-1]]
        raise UserError(
            f"{path}: expected layers {first} to {numbers[-1]} without gaps, as there is "
            f"{example.path.name}, found none of number {missing[0]} ({len(missing)} in all); add the file, "
            "or move those behind it away"
        )
    return [of_name[number] for number in numbers]


def _check_beside(path: Path, layers: list[_Layer], is_challenge: bool) -> None:
    """Refuse names that do not say how a file is meant, and files that would be left out."""
    first = layers[0].path
    if suffix_of(first) == ".tsv" and not is_challenge:
        raise UserError(
            f"{first}: expected a name such as n1024-l1.tsv, which says how many neurons a layer has, as "
            f"triples do not, found {first.name}; rename it, or write MatrixMarket files W0.mtx, W1.mtx"
        )
    if not path.is_dir():
        return
    used = set() if is_challenge else {"activations.txt", *(f"b{layer.number}.npy" for layer in layers)}
    others = sorted(f.name for f in path.iterdir() if _BESIDE.fullmatch(f.name) and f.name not in used)
    if others:
        raise UserError(
            f"{path / others[0]}: expected biases and activations of the layers alone, {first.name} to "
            f"{layers[-1].path.name}{', whose the challenge gives' if is_challenge else ''}, found "
            f"{', '.join(others)}; rename what is meant, or move it away"
        )


def _read(path: Path, shape: tuple[int, int] | None = None) -> Matrix:
    """The weights in a file, see ``read_matrix``.

    Raises:
        UserError: likewise, or there are none, too many, or such that are not finite in float32 where the
            shape is given.
    """
    matrix = read_matrix(path, shape)
    if not 0 < min(matrix.shape) <= max(matrix.shape) < 2**31:
        raise UserError(
            f"{path}: expected from 1 to {2**31 - 1} rows and columns, found shape {matrix.shape}; rows are "
            "outputs, columns are inputs: write the file again"
        )
    with np.errstate(over="ignore"):  # what becomes infinite is refused
        values = matrix.values if shape is None else matrix.values.astype(np.float32)
    invalid = np.flatnonzero(~np.isfinite(values))
    if invalid.size:
        first = invalid[0]
        raise UserError(
            f"{path}: expected finite weights of {values.dtype}, found {matrix.values[first]} in row "
            f"{matrix.rows[first] + 1}, column {matrix.columns[first] + 1} (counted from 1; {invalid.size} "
            "such in all); train or export the model again"
        )
    return replace(matrix, values=values)


def _challenge(layers: Iterable[_Layer], neurons: int) -> Network:
    """A network of the Graph Challenge."""
    if neurons not in BIASES:
        raise UserError(
            f"{next(iter(layers)).path}: expected one of {', '.join(map(str, BIASES))} neurons, whose biases "
            "the challenge gives, found another number in its name; call the files W1.mtx... and add biases"
        )
    shape, bias = (neurons, neurons), np.full(neurons, BIASES[neurons], np.float32)
    matrices = [_read(layer.path, shape).transposed for layer in layers]
    return _network(matrices, [bias] * len(matrices), [CLIPPED] * len(matrices))


def _network(
    matrices: list[Matrix], biases: list[np.ndarray], activations: list[Activation], head: str = "identity"
) -> Network:
    weights = [sparse(each.shape, each.rows, each.columns, each.values) for each in matrices]
    biases = [bias.astype(each.dtype) for bias, each in zip(biases, weights, strict=True)]
    return chain(weights, biases, activations, head)


def _bias(layer: _Layer, matrix: Matrix) -> np.ndarray:
    path = layer.path.parent / f"b{layer.number}.npy"
    if layer.number is None or not path.exists():
        return np.zeros(matrix.shape[0], matrix.values.dtype)
    with reading(path):
        bias = np.load(path, allow_pickle=False)
    bias = as_weights(bias, str(path))
    if bias.shape != matrix.shape[:1]:
        raise UserError(
            f"{path}: expected shape {matrix.shape[:1]}, a bias for each row of {layer.path.name}, found "
            f"{bias.shape}; store one for each"
        )
    return bias


def _activations(path: Path, layers: int) -> tuple[list[Activation], str]:
    names, file = None, path / "activations.txt"
    if path.is_dir() and file.exists():
        with reading(file):
            names = file.read_text(encoding="utf-8").split()
    return parse_activations(names, layers, file if names is not None else path)
