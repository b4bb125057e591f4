"""A whole restructuring: from a network and calibration data to shards and a report."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from repurpose_hpc import __version__
from repurpose_hpc.errors import UserError
from repurpose_hpc.fields import FieldError, count, declarations
from repurpose_hpc.io.progress import PENDING, expected
from repurpose_hpc.io.samples import Samples
from repurpose_hpc.model.comm_dtype import EXACT
from repurpose_hpc.model.labels import understood
from repurpose_hpc.model.network import Network
from repurpose_hpc.model.precision import precision
from repurpose_hpc.mpi.agreement import agreed, check_same
from repurpose_hpc.plan.files.store import check_place, write_plan
from repurpose_hpc.process.packages import installed
from repurpose_hpc.restructure.account import account
from repurpose_hpc.restructure.alternatives import with_relays_where_they_pay
from repurpose_hpc.restructure.calibration.evaluation import Comparison, compare, evaluate
from repurpose_hpc.restructure.calibration.finite import check_activations
from repurpose_hpc.restructure.calibration.probes import value_weights
from repurpose_hpc.restructure.checkpoint import Checkpoint
from repurpose_hpc.restructure.context import Log, silent
from repurpose_hpc.restructure.cut import Cut
from repurpose_hpc.restructure.driver import restructure
from repurpose_hpc.restructure.held_out import FEWEST, held_out_findings, split
from repurpose_hpc.restructure.late import with_late_weights
from repurpose_hpc.restructure.lossless import Reduction, reduce, without_seconds
from repurpose_hpc.restructure.options import AUTO, Options
from repurpose_hpc.restructure.owners.mt_kahypar import PACKAGE
from repurpose_hpc.restructure.positions import least_that_keeps, sharing_for
from repurpose_hpc.restructure.promise import BrokenPromise, Outcome, Restructure, keep_promise
from repurpose_hpc.restructure.sharing import Sharing
from repurpose_hpc.restructure.support.reserve import BudgetTooSmall
from repurpose_hpc.restructure.team import ALONE, Team

if TYPE_CHECKING:
    from mpi4py import MPI


@dataclass(frozen=True, eq=False)
class Restructured(Cut):
    """A restructured network, what is to be said of it, and what it was made from.

    Attributes:
        report: flat but for ``layers`` (docs: the report of ``restructure``), without ``shards``.
        provenance: model fingerprint, calibration hash, options, versions, findings; JSON values.
    """

    report: Mapping[str, Any]
    provenance: Mapping[str, Any]

    def save(self, directory: Path | str, dtype: type | None = None) -> None:
        """Write the plan and every worker's shard; an earlier plan in ``directory`` is replaced.

        Args:
            directory: the final place; its parent is created.
            dtype: of the weights in the shards; None: that of ``network``.

        Raises:
            UserError: no permission, no space, or ``directory`` holds something else than a plan.
        """
        real = precision(self.provenance["dtype"] if dtype is None else dtype)
        provenance = {**self.provenance, "dtype": real.name}
        write_plan(Path(directory), self.network, self.plan, provenance, real.type)


def restructure_network(
    network: Network,
    samples: Samples,
    options: Options | None = None,
    *,
    dtype: type = np.float32,
    log: Log | None = None,
    comm: MPI.Comm | None = None,
    resume: Path | str | None = None,
    refine: Refinement | None = None,
    **fields: Any,
) -> Restructured:
    """Restructure a network, with a budget or with a promise; collective over ``comm``.

    The result has the same bits for any number of ranks, as long as BLAS uses one thread in each
    (``OMP_NUM_THREADS=1``, set before NumPy is imported; the commands see to that).

    Args:
        network: trained.
        samples: calibration data, ``Samples.of(x, y)`` or ``Samples.open(path)``.
        options: how; None: the defaults, with ``fields``.
        dtype: of the restructured weights, float32 or float64: what is measured is what will run.
        log: is given one line for each step; None: nothing is said.
        comm: its ranks share the work, and all have the result; None: this process does all.
        resume: a directory that keeps finished mixings until the network is complete: an interrupted run
            goes on there; None: it begins anew.
        refine: is done to every network that was cut, before it is measured, such as
            ``tuning.refinement.FineTuning``; None: nothing.
        fields: of ``options``, instead of those that it has: ``restructure_network(net, x, workers=8)``.

    Raises:
        UserError: on every rank: something else than these arguments, or not the same ones on all ranks; a
            network of tokens; data and model do not fit, values are not finite, a promise cannot be kept, or
            decisions cannot be kept in ``resume``.
    """
    with agreed(comm):
        options = _checked_options(network, samples, options, fields)
        real = precision(dtype).type
    directory, team = None if resume is None else Path(resume), ALONE if comm is None else Team(comm)
    job = _RestructureJob(network, samples, options, real, log or silent, team, directory, refine=refine)
    result = _restructure(job)
    team.map(_forget, [directory])
    return result


def _checked_options(
    network: Network, samples: Samples, options: Options | None, fields: Mapping[str, Any]
) -> Options:
    """The options, once it is known that all arguments are what they should be."""
    arguments: list[tuple[str, object, type, str]] = [
        ("network", network, Network, "load_model(path) and from_torch(module, example) make one"),
        ("samples", samples, Samples, "Samples.of(x, y) and Samples.open(path) make them"),
    ]
    if options is not None:
        remedy = "or give its fields by name, such as workers=8"
        arguments.append(("options", options, Options, remedy))
    for name, value, kind, remedy in arguments:
        if not isinstance(value, kind):
            raise UserError(f"{name}: expected {kind.__name__}, got {type(value).__name__}; {remedy}")
    network.check_samples()
    known = declarations(Options)
    for name in fields:
        if name not in known:
            near = get_close_matches(name, known) or known
            raise UserError(f"{name}: no such option; did you mean {' or '.join(near)}?")
    if options is None and "workers" not in fields:
        raise FieldError("workers", "expected the number of parts, got none; add workers=8")
    return Options(**fields) if options is None else replace(options, **fields)


def restructure_to(
    directory: Path,
    network: Network,
    samples: Samples,
    options: Options,
    dtype: type,
    log: Log,
    team: Team = ALONE,
    measures: bool = True,
    refine: Refinement | None = None,
) -> dict[str, Any]:
    """Restructure ``network`` and write plan and shards to ``directory``; collective.

    For the arguments see ``restructure_for``.

    Returns:
        the report.

    Raises:
        UserError: see ``restructure_for``; nothing can be written.
    """
    began = time.perf_counter()
    result = restructure_for(directory, network, samples, options, dtype, log, team, measures, refine)
    written = write_restructured(directory, result, team)
    return {**written, "seconds": time.perf_counter() - began}


def restructure_for(
    directory: Path,
    network: Network,
    samples: Samples,
    options: Options,
    dtype: type,
    log: Log,
    team: Team = ALONE,
    measures: bool = True,
    refine: Refinement | None = None,
) -> Restructured:
    """Restructure ``network``, to be written to ``directory`` by ``write_restructured``; collective.

    What an interrupted run had finished is kept in ``.NAME.resume`` beside ``directory`` and used by the
    next one.

    Args:
        directory: the final place of the shards.
        network: trained.
        samples: calibration data.
        options: how.
        dtype: of the weights in the shards.
        log: is given one line for each step.
        team: shares the work; its first rank writes.
        measures: whether errors on samples that are held out are wanted, which takes as long again.
        refine: see ``restructure_network``.

    Raises:
        UserError: see ``restructure_network``; nothing could be written.
    """
    # The rank that will write looks, for all.
    team.map(check_place, [directory])
    resume = _resume(directory)
    return _restructure(
        _RestructureJob(network, samples, options, dtype, log, team, resume, measures, refine)
    )


def write_restructured(directory: Path, result: Restructured, team: Team = ALONE) -> dict[str, Any]:
    """Write plan and shards to ``directory``, and forget what was kept for a run that goes on; collective.

    Args:
        directory: of ``restructure_for``.
        result: the same on all ranks.
        team: its first rank writes.

    Returns:
        the report.

    Raises:
        UserError: nothing can be written.
    """

    def write(directory: Path) -> None:
        result.save(directory)
        _forget(_resume(directory))

    team.map(write, [directory])
    return {**result.report, "shards": str(directory)}


def _resume(directory: Path) -> Path:
    """Where finished mixings of shards for ``directory`` are kept until these are complete."""
    return directory.with_name(f".{directory.name}.resume")


class Refinement(Protocol):
    """What is done to a network that was cut."""

    @property
    def record(self) -> Mapping[str, object]:
        """What the result depends on, JSON values."""

    def __call__(self, original: Network, cut: Cut, samples: Samples) -> Network:
        """The network of the cut with other weights; ``samples`` are those that made the cut."""


@dataclass(frozen=True, eq=False)
class _RestructureJob:
    """The arguments of a restructuring, see ``restructure_network``, and what ``lossless`` found.

    With that ``network`` is what is left of the original; with ``sharing`` it is tiled.
    """

    network: Network
    samples: Samples
    options: Options
    dtype: type
    log: Log
    team: Team
    resume: Path | None
    measures: bool = True
    refine: Refinement | None = None
    reduction: Reduction | None = None
    sharing: Sharing | None = None

    @property
    def weights(self) -> int:
        """Weights of the original network."""
        return self.network.weight_count if self.reduction is None else self.reduction["original_edges"]


def _restructure(job: _RestructureJob) -> Restructured:
    """``restructure_network``, which leaves ``resume`` to its caller; collective."""
    began = time.perf_counter()
    job = replace(job, samples=_checked_samples(job))
    origin = {
        "model_fingerprint": job.network.fingerprint(),
        "calibration_sha256": job.samples.fingerprint(),
        "versions": {"repurpose_hpc": __version__, "numpy": np.__version__, **_partitioner(job.options)},
        **({} if job.refine is None else {"refined": job.refine.record}),
    }
    check_same({**origin, **asdict(job.options), "dtype": np.dtype(job.dtype).name}, job.team.comm)
    check_activations(job.network, job.samples, job.dtype, job.team)
    if job.options.lossless:
        network, reduction = reduce(job.network, job.samples, job.options, job.team, job.log)
        job = replace(job, network=network, reduction=reduction)
    job, outcome = _shared_and_cut(job, origin)
    job.log(f"comparing with the original{PENDING}")
    findings = _findings(job, outcome)
    job.samples.check_unchanged()
    provenance = {**origin, **_provenance(job, outcome, findings)}
    quality = {**findings, **held_out_findings(outcome.held_out), **outcome.findings, **_labels(job.samples)}
    report = _report(job, outcome.cut, quality, outcome.held_out)
    seconds = {"seconds": time.perf_counter() - began}
    return Restructured(outcome.cut.network, outcome.cut.plan, {**report, **seconds}, provenance)


def _partitioner(options: Options) -> dict[str, str]:
    """The version of the package that divides hypergraphs, if that is asked for and the package is there."""
    return installed([PACKAGE]) if options.by_hypergraph else {}


def _checked_samples(job: _RestructureJob) -> Samples:
    """The samples that the network takes, of those that its model takes, and what their labels mean.

    Raises:
        UserError: the model cannot take them, or weights do not fit the outputs of the network.
    """
    network = job.network
    network.ends.check(job.samples, network.input_shape)
    value_weights(network, job.options.output_weights)
    samples = understood(network, job.samples)
    if samples.meaning is not None:
        job.log(f"y of {samples.name}: {samples.meaning.line}")
    return network.ends.feed(samples, network.input_shape)


def _outcome(job: _RestructureJob, origin: Mapping[str, Any]) -> Outcome:
    """The network within its budget, or within its tolerance; collective."""

    def make(samples: Samples, options: Options, log: Log) -> Cut:
        parts = {**origin, "options": asdict(options), "samples": samples.samples, **_sharing_of(job)}
        checkpoint = None if job.resume is None else Checkpoint(job.resume, parts)
        return _refined(job, _cut(job, samples, options, log, checkpoint), samples)

    def error(cut: Cut, samples: Samples) -> float:
        return _compared(job, cut, samples).output_error

    best = with_relays_where_they_pay(make, error)
    if not job.options.promises:
        began = time.perf_counter()
        cut = best(job.samples, job.options, job.log)
        held_out = _held_out(job, best, time.perf_counter() - began)
        return Outcome(cut, job.samples, job.options, held_out)
    try:
        return keep_promise(job.network, job.samples, job.options, best, job.log, job.team)
    except BrokenPromise:
        # There is nothing to go on with.
        job.team.map(_forget, [job.resume])
        raise


def _cut(
    job: _RestructureJob, samples: Samples, options: Options, log: Log, checkpoint: Checkpoint | None
) -> Cut:
    """The network restructured, its weights as they are written: what is checked must be what is kept."""
    cut = restructure(job.network, samples, options, log, job.team, checkpoint)
    if options.late is not None:
        cut = with_late_weights(job.network, cut, options.late, samples, log, job.team)
    return Cut(cut.network.astype(job.dtype), cut.plan)


def _shared_and_cut(job: _RestructureJob, origin: Mapping[str, Any]) -> tuple[_RestructureJob, Outcome]:
    """The network, perhaps with layers shared out by position, and what is made of it; collective."""
    network, options = job.network, job.options

    def shared(sharing: Sharing) -> _RestructureJob:
        if sharing.division is None:
            return job
        return replace(job, network=sharing.of(network, options), sharing=sharing)

    def trial(candidate: Network, rest: Samples, held_out: Samples, log: Log) -> float:
        trying = replace(job, network=candidate)
        cut = _cut(trying, rest, options, silent, None)
        return _compared(trying, cut, held_out).output_error

    if options.by_position == AUTO and options.promises:
        sharing, outcome = least_that_keeps(
            network, options, lambda sharing: _outcome(shared(sharing), origin), job.log
        )
        return shared(sharing), outcome
    if options.by_position:
        job = shared(sharing_for(network, job.samples, options, trial, job.log))
    return job, _outcome(job, origin)


def _sharing_of(job: _RestructureJob) -> dict[str, Any]:
    """The layers by position under their name in the provenance; empty if there are none."""
    return {} if job.sharing is None else {"by_position": job.sharing.record()}


def _refined(job: _RestructureJob, cut: Cut, samples: Samples) -> Cut:
    """The cut that is kept; one rank makes it for all."""
    refine = job.refine
    if refine is None:
        return cut
    (network,) = job.team.map(lambda one: refine(job.network, one, samples), [cut])
    return Cut(network, cut.plan)


def _held_out(job: _RestructureJob, make: Restructure, seconds: float) -> Comparison | None:
    """Errors on held-out samples of a network that the others have made; None: not known; collective.

    With all samples it took ``seconds``.
    """
    if not job.measures or job.samples.samples < FEWEST:
        return None
    parts = split(job.samples, job.options.seed)
    job.log(
        f"held out: again with {count(parts.rest.samples, 'sample')}, to measure on the other "
        f"{parts.held_out.samples:,}{expected(seconds)}"
    )
    try:
        cut = make(parts.rest, job.options, lambda line: job.log(f"held out: {line}"))
    except BudgetTooSmall as error:  # other data decide otherwise; there is a network of all of them
        job.log(f"held out: {error}")
        return None
    return _compared(job, cut, parts.held_out)


def _compared(job: _RestructureJob, cut: Cut, samples: Samples) -> Comparison:
    """Its outputs beside those of the original; collective."""
    weights = value_weights(job.network, job.options.output_weights)
    return compare(job.network, cut.network, samples, job.team, cut.compute(), weights, cut.plan)


def _forget(resume: Path | None) -> None:
    """Remove the decisions of a run that is over."""
    if resume is not None:
        shutil.rmtree(resume, ignore_errors=True)


def _findings(job: _RestructureJob, outcome: Outcome) -> dict[str, Any]:
    """Errors and accuracies on the calibration data; collective."""
    cut, weights = outcome.cut, value_weights(job.network, job.options.output_weights)
    subject = "the restructured network"
    check_activations(cut.network, outcome.calibration, job.dtype, job.team, cut.compute(), subject)
    findings = evaluate(
        job.network, cut.network, outcome.calibration, job.team, cut.compute(), weights, cut.plan
    )
    # The bound knows of no rounding.
    return findings if cut.plan.comm_dtype == EXACT else {**findings, "bound": None}


def _provenance(job: _RestructureJob, outcome: Outcome, findings: Mapping[str, Any]) -> dict[str, Any]:
    """Options and findings as the plan file keeps them: nothing that depends on the time."""
    sizes = {} if job.reduction is None else {"lossless": without_seconds(job.reduction)}
    return {
        "weights": job.weights,
        **sizes,
        **_sharing_of(job),
        "calibration_samples": outcome.calibration.samples,
        "options": asdict(outcome.options),
        "seed": job.options.seed,
        "dtype": np.dtype(job.dtype).name,
        "calibration_findings": findings,
        "promise": outcome.provenance,
    }


def _labels(samples: Samples) -> dict[str, str]:
    """The meaning of ``y`` under the names of the report."""
    return {} if samples.meaning is None else samples.meaning.findings()


def _report(
    job: _RestructureJob, cut: Cut, findings: Mapping[str, Any], held_out: Comparison | None
) -> dict[str, Any]:
    """The report but for the time that it took."""
    return {
        **account(job.network, job.options, cut, findings, held_out),
        "weights": job.weights,
        **({} if job.reduction is None else {"lossless": dict(job.reduction)}),
        **{name: value for name, value in findings.items() if name != "relative_error"},
    }
