"""The vector of a text, as a directory of the library Sentence Transformers says."""

from __future__ import annotations

import json
from pathlib import Path

from repurpose_hpc.errors import UserError
from repurpose_hpc.io.reading import reading
from repurpose_hpc.model.texts import UNPOOLED, Pooling

MODULES = "modules.json"
# By the last word of a module's type.
_TRANSFORMER, _POOLING, _NORMALIZE = "Transformer", "Pooling", "Normalize"
# What is made of the outputs of all tokens: entries of a pooling's config.json, and ours.
_PREFIX = "pooling_mode_"
_POOLS = {
    "pooling_mode_cls_token": "first",
    "pooling_mode_lasttoken": "last",
    "pooling_mode_mean_tokens": "mean",
}


def pooling_of(directory: Path) -> Pooling:
    """What the files beside a model say; nothing is pooled where there are none.

    Raises:
        UserError: a file is damaged, or says what is not supported.
    """
    path = directory / MODULES
    if not path.is_file():
        return UNPOOLED
    with reading(path, "list of modules", "save the model again"):
        modules = [(str(entry["type"]), str(entry["path"])) for entry in json.loads(path.read_text())]
    kinds = [kind.rsplit(".", 1)[-1] for kind, _ in modules]
    expected = [_TRANSFORMER, _POOLING, _NORMALIZE]
    if kinds not in (expected, expected[:2]):
        raise UserError(
            f"{path}: expected the modules {', '.join(expected[:2])} and perhaps {_NORMALIZE}, found "
            f"{', '.join(kinds) or 'none'}; others are not supported, --pool says what to do instead"
        )
    return Pooling(_pool(directory / modules[1][1] / "config.json"), _NORMALIZE in kinds)


def _pool(path: Path) -> str:
    with reading(path, "configuration of a pooling", "save the model again"):
        entries = json.loads(path.read_text())
        chosen = [name for name, value in entries.items() if name.startswith(_PREFIX) and value is True]
    if len(chosen) != 1 or chosen[0] not in _POOLS:
        raise UserError(
            f"{path}: expected one of {', '.join(_POOLS)}, found {', '.join(chosen) or 'none'}; others are "
            "not supported, --pool says what to do instead"
        )
    return _POOLS[chosen[0]]
