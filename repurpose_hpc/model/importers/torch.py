"""Networks from PyTorch modules, by way of ONNX: one import path for everything."""

from __future__ import annotations

import importlib.util
import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repurpose_hpc.errors import Note, UserError
from repurpose_hpc.model.importers.load import load_model
from repurpose_hpc.model.network import Network

if TYPE_CHECKING:
    import torch

# The newest that the older exporter of PyTorch writes is 17; the newer one converts from 18 at best.
_OPSETS = {False: 17, True: 18}

# A protobuf file holds less than 2 GiB; beyond that, weights go into a file of their own.
_LARGEST_FILE = 1 << 30


def from_torch(
    module: torch.nn.Module,
    example_inputs: torch.Tensor | tuple[torch.Tensor, ...],
    path: str | Path | None = None,
    check: bool = True,
) -> Network:
    """The network that a module computes in evaluation mode, for batches of any size.

    Args:
        module: exported with torch.onnx; its mode is left as it was.
        example_inputs: what it is called with, samples on the first axis: a tensor, or a tuple of them.
        path: where to keep the ``.onnx`` file, which is what the commands take as MODEL.
        check: compare the network with the module, on the example inputs scaled down and up.

    Returns:
        a sample is the inputs of the module, flattened, one after the other; see ``load_onnx``.

    Raises:
        UserError: PyTorch or ``onnx`` is missing, other arguments than these, the module cannot be exported,
            or it computes something that is not supported; names the node. The comparison finds a
            difference.
    """
    examples = example_inputs if isinstance(example_inputs, tuple) else (example_inputs,)
    if path is not None:
        _export(module, examples, Path(path))
        network = load_model(path, check=False)
        if check:
            _compare(module, examples, Path(path), network)
        return network
    with tempfile.TemporaryDirectory() as folder:
        return from_torch(module, examples, Path(folder) / f"{type(module).__name__}.onnx", check)


def _compare(
    module: torch.nn.Module, examples: tuple[torch.Tensor, ...], path: Path, network: Network
) -> None:
    from repurpose_hpc.model.importers.opinion.module import check_module

    result = check_module(module, examples, path, network)
    if result.evaluator is None:
        warnings.warn(f"{type(module).__name__}: {result}", Note, stacklevel=3)


def _export(module: torch.nn.Module, examples: tuple[torch.Tensor, ...], path: Path) -> None:
    torch = _import_torch()
    _check_arguments(torch, module, examples, path)
    with_dynamo = importlib.util.find_spec("onnxscript") is not None
    # The newer exporter takes a batch of 1 for a fixed one.
    examples = tuple(torch.cat([example, example]) if len(example) == 1 else example for example in examples)
    was_training = module.training
    module.eval()
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                module,
                examples,
                str(path),
                dynamo=with_dynamo,
                opset_version=_OPSETS[with_dynamo],
                **_options(module, examples, with_dynamo),
            )
    except Exception as error:  # whatever the exporter raises, it concerns the user's module
        raise UserError(
            f"{type(module).__name__}: torch.onnx could not export the module: {error}; "
            "change it, or export it yourself and give the .onnx file"
        ) from error
    finally:
        module.train(was_training)


def _check_arguments(torch: Any, module: object, examples: tuple[object, ...], path: Path) -> None:
    tensors = all(isinstance(argument, torch.Tensor) and argument.ndim > 1 for argument in examples)
    if not isinstance(module, torch.nn.Module) or not tensors or not examples:
        received = ", ".join(_described(argument) for argument in (module, *examples))
        raise UserError(
            "from_torch: expected a torch.nn.Module and a tensor, or a tuple of tensors, with the samples on "
            f"the first of two or more axes, found {received}"
        )
    if path.suffix != ".onnx":
        raise UserError(f"{path}: expected the name of an .onnx file to keep the model in; append .onnx")


def _described(value: object) -> str:
    shape = getattr(value, "shape", None)
    return type(value).__name__ if shape is None else f"{type(value).__name__} of shape {tuple(shape)}"


def _import_torch() -> Any:
    try:
        import torch
        import torch.onnx
    except ImportError:
        raise UserError(
            "from_torch needs PyTorch and onnx, and PyTorch is not installed; pip install torch onnx, "
            "or export the model to ONNX elsewhere"
        ) from None
    return torch


def _options(
    module: torch.nn.Module, examples: tuple[torch.Tensor, ...], with_dynamo: bool
) -> dict[str, Any]:
    """Options of the exporter that make the first axis of every input dynamic."""
    if not with_dynamo:
        names = [f"input{place}" for place in range(len(examples))]
        return {"input_names": names, "dynamic_axes": {name: {0: "batch"} for name in names}}
    import torch

    batch = torch.export.Dim("batch")
    size = sum(array.numel() * array.element_size() for array in module.state_dict().values())
    return {
        "dynamic_shapes": tuple({0: batch} for _ in examples),
        "external_data": size > _LARGEST_FILE,
        "verbose": False,
    }
