"""Networks in ONNX graphs, as torch.onnx and other exporters write them.

``file`` reads the graph, whose ``inputs`` may have sizes from outside; ``evaluation`` executes it once on
what is known without data, node by node (``node``), by the functions that ``operators`` names and
``nodes_*`` hold, or by other nodes in its place (``rewriting``, ``functions``); values that depend on the
input are signals (``signal``; ``moved``, where the samples are not in front), from which ``tensors`` makes
operations of the network.
"""

from repurpose_hpc.model.importers.onnx.evaluation import load_onnx, unsupported

__all__ = ["load_onnx", "unsupported"]
