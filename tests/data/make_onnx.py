"""Make the fixtures in ``onnx/`` with both exporters of PyTorch (needs torch and onnxscript).

A fixture is named MODEL_EXPORTER_OPSET.onnx.  ``image`` and ``view`` have a dynamic batch,
the others a fixed one of 2.  The weights are random, from a fixed seed.
"""

from __future__ import annotations

from pathlib import Path

import onnx
import torch
from torch import nn

DIRECTORY = Path(__file__).resolve().parent / "onnx"
BATCH = 2


class View(nn.Module):
    """MatMul + Add, a layer without bias, and a view that computes with the batch size."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(12, 5))
        self.bias = nn.Parameter(torch.randn(5))
        self.last = nn.Linear(5, 3, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.view(x.shape[0], -1)
        return self.last(torch.sigmoid(x @ self.weight + self.bias)).softmax(-1)


MODELS = {
    "activations": nn.Sequential(
        *(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 6), nn.LeakyReLU(0.1), nn.Linear(6, 3), nn.Sigmoid()),
        *(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)),
    ),
    "gelu": nn.Sequential(nn.Linear(5, 4), nn.GELU(), nn.Linear(4, 3), nn.GELU()),
    "gelutanh": nn.Sequential(nn.Linear(5, 4), nn.GELU(approximate="tanh"), nn.Linear(4, 3)),
    "image": nn.Sequential(
        *(nn.ReLU(), nn.Flatten(), nn.Linear(12, 4), nn.Dropout(), nn.Tanh(), nn.ReLU(), nn.Identity()),
        *(nn.Linear(4, 3), nn.LogSoftmax(1)),
    ),
    "view": View(),
    "wide": nn.Sequential(nn.Linear(5, 100), nn.ReLU(), nn.Linear(100, 2)),  # enough for external data
    "conv": nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4, 2)),
}
IMAGES = ("image", "view", "conv")
DYNAMIC = ("image", "view")


def export(name: str, dynamo: bool, opset: int, external_data: bool = False) -> None:
    """Write one fixture."""
    model = MODELS[name].eval()
    x = torch.randn(BATCH, 1, 3, 4) if name in IMAGES else torch.randn(BATCH, 5)
    batch = {}
    if name in DYNAMIC:
        batch = {"dynamic_shapes": ({0: "batch"},)} if dynamo else {"dynamic_axes": {"x": {0: "batch"}}}
    path = DIRECTORY / f"{name}_{'dynamo' if dynamo else 'torchscript'}_{opset}.onnx"
    torch.onnx.export(
        model,
        (x,),
        path,
        dynamo=dynamo,
        opset_version=opset,
        input_names=["x"],
        external_data=external_data,
        **batch,
    )
    drop_stack_traces(path)


def drop_stack_traces(path: Path) -> None:
    """Remove the metadata of a graph and its nodes: files and lines of the machine that exported it."""
    model = onnx.load(path, load_external_data=False)
    for item in (model, model.graph, *model.graph.node, *model.graph.input, *model.graph.value_info):
        item.ClearField("metadata_props")
    onnx.save(model, path)


def main() -> None:
    """Write all of them."""
    DIRECTORY.mkdir(exist_ok=True)
    torch.manual_seed(0)
    for name in sorted(MODELS.keys() - {"wide"}):
        export(name, dynamo=False, opset=17)
        export(name, dynamo=True, opset=18)
    export("gelu", dynamo=True, opset=20)
    export("gelutanh", dynamo=True, opset=20)
    export("wide", dynamo=True, opset=18, external_data=True)


if __name__ == "__main__":
    main()
