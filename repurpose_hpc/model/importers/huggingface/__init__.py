"""Transformers in directories as Hugging Face's libraries write them: config.json and safetensors files.

``config`` reads what the network is, ``weights`` its arrays, and ``families`` says how each kind of model
calls both; ``importers.transformers`` builds the network of tokens.
"""

from repurpose_hpc.model.importers.huggingface.directory import CONFIG, load_directory

__all__ = ["CONFIG", "load_directory"]
