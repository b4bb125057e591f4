"""Weights in fewer bits, packed for the convolution, and the numbers that they stand for."""

import numpy as np

from repurpose_hpc.kernels import convolution_rows
from repurpose_hpc.model.comm_dtype import EXACT, INT8, decode, encode
from repurpose_hpc.runtime.buffers import Arena
from repurpose_hpc.runtime.lowering.weights import packed, row_scales


def packed_for_convolution(W, by_channels, weights_dtype=EXACT):
    """Panels and scales of W (m, K)."""
    return packed(W, weights_dtype, convolution_rows(W.dtype, by_channels), Arena())


def rounded(W, weights_dtype):
    """W (m, K) as a run reads it from memory, in the precision of W."""
    scales = row_scales(W) if weights_dtype == INT8 else None
    codes = encode(W, weights_dtype, scales)
    if weights_dtype == INT8:
        return codes.astype(W.dtype) * scales[:, np.newaxis].astype(W.dtype)
    return decode(codes, weights_dtype).astype(W.dtype)
