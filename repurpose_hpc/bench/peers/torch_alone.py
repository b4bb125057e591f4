"""PyTorch in one process, as its users write it: samples first, ``Linear`` and ``ReLU``, no gradients."""

from __future__ import annotations

import warnings
from contextlib import AbstractContextManager

import numpy as np
import torch

from repurpose_hpc.bench.candidate import Candidate
from repurpose_hpc.bench.peers.numpy_alone import Layers
from repurpose_hpc.bench.turns import Conditions
from repurpose_hpc.process.threads import using_threads


def prepare() -> None:
    """One thread, and no gradients, for this process."""
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)


def threads(number: int) -> AbstractContextManager[None]:
    """A block in which torch uses so many threads."""
    return using_threads(number, torch.get_num_threads, torch.set_num_threads)


def linear(W: np.ndarray, b: np.ndarray) -> torch.nn.Linear:
    """A layer on the memory of ``W`` and ``b``."""
    layer = torch.nn.Linear(W.shape[1], W.shape[0], device="meta")
    layer.weight = torch.nn.Parameter(torch.from_numpy(W))
    layer.bias = torch.nn.Parameter(torch.from_numpy(b))
    return layer


def network(layers: Layers, X: np.ndarray, conditions: Conditions) -> Candidate:
    """A chain of dense layers with ReLU between them, on a batch; see ``numpy_alone.network``."""
    modules = [module for W, b in layers for module in (linear(W, b), torch.nn.ReLU())][:-1]
    chain, x = torch.nn.Sequential(*modules), torch.from_numpy(np.ascontiguousarray(X.T))
    return Candidate(lambda: chain(x), samples_last, conditions)


def samples_last(y: torch.Tensor) -> np.ndarray:
    """(batch, neurons) as a NumPy array (neurons, batch)."""
    return y.numpy().T


def dense(W: np.ndarray, X: np.ndarray) -> Candidate:
    """``W X`` alone: for one sample of a matrix and a vector, for a batch as ``Linear`` multiplies."""
    weights = torch.from_numpy(W)
    if X.shape[1] == 1:
        x, out = torch.from_numpy(X[:, 0].copy()), torch.empty(len(W), dtype=weights.dtype)
        return Candidate(lambda: torch.mv(weights, x, out=out), lambda y: y.numpy()[:, None])
    x = torch.from_numpy(np.ascontiguousarray(X.T))
    out, transposed = torch.empty((X.shape[1], len(W)), dtype=weights.dtype), weights.T
    return Candidate(lambda: torch.mm(x, transposed, out=out), samples_last)


def sparse(
    values: np.ndarray, indices: np.ndarray, indptr: np.ndarray, shape: tuple[int, int], X: np.ndarray
) -> Candidate:
    """``W X`` with W in compressed sparse rows, by MKL where torch was built with it."""
    # MKL wants signed indices of 32 bits; torch would convert others at every call.
    rows, columns = (torch.from_numpy(part.astype(np.int32)) for part in (indptr, indices))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it is in beta
        weights = torch.sparse_csr_tensor(rows, columns, torch.from_numpy(values), shape)
    if X.shape[1] == 1:
        x = torch.from_numpy(X[:, 0].copy())
        return Candidate(lambda: torch.mv(weights, x), lambda y: y.numpy()[:, None])
    columns_of_x = torch.from_numpy(X)
    return Candidate(lambda: torch.mm(weights, columns_of_x), lambda y: y.numpy())
