"""A study of accuracy: restructure for every point, and measure the restructured network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

from repurpose_hpc import __version__
from repurpose_hpc.fields import count
from repurpose_hpc.io.progress import TimeLeft
from repurpose_hpc.io.samples import Samples, open_samples
from repurpose_hpc.model.importers.input_shapes import InputShapes
from repurpose_hpc.model.importers.load import load_model
from repurpose_hpc.model.importers.nir.options import SpikingOptions
from repurpose_hpc.model.labels import understood
from repurpose_hpc.model.network import Network
from repurpose_hpc.restructure.calibration.evaluation import Comparison, compare
from repurpose_hpc.restructure.context import Log, silent
from repurpose_hpc.restructure.driver import restructure
from repurpose_hpc.restructure.options import Options
from repurpose_hpc.restructure.positions import sharing_for
from repurpose_hpc.restructure.team import Team
from repurpose_hpc.studies.accuracy.table import QUALITIES, AccuracyTable
from repurpose_hpc.studies.table import Row, one_line


@dataclass(frozen=True, eq=False)
class AccuracyStudy:
    """A trained network and its data.

    Attributes:
        model: file of the network.
        network: as it was trained.
        calibration: samples to restructure with, ``understood``, as the network takes them.
        test: samples that only report, likewise; nothing is chosen by them.
    """

    model: Path
    network: Network
    calibration: Samples
    test: Samples

    def origin(self) -> dict:
        """Origin that the points of a table have in common (see ``AccuracyTable``)."""
        return {
            "version": __version__,
            "model": {"path": str(self.model), "sha256": self.network.fingerprint()},
            "calibration": {"path": self.calibration.name, "sha256": self.calibration.fingerprint()},
            "test": {"path": self.test.name, "sha256": self.test.fingerprint()},
        }


def open_study(
    model: Path,
    calibration: Path,
    test: Path,
    shapes: InputShapes | None = None,
    spiking: SpikingOptions | None = None,
) -> AccuracyStudy:
    """Open the files of a study; ``shapes`` and ``spiking``: see ``load_model``.

    Raises:
        UserError: a file cannot be read, or model and data do not fit.
    """
    network = load_model(model, shapes, spiking=spiking)

    def fed(path: Path) -> Samples:
        return understood(network, network.ends.feed(open_samples(path), network.input_shape))

    return AccuracyStudy(model, network, fed(calibration), fed(test))


def compute(
    study: AccuracyStudy,
    points: Sequence[Options],
    table: AccuracyTable,
    team: Team,
    log: Callable[[str], None],
) -> int:
    """Fill ``table`` with those of ``points`` that are not in it, or failed before.

    A point that fails is written down with its message, and the others are computed all the same.

    Args:
        study: the network and its data.
        points: in the order in which to compute them.
        table: has every point on disk before the next one begins.
        team: shares the work.
        log: is given one line for each point.

    Returns:
        number of points that failed.

    Raises:
        UserError: the table cannot be written, or a file of samples was changed.
    """
    failed = done = 0
    left = TimeLeft(sum(not table.find(options) for options in points))
    for number, options in enumerate(points, 1):
        if table.find(options):
            continue
        try:
            findings = measure(study, options, team)
        except Exception as error:
            findings = {"error": one_line(error)}
            failed += 1
        for samples in (study.calibration, study.test):
            samples.check_unchanged()  # a row is of the files that the table says it is of
        table.put(options, findings)
        done += 1
        log(f"[{number}/{len(points)}] {_name(options)}: {_outcome(findings)}{left(done)}")
    return failed


def measure(study: AccuracyStudy, options: Options, team: Team) -> Row:
    """Restructure for one point.

    Returns:
        the columns ``FINDINGS`` of the table without ``error``, and without accuracies where there are no
        labels, and without errors of targets where there are none; ``seconds`` are those of restructuring.

    Raises:
        UserError: see ``restructure``.
    """
    began = perf_counter()
    shared = _shared_by_position(study.network, study.calibration, options, team)
    result = restructure(shared, study.calibration, options, silent, team)
    seconds = perf_counter() - began
    sent = int(result.traffic_matrix().sum())
    dense = sum(result.plan.dense_values(shared, mixing) for mixing in shared.mixings)
    return {
        "values_sent": sent,
        "dense_values": dense,
        "comm_fraction": sent / dense if dense else 0.0,
        "weights_kept": result.network.weight_count,
        **_quality("calibration", compare(shared, result.network, study.calibration, team)),
        **_quality("test", compare(shared, result.network, study.test, team)),
        "seconds": round(seconds, 3),
    }


def _shared_by_position(network: Network, samples: Samples, options: Options, team: Team) -> Network:
    """The network with the layers that ``options`` shares out by position."""
    if not options.by_position:
        return network

    def trial(candidate: Network, rest: Samples, held_out: Samples, log: Log) -> float:
        cut = restructure(candidate, rest, options, silent, team)
        return compare(candidate, cut.network, held_out, team).output_error

    return sharing_for(network, samples, options, trial, silent).of(network, options)


def _quality(data: str, comparison: Comparison) -> Row:
    return {f"{data}_{name}": value for name, value in comparison.findings().items() if name in QUALITIES}


def _name(options: Options) -> str:
    method = f"{options.method}/{options.assignment}"
    return f"{count(options.workers, 'worker')}, {method}, budget {options.comm_budget:g}"


def _outcome(findings: Row) -> str:
    if "error" in findings:
        return f"failed: {findings['error']}"
    if "test_accuracy" in findings:
        quality = f"test accuracy {findings['test_accuracy']:.4f}"
    else:
        quality = f"test output error {findings['test_output_error']:.4f}"
    return f"fraction {findings['comm_fraction']:.4g}, {quality}, {findings['seconds']:.1f} s"
