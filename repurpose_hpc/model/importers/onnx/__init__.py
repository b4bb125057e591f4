"""Networks in ONNX graphs, as torch.onnx and other exporters write them.

``file`` reads the graph, whose ``inputs`` may have sizes from outside; ``evaluation`` executes it once on
what is known without data, node by node (``node``), by the functions that ``operators`` names and
``nodes_*`` hold, or by other nodes in its place (``rewriting``, ``functions``); values that depend on the
input are signals (``signal``; ``moved``, where the samples are not in front), from which ``tensors`` makes
operations of the network.
``ends`` divides a graph where a node is refused before or behind all weights; ``relations`` says which nodes
depend on each other, ``subgraphs`` makes what is computed outside the network.
"""

from repurpose_hpc.model.importers.onnx.evaluation import load_onnx, unsupported
from repurpose_hpc.model.importers.onnx.operators import SUPPORTED

__all__ = ["SUPPORTED", "load_onnx", "unsupported"]
