"""HOW OTHERS RUN IT: a restructured network as a graph of ONNX operators, whole or in parts, or for PyTorch.

``network`` writes a network as nodes, with what ``nodes_*`` say of each operation, registered with
``exports``; ``onnx_file`` and ``torch`` write these nodes to files; ``parts`` cuts them by worker and round.
May import plan, model and the ground (errors, fields, io, mpi, process).
"""
