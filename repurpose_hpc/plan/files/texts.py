"""What is said of texts, as JSON."""

from __future__ import annotations

import json

from repurpose_hpc.model.texts import Pooling, TextRules


def described(rules: TextRules) -> bytes:
    """The JSON text, in UTF-8."""
    pooling = None if rules.pooling is None else rules.pooling._asdict()
    return json.dumps({**rules._asdict(), "pooling": pooling}, ensure_ascii=False).encode()


def read_rules(text: bytes) -> TextRules:
    """What ``described`` told.

    Raises:
        ValueError, KeyError: it is damaged.
    """
    values = json.loads(text)
    try:
        pooling = None if values["pooling"] is None else Pooling(**values["pooling"])
        return TextRules(str(values["tokenizer"]), tuple(map(int, values["ends"])), pooling)
    except (TypeError, AttributeError) as error:  # an entry of another type
        raise ValueError(f"what it says of texts is damaged: {error}") from None
