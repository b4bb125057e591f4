"""A graph as a PyTorch module, which ``torch.export`` writes to a file that PyTorch alone can load.

``operators`` has a function for each ONNX operator, registered with ``function``; ``module`` calls them;
``file`` writes.  All but ``file`` import PyTorch.
"""
