"""Sequences of letters: DNA and the bytes of files."""

from __future__ import annotations

import json
import shutil
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from trained.network import Task, accuracy, export_torch, halves, module_of, onnx_outputs, package, trained

_FRAGMENT = 5000
_SUFFIXES = {
    ".py": "python",
    ".pyc": "pythonbytecode",
    ".so": "elf",
    ".h": "c",
    ".txt": "txt",
    ".exe": "pebin",
    ".png": "png",
    ".gif": "gif",
    ".json": "json",
    ".bat": "batch",
    ".sh": "shell",
    ".toml": "toml",
    ".xml": "xml",
    ".html": "html",
    ".css": "css",
    ".js": "javascript",
}


@trained(
    "Tiara, first stage",
    wheel="tiara==1.0.2",
    licence="MIT",
    weights="`first_nnet_kmer_6.pkl`, loaded into its PyTorch module",
    measure="accuracy, organism of DNA in the package's own tests (4 classes), %",
)
def tiara(path: Path) -> Task:
    import torch

    folder = package("tiara")
    state = torch.load(folder / "models/nnet-models/first_nnet_kmer_6.pkl", "cpu", weights_only=True)
    sizes = [state[f"{i}.weight"].shape[0] for i in (0, 3, 6)]
    module = module_of(folder / "src/models.py", "models").NNet1(4**6, *sizes, dropout=0.2)
    module.load_state_dict(state)
    rarity = np.load(folder / "models/tfidf-models/k6-first-stage/model.npy")
    kinds = {"mitochondria": 0, "plast": 0, "bacteria": 1, "archaea": 3, "eukarya": 4}
    pairs = [
        (fragment, label)
        for kind, label in kinds.items()
        for fragment in _fragments(folder / f"test/test_data/{kind}_fr.fasta", 400)
    ]
    (calibration, _), (test, labels) = (zip(*half, strict=True) for half in halves(pairs))
    calibration, test = (
        np.stack([_weighted_counts(item, rarity) for item in part]) for part in (calibration, test)
    )
    outputs = export_torch(module, test[:2], path)
    return Task(calibration, test, outputs(test), accuracy(labels))


def _fragments(path: Path, at_most: int) -> list[str]:
    """Fragments of the sequences in a FASTA file, at most two of each."""
    sequences = ["".join(part.split("\n")[1:]) for part in path.read_text().split(">")[1:]]
    found = [
        sequence[start : start + _FRAGMENT]
        for sequence in sequences
        for start in range(0, min(len(sequence) - _FRAGMENT + 1, 2 * _FRAGMENT), _FRAGMENT)
    ]
    return found[:at_most]


def _weighted_counts(sequence: str, rarity: np.ndarray, length: int = 6) -> np.ndarray:
    """How often each word of ``length`` letters occurs, times its rarity, as a vector of length 1."""
    codes = np.full(256, -1)
    codes[np.frombuffer(b"ACGT", np.uint8)] = range(4)
    letters = codes[np.frombuffer(sequence.encode(), np.uint8)]
    windows = np.lib.stride_tricks.sliding_window_view(letters, length)
    words = windows[(windows >= 0).all(axis=1)] @ 4 ** np.arange(length)[::-1]
    counts = np.bincount(words, minlength=4**length) * rarity
    return (counts / np.linalg.norm(counts)).astype(np.float32)


@trained(
    "Magika 3.3",
    wheel="magika==1.0.3",
    licence="Apache-2.0",
    weights="`model.onnx`",
    measure="accuracy, type of the files of the Python that runs this, %",
)
def magika(path: Path) -> Task:
    folder = package("magika") / "models/standard_v3_3"
    shutil.copy(folder / "model.onnx", path)
    names = json.loads((folder / "config.min.json").read_text())["target_labels_space"]
    pairs = [(_ends(content), names.index(kind)) for content, kind in _typed_files(per_kind=40)]
    (calibration, _), (test, labels) = (zip(*half, strict=True) for half in halves(pairs))
    calibration, test = np.stack(calibration), np.stack(test)
    return Task(calibration, test, onnx_outputs(path, test), accuracy(labels))


def _typed_files(per_kind: int) -> Iterator[tuple[bytes, str]]:
    """Contents of files of this Python and its packages, and what their names say that they are."""
    roots = {Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib", "include")}
    files = sorted({file for root in roots for file in root.rglob("*") if file.suffix in _SUFFIXES})
    for suffix, kind in _SUFFIXES.items():
        of_kind = [file for file in files if file.suffix == suffix and file.is_file()]
        stride = max(1, len(of_kind) // per_kind)
        contents = (file.read_bytes() for file in of_kind[::stride][:per_kind])
        yield from ((content, kind) for content in contents if len(content) >= 64)


def _ends(content: bytes, size: int = 1024, block: int = 4096, padding: int = 256) -> np.ndarray:
    """The first and last bytes of a file as Magika takes them, int32."""
    first, last = content[:block].lstrip()[:size], content[-block:].rstrip()[-size:]
    values = np.full(2 * size, padding, np.int32)
    values[: len(first)] = np.frombuffer(first, np.uint8)
    values[2 * size - len(last) :] = np.frombuffer(last, np.uint8)
    return values
