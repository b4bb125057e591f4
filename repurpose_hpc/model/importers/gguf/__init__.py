"""Transformers in GGUF files, as llama.cpp's converters write them.

``file`` reads what a file has, ``tensors`` gives its arrays as numbers, ``families`` reads what the network
is, ``texts`` what its tokens mean; ``importers.transformers`` builds the network of tokens.
"""

from repurpose_hpc.model.importers.gguf.load import load_gguf

__all__ = ["load_gguf"]
