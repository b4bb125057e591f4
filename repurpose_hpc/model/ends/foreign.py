"""Running an ONNX model by onnxruntime, for subgraphs with operators that NumPy does not compute here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from repurpose_hpc.errors import UserError
from repurpose_hpc.model.ends.call import FUNCTIONS


def run_model(
    model: bytes, operators: Sequence[str], wanted: Sequence[str], feeds: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """The tensors ``wanted`` of a model, by name.

    Args:
        model: its bytes.
        operators: of it, for the message where onnxruntime is missing.
        wanted: outputs of the model.
        feeds: its inputs, by name; those that it does not read are left out.

    Raises:
        UserError: onnxruntime is missing, or refuses the model or the values.
    """
    session = _session(model, tuple(operators))
    read = {each.name for each in session.get_inputs()}
    try:
        results = session.run(list(wanted), {name: x for name, x in feeds.items() if name in read})
    except Exception as error:  # onnxruntime raises a class of its own for each kind of failure
        raise UserError(
            f"onnxruntime cannot compute {', '.join(operators)} of these values: {error}"
        ) from None
    return dict(zip(wanted, results, strict=True))


@lru_cache(maxsize=8)
def _session(model: bytes, operators: tuple[str, ...]) -> Any:
    try:
        import onnxruntime
    except ImportError:
        foreign = ", ".join(name for name in operators if name not in FUNCTIONS) or ", ".join(operators)
        raise UserError(
            f"the model's ends have operators that need a package that is not installed: {foreign}; "
            "pip install onnxruntime"
        ) from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1  # a rank has one core
    options.log_severity_level = 4
    try:
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # see above
        raise UserError(f"onnxruntime cannot run {', '.join(operators)}: {error}") from None
