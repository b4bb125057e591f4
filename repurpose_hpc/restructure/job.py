"""A whole restructuring: from a network and calibration data to shards on disk and a report."""

from __future__ import annotations

import shutil
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np

from repurpose_hpc import __version__
from repurpose_hpc.io.progress import PENDING
from repurpose_hpc.io.samples import Samples, check_labels, check_shape
from repurpose_hpc.model.comm_dtype import EXACT
from repurpose_hpc.model.network import Network
from repurpose_hpc.plan.files.store import check_place, write_plan
from repurpose_hpc.restructure.calibration.evaluation import evaluate
from repurpose_hpc.restructure.checkpoint import Checkpoint
from repurpose_hpc.restructure.driver import Log, Restructured, restructure
from repurpose_hpc.restructure.options import Options
from repurpose_hpc.restructure.promise import BrokenPromise, Outcome, keep_promise
from repurpose_hpc.restructure.team import ALONE, Team


def restructure_to(
    directory: Path,
    network: Network,
    samples: Samples,
    options: Options,
    dtype: type,
    log: Log,
    team: Team = ALONE,
) -> dict:
    """Restructure ``network`` and write plan and shards to ``directory``; collective.

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

    Returns:
        the report, flat but for ``layers`` (design: commands and reports).

    Raises:
        UserError: data and model do not fit, values are not finite, a promise cannot be kept, or nothing
            can be written.
    """
    began = time.perf_counter()
    # The rank that will write looks, for all.
    team.map(check_place, [directory])
    check_shape(samples, network.input_shape)
    if samples.labels is not None:
        check_labels(samples.labels, network.outputs, samples.path)
    inputs = {
        "model_fingerprint": network.fingerprint(),
        "calibration_sha256": samples.fingerprint(),
        "versions": {"repurpose_hpc": __version__, "numpy": np.__version__},
    }
    resume = directory.with_name(f".{directory.name}.resume")

    def forget(resume: Path) -> None:
        shutil.rmtree(resume, ignore_errors=True)

    def make(samples: Samples, options: Options, log: Log) -> Restructured:
        checkpoint = Checkpoint(resume, {**inputs, "options": asdict(options), "samples": samples.samples})
        result = restructure(network, samples, options, log, team, checkpoint)
        # With the weights as they are written: what is checked must be what is kept.
        return Restructured(result.network.astype(dtype), result.plan)

    if options.promises:
        try:
            outcome = keep_promise(network, samples, options, make, log, team)
        except BrokenPromise:
            # There is nothing to go on with.
            team.map(forget, [resume])
            raise
    else:
        outcome = Outcome(make(samples, options, log), samples, options)
    result = outcome.restructured
    log(f"comparing with the original{PENDING}")
    findings = evaluate(network, result.network, outcome.calibration, team, result.compute())
    if options.comm_dtype != EXACT:
        findings["bound"] = None  # It knows of no rounding.
    provenance = {
        **inputs,
        "weights": network.weight_count,
        "calibration_samples": outcome.calibration.samples,
        "options": asdict(outcome.options),
        "seed": options.seed,
        "dtype": np.dtype(dtype).name,
        "calibration_findings": findings,
        "promise": outcome.provenance,
    }

    def write(directory: Path) -> None:
        write_plan(directory, result.network, result.plan, provenance, dtype)
        forget(resume)

    team.map(write, [directory])
    findings |= outcome.findings
    return _report(network, result, options, findings, directory, time.perf_counter() - began)


def _report(
    network: Network,
    result: Restructured,
    options: Options,
    findings: dict,
    directory: Path,
    seconds: float,
) -> dict:
    plan = result.plan
    held = plan.weights_held(result.network)
    traffic = sum(plan.traffic(network, mixing) for mixing in network.mixings)
    relative_error = findings["relative_error"]
    layers = [
        {
            "name": mixing.name,
            "form": plan.mixings[mixing.name].form,
            "inputs": mixing.weights.shape[1],
            "outputs": mixing.weights.shape[0],
            "values_sent": plan.values_sent(network, mixing),
            "dense_values": plan.dense_values(network, mixing),
            "relative_error": relative_error[mixing.name],
        }
        for mixing in network.mixings
    ]
    sent = sum(layer["values_sent"] for layer in layers)
    dense = sum(layer["dense_values"] for layer in layers)
    return {
        "workers": plan.workers,
        "input_placement": plan.input_placement,
        "values_sent": sent,
        "dense_values": dense,
        "comm_fraction": sent / dense if dense else 0.0,
        "comm_dtype": plan.wire,
        "bytes_per_sample": plan.bytes_sent(network, plan.wire),
        "weights": network.weight_count,
        "weights_kept": result.network.weight_count,
        "weights_of_workers": held.tolist(),
        **({} if options.link_costs is None else {"link_cost": float((traffic * options.link_costs).sum())}),
        "layers": layers,
        **{name: value for name, value in findings.items() if name != "relative_error"},
        "seconds": seconds,
        "shards": str(directory),
    }
