"""Read a trained network from a file, by its suffix."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from repurpose_hpc.errors import Note, UserError
from repurpose_hpc.fields import FieldError, defaults
from repurpose_hpc.io.matrices import READERS, suffix_of
from repurpose_hpc.model.importers.input_shapes import InputShapes, word_of
from repurpose_hpc.model.importers.matrices import holds_matrices, load_matrices
from repurpose_hpc.model.importers.nir.options import SpikingOptions
from repurpose_hpc.model.network import Network

if TYPE_CHECKING:
    from repurpose_hpc.io.samples import Samples
    from repurpose_hpc.model.importers.opinion import ImportCheck

GGUF, NIR, ONNX = ".gguf", ".nir", ".onnx"
SUFFIXES = (".npz", ".safetensors", ONNX, GGUF, NIR)


def load_model(
    path: str | Path,
    input_shapes: InputShapes | None = None,
    check: bool = True,
    spiking: SpikingOptions | None = None,
) -> Network:
    """The network stored in ``path``.

    Args:
        path: ``.npz`` or ``.safetensors`` (a chain W0, b0, W1, b1 ...: see ``importers.chains``), ``.onnx``
            (see ``importers.onnx``), ``.nir`` (a spiking network, see ``importers.nir``), a directory of
            sparse matrices (see ``importers.matrices``), or what ``load_tokens`` reads, for sequences of one
            length.
        input_shapes: sizes of inputs that an ``.onnx`` file leaves free, by name, the samples left out:
            ``{"x": (3, 48, 192)}``; of a transformer the length of sequences, ``{"ids": (128,)}``.
        check: compare the network with what another program makes of an ``.onnx`` file, on a few random
            inputs; a warning says if none can run it.
        spiking: what a ``.nir`` file does not say; a note says what was assumed.

    Returns:
        weights and biases are float32 or float64 as stored; half precision becomes float32.

    Raises:
        UserError: the file cannot be read or holds something that is not supported, or the
            package that reads its format is not installed, or the comparison finds a difference.
    """
    path = Path(path)
    if path.suffix != NIR:
        _refuse_options(path, spiking)
    if not is_model_directory(path) and holds_matrices(path):
        _refuse_shapes(path, input_shapes)
        return load_matrices(path)
    if path.is_dir():
        return _of_sequences(path, load_tokens(path), input_shapes or {})
    if path.suffix not in SUFFIXES and suffix_of(path) not in READERS:
        raise UserError(
            f"{path}: unknown model format {path.suffix!r}, expected one of {', '.join(SUFFIXES)}, .mtx, or "
            "a directory of sparse matrices or of a transformer; export the model to ONNX or store its "
            "weights as W0, b0, W1, b1 ... in an .npz file"
        )
    if not path.is_file():
        raise UserError(f"{path}: expected a model file, found none; check the path")
    if path.suffix == GGUF:
        return _of_sequences(path, load_tokens(path), input_shapes or {})
    if path.suffix == ONNX:
        from repurpose_hpc.model.importers.onnx import load_onnx

        network = load_onnx(path, input_shapes)
        if check:
            check_model(path, network, None, input_shapes)
        return network
    _refuse_shapes(path, input_shapes)
    if path.suffix == NIR:
        from repurpose_hpc.model.importers.nir.load import load_nir

        return load_nir(path, spiking or SpikingOptions())
    from repurpose_hpc.model.importers.chains import load_chain

    return load_chain(path)


def _refuse_shapes(path: Path, input_shapes: InputShapes | None) -> None:
    if input_shapes:
        given = " ".join(word_of(name, sizes) for name, sizes in input_shapes.items())
        raise UserError(
            f"{path}: expected no input shape, got {given}: only .onnx files leave sizes free; leave it out"
        )


def _refuse_options(path: Path, spiking: SpikingOptions | None) -> None:
    given = SpikingOptions() if spiking is None else spiking
    for name, default in defaults(SpikingOptions).items():
        if getattr(given, name) != default:
            value = getattr(given, name)
            raise FieldError(
                name, f"expected none for {path}, as it is of {NIR} files, got {value}; leave it out"
            )


def load_tokens(path: str | Path, longest: int | None = None, check: bool = True) -> Network:
    """The transformer in a directory or a file, as a network of tokens, for sequences of any length.

    Args:
        path: a directory with a config.json and ``.safetensors`` files (see ``importers.huggingface``), a
            ``.gguf`` file (see ``importers.gguf``), or an ``.onnx`` file whose axis of tokens is free (see
            ``importers.onnx.tokens``).
        longest: tokens that a sequence may have, of an ``.onnx`` file; None: as many as it has positions for,
            2,048 at most.
        check: compare the network with what another program makes of an ``.onnx`` file, on a few random
            sequences; a warning says if none can run it.

    Raises:
        UserError: something is missing, damaged or not supported, or the comparison finds a difference.
    """
    path = Path(path)
    if path.suffix == ONNX and path.is_file():
        return _of_graph(path, longest, check)
    if longest is not None:
        raise UserError(f"{path}: longest is of .onnx files, others say it themselves; leave it out")
    if path.suffix == GGUF and not path.is_dir():
        from repurpose_hpc.model.importers.gguf import load_gguf

        return load_gguf(path)
    from repurpose_hpc.model.importers.huggingface import CONFIG, load_directory

    if not is_model_directory(path):
        raise UserError(
            f"{path}: expected a directory with a file {CONFIG}, a .gguf file or an .onnx file, found none; "
            "check the path"
        )
    return load_directory(path)


def holds_tokens(path: Path) -> bool:
    """Whether a path is that of a transformer which ``load_tokens`` reads, or refuses by name."""
    if path.suffix == ONNX and path.is_file():
        from repurpose_hpc.model.importers.onnx.tokens import reads_ids

        return reads_ids(path)
    return path.suffix == GGUF and path.is_file() or is_model_directory(path)


def takes_any_length(path: Path) -> bool:
    """The same, but for files whose axis of tokens is not free: they are those of networks of samples."""
    if path.suffix == ONNX and path.is_file():
        from repurpose_hpc.model.importers.onnx.tokens import has_free_tokens

        return has_free_tokens(path)
    return holds_tokens(path)


def is_model_directory(path: Path) -> bool:
    """Whether a path is that of a directory of a transformer, not of shards."""
    from repurpose_hpc.model.importers.huggingface import CONFIG

    return (path / CONFIG).is_file()


def _of_graph(path: Path, longest: int | None, check: bool) -> Network:
    """The network of tokens in an ONNX file, compared with it where that is wanted."""
    from repurpose_hpc.model.importers.onnx.tokens import TokenGraph, network_of_tokens

    graph = TokenGraph.read(path)
    network = network_of_tokens(graph, longest)
    if check:
        from repurpose_hpc.model.importers.opinion.tokens import check_tokens

        check_tokens(graph, network)
    return network


def _of_sequences(path: Path, network: Network, input_shapes: InputShapes) -> Network:
    """A network of tokens on sequences of the length that is given."""
    lengths = input_shapes.get("ids", ())
    if len(input_shapes) > 1 or len(lengths) != 1 or not 1 <= lengths[0] <= network.longest:
        given = " ".join(word_of(name, sizes) for name, sizes in input_shapes.items()) or "none"
        raise UserError(
            f"{path}: expected the length of all sequences, {word_of('ids', (1,))} to "
            f"{word_of('ids', (network.longest,))}, as input shape, got {given}; give that of your samples"
        )
    return network.at(lengths[0])


def check_model(
    path: Path,
    network: Network,
    samples: Samples | None = None,
    input_shapes: InputShapes | None = None,
) -> ImportCheck | None:
    """Compare an imported network with its file, see ``importers.opinion``; warns if no program can run it.

    Args:
        path: of the file.
        network: imported from it.
        samples: from which inputs are drawn; None: they are normally distributed.
        input_shapes: with which it was imported.

    Returns:
        None for a chain of weights, which leaves nothing to interpret.

    Raises:
        UserError: the network is not the one in the file; names the first tensor that differs.
    """
    if path.suffix != ONNX:
        return None
    from repurpose_hpc.model.importers.opinion import check_import

    result = check_import(path, network, samples, input_shapes)
    if result.evaluator is None:
        warnings.warn(f"{path}: {result}", Note, stacklevel=2)
    return result
