"""The pass behind a product of another library: bias and activation."""

from __future__ import annotations

import numpy as np

from ..arguments import EPILOGUE, REAL, Array, Epilogue
from ..maps.activations import activate_in_place
from ..registry import kernel

_MATRIX = Array(REAL, 2)


@kernel(arguments={"start": _MATRIX, "product": _MATRIX, "out": _MATRIX, "epilogue": EPILOGUE})
def finish(start: np.ndarray, product: np.ndarray, out: np.ndarray, epilogue: Epilogue) -> None:
    """out = act(start + product): completes a product that came from BLAS.

    Args:
        start: (m, 1), a bias, or (m, batch), possibly ``out`` itself.
        product: (m, batch), as left by ``np.matmul(W, X, out=product)``; possibly ``out``
            itself where start is not.
        out: (m, batch).
        epilogue: activation.
    """
    rows, batch = out.shape
    if start.shape[1] == batch:
        for i in range(rows):
            for b in range(batch):
                out[i, b] = start[i, b] + product[i, b]
    else:
        for i in range(rows):
            for b in range(batch):
                out[i, b] = start[i, 0] + product[i, b]
    activate_in_place(out, epilogue.code, epilogue.alpha, epilogue.beta)
