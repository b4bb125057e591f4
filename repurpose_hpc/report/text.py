"""Reports for people, and as JSON for scripts; ``report.schema`` says what is in them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast

from repurpose_hpc.fields import count, flag, shown
from repurpose_hpc.io.atomic import write_text
from repurpose_hpc.io.invocation import signed
from repurpose_hpc.io.speech import tell
from repurpose_hpc.report.choice import Lines, choice_lines
from repurpose_hpc.report.schema import InferReport, Percentiles, RestructureReport
from repurpose_hpc.report.stages import stage_lines

# Ranks that compute unevenly are worth a line above this; less than so many seconds each say little.
NOTABLE_IMBALANCE, LEAST_COMPUTED = 1.15, 0.1


def write(path: Path, result: Mapping[str, object]) -> None:
    """Write ``result`` as JSON, and the command line; ``path`` appears when it is complete.

    Raises:
        UserError: it cannot be written.
    """
    write_text(path, json.dumps(signed(result), indent=2) + "\n")


def deliver(result: Mapping[str, object], text: str, path: Path | None) -> None:
    """Write a report to ``path``, if there is one, and then print it, in the form that the command speaks.

    In this order, since a reader of the output who leaves may end a whole job.

    Args:
        result: for scripts.
        text: the same for people.
        path: of the JSON file; None: it is only printed.

    Raises:
        UserError: it cannot be written.
    """
    if path is not None:
        write(path, result)
    tell(signed(result), text)


def render(result: Mapping[str, Any]) -> str:
    """The report of ``infer`` for people, several lines."""
    # What people look for first.
    sections = (_quality, _latency, _communication, _job, _weights, _seconds)
    report = cast(InferReport, result)
    return aligned(line for section in sections for line in section(report))


def aligned(lines: Iterable[tuple[str, str]]) -> str:
    """Names and what there is to say of each, in two columns."""
    lines = list(lines)
    width = max(len(name) for name, _ in lines)
    return "\n".join(f"{name:<{width}}  {text}" for name, text in lines)


def size(number: float) -> str:
    """Bytes as people read them, such as ``304 bytes`` and ``1.86 kB``."""
    if number < 1000:
        return count(round(number), "byte")
    return f"{number / 1e3:,.3g} kB" if number < 1e6 else f"{number / 1e6:,.3g} MB"


def _job(r: InferReport) -> Lines:
    lines = [
        ("ranks", f"{r['ranks']}{_groups(r)}{_threads(r)}, {count(r['workers'], 'worker')}"),
        (
            "samples",
            f"{r['samples']:,} in batches of {_batch(r)}, {r['dtype']}{_formats(r)}{_resumed(r)}",
        ),
        *_signal(r),
        ("input", r["input_placement"]),
        ("exchange", _exchange(r)),
        *_same_bits(r),
        ("shards", f"{r['shards']}{' (from the cache)' if r['cached'] else ''}"),
    ]
    return [*lines, ("output", r["output"])] if r["output"] else lines


def _same_bits(r: InferReport) -> Lines:
    if not r["deterministic"]:
        return []
    return [("deterministic", "same bits for any ranks, batch size, exchange, parts and threads")]


def _exchange(r: InferReport) -> str:
    """The transport, and the times of all transports if it was chosen by them."""
    tried = ", ".join(f"{name} {us:.0f}" for name, us in r.get("exchange_us", {}).items())
    return r["exchange"] + (f", the fastest; {tried} µs" if tried else "")


def _groups(r: InferReport) -> str:
    return f" in {r['groups']} groups, which share the samples," if r["groups"] > 1 else ""


def _threads(r: InferReport) -> str:
    if r["threads_per_rank"] > 1:
        return f" with {r['threads_per_rank']} threads each"
    return f" (BLAS threads per rank: {r['blas_threads']})"


def _batch(r: InferReport) -> str:
    parts = f" in {r['micro_batches']} parts" if r["micro_batches"] > 1 else ""
    return f"{r['batch_size']:,}{parts}"


def _formats(r: InferReport) -> str:
    """Formats of weights in memory and of ghosts on their way."""
    return f", weights {r['weights_dtype']}, comm dtype {r['comm_dtype']}"


def _resumed(r: InferReport) -> str:
    return f"; {r['resumed_samples']:,} of them from an earlier run" if r.get("resumed_samples") else ""


def _quality(r: InferReport) -> Lines:
    lines = [(name, f"{text}, on the input") for name, text in _against_labels(r)]
    if "labels" in r:
        lines.append(("labels y", f"{r['labels']}: {r['labels_note']}"))
    if "max_abs_difference" in r:
        text = f"largest difference {r['max_abs_difference']:.2e}, relative {r['relative_difference']:.2e}"
        lines.append(("verified", f"{text}, against the float64 reference of the same weights"))
    if "certified" in r:
        lines.append(("certified", f"{r['certified']:.2%} of the samples provably keep the original's class"))
    return [*lines, *(("import", text) for text in import_summary(r))]


def _communication(r: InferReport) -> Lines:
    values, dense = r["values_sent"], r["dense_values"]
    return [
        ("values sent", f"{values:,} per sample of {dense:,} dense ({r['comm_fraction']:.2%}), {_rounds(r)}"),
        *_sweeps(r),
        ("messages", f"{r['messages']:,} per batch, {size(r['bytes_sent'])} per sample{_without_zeros(r)}"),
    ]


def _signal(r: InferReport) -> Lines:
    if "signal" not in r:
        return []
    positions, outputs, piece, advance = (
        r["signal"][key] for key in ("positions", "outputs", "piece", "advance")
    )
    text = f"{positions:,} positions, {outputs:,} outputs; pieces of {piece:,}, one every {advance:,}"
    return [("signal", text)]


def _sweeps(r: InferReport) -> Lines:
    if "sweeps_exact" not in r:
        return _late(r)
    done, exact = r["sweeps"], r["sweeps_exact"]
    what = "exact" if done >= exact else f"an approximation, exact with {exact}"
    return [("sweeps", f"{done} with late exchanges: {what}")]


def _late(r: InferReport | RestructureReport) -> Lines:
    """The sweeps to which weights were adjusted."""
    return (
        [("sweeps", f"{r['sweeps']} with late exchanges, each with weights of its own")]
        if "sweeps" in r
        else []
    )


def _rounds(r: InferReport | RestructureReport) -> str:
    return f"in {count(r['rounds'], 'round')}"


def _without_zeros(r: InferReport) -> str:
    if "sent_bytes_per_sample" not in r:
        return ""
    return f"; without zeros {size(r['sent_bytes_per_sample'])} on average"


def _weights(r: InferReport) -> Lines:
    share_kept = r["weights_kept"] / r["weights"]
    shares = " ".join(f"{share:.1%}" for share in r["load_share"])
    formats = "; ".join(
        f"{layer}: " + ", ".join(f"{blocks:,} {name}" for name, blocks in sorted(counts.items()))
        for layer, counts in r["formats"].items()
    )
    return [
        ("weights kept", f"{r['weights_kept']:,} of {r['weights']:,} ({share_kept:.1%})"),
        ("load per rank", shares),
        *_imbalance(r),
        ("blocks", formats),
    ]


def _imbalance(r: InferReport) -> Lines:
    """How unevenly the ranks computed, and what to do, where that is worth a line."""
    seconds = r.get("compute_seconds", [0.0])
    if sum(seconds) < LEAST_COMPUTED * len(seconds) or r["compute_imbalance"] <= NOTABLE_IMBALANCE:
        return []
    remedy = f"{flag('part_weights')} {shown(r['suggested_part_weights'])}"
    busiest = seconds.index(max(seconds))
    text = f"rank {busiest} computed {r['compute_imbalance']:.2f} times as long as the mean of all"
    # Other programs on a core show in waiting as well, which no run can tell from waiting for others.
    shared = f"where others share the cores, probe and take {flag('part_weights')} auto"
    return [("imbalance", f"{text}; by this run {remedy} would even that out; {shared}")]


def _latency(r: InferReport) -> Lines:
    throughput = ("throughput", f"{r['throughput']:,.0f} samples/s")
    if "latency_us" not in r:
        return [throughput]
    phases = ", ".join(f"{phase} {us:,.0f}" for phase, us in r["phases_us"].items())
    return [
        ("latency", f"{_spread(r['latency_us'])} per batch of {r['batch_size']:,}"),
        ("  split", f"{phases} µs (medians on the slowest rank)"),
        ("single process", f"{_spread(r['single_process_latency_us'])}: {_verdict(r)}"),
        *_forecast(r),
        throughput,
    ]


def _forecast(r: InferReport) -> Lines:
    """How far the forecast was off by which the number of workers was chosen."""
    if "forecast_error" not in r:
        return []
    measured = r["latency_us"]["median"]
    return [
        ("forecast", f"{r['forecast_us']:,.0f} µs, measured {measured:,.0f} µs ({r['forecast_error']:+.0%})")
    ]


def _seconds(r: InferReport) -> Lines:
    seconds = ", ".join(f"{phase} {value:.2f}" for phase, value in r["seconds"].items())
    return [*_start(r), ("time", f"{seconds} s")]


def _start(r: InferReport) -> Lines:
    """Times to the first result, and the memory."""
    lines = [("peak memory", f"{r['peak_memory_mib']:,.0f} MiB on the rank that needed most")]
    if "first_result_seconds" not in r:
        return lines
    imports, jit = (r["seconds"][phase] for phase in ("import", "jit"))
    text = f"{r['first_result_seconds']:.2f} s after the start (imports {imports:.2f}, JIT {jit:.2f})"
    return [("first result", text), *lines]


def _spread(us: Percentiles) -> str:
    return f"{us['median']:,.0f} µs median ({us['p10']:,.0f} to {us['p90']:,.0f}, 10th to 90th percentile)"


def _verdict(r: InferReport) -> str:
    ranks = r["ranks"] // r["groups"]
    of_group = " of a group" if r["groups"] > 1 else ""
    if ranks == 1:
        return f"the run{of_group} is a single process"
    alone = " with a batch that is alone, which stages are not for" if "stages" in r else ""
    if r["speedup"] >= 1:
        return f"{ranks} ranks{of_group} are {r['speedup']:.2f} times faster{alone}"
    return f"ONE PROCESS IS FASTER, {1 / r['speedup']:.2f} times, than {ranks} ranks{of_group}{alone}"


def render_restructured(result: Mapping[str, Any]) -> str:
    """The report of ``restructure`` for people, several lines."""
    report = cast(RestructureReport, result)
    sections = (
        choice_lines,
        _measured,
        _promise_summary,
        _sent,
        _kept,
        stage_lines,
        _lossless,
        _output_errors,
    )
    lines = [line for section in sections for line in section(report)]
    lines += [("import", text) for text in import_summary(report)]
    lines += [("time", f"{report['seconds']:.1f} s"), ("shards", report["shards"])]
    warnings = [f"warning: {warning}" for warning in report.get("warnings", [])]
    return "\n".join([aligned(lines), "", *_layers(report), *warnings])


def _layers(r: RestructureReport) -> list[str]:
    """A line for each mixing."""
    width = max(len(layer["name"]) for layer in r["layers"])
    return [
        "layers, with relative errors on the calibration data:",
        *(
            f"{layer['name']:<{width}} {layer['inputs']:>6} -> {layer['outputs']:<6} {layer['form']:<8}"
            f"{layer['values_sent']:>8,} of {layer['dense_values']:>9,} values sent, "
            f"relative error {layer['relative_error']:.4f}"
            for layer in r["layers"]
        ),
    ]


def _sent(r: RestructureReport) -> Lines:
    values, dense = r["values_sent"], r["dense_values"]
    lines = [
        ("values sent", f"{values:,} per sample of {dense:,} dense ({r['comm_fraction']:.2%}), {_rounds(r)}"),
        ("bytes sent", f"{size(r['bytes_per_sample'])} per sample, comm dtype {r['comm_dtype']}"),
    ]
    lines += _late(r)
    if "link_cost" in r:
        lines.append(("link cost", f"{r['link_cost']:,.1f} per sample"))
    return lines


def _kept(r: RestructureReport) -> Lines:
    of_workers = " ".join(f"{weights:,}" for weights in r["weights_of_workers"])
    share = r["weights_kept"] / r["weights"]
    return [
        ("workers", f"{r['workers']}, input {r['input_placement']}"),
        ("weights kept", f"{r['weights_kept']:,} of {r['weights']:,} ({share:.1%}); by worker {of_workers}"),
        (
            "computation",
            f"the busiest worker does {r['compute_fraction']:.1%} of its share of the dense network's",
        ),
    ]


def _lossless(r: RestructureReport) -> Lines:
    if "lossless" not in r:
        return []
    found = r["lossless"]
    text = (
        f"{found['neurons']:,} of {found['original_neurons']:,} neurons, {found['edges']:,} of "
        f"{found['original_edges']:,} edges and {found['dense_values']:,} of "
        f"{found['original_dense_values']:,} dense values are left, in {found['seconds']:.1f} s; "
        f"outputs differ by {found['difference']:.1e}"
    )
    return [("lossless", text)]


def _output_errors(r: RestructureReport) -> Lines:
    """Errors of outputs and of columns, where there are several that are not just classes."""
    is_classifier = len(r["outputs"]) == 1 and r.get("labels") == "classes"
    if is_classifier or sum(output["columns"] for output in r["outputs"]) == 1:
        return []
    lines = []
    for output in r["outputs"]:
        columns = " ".join(f"{error:.4f}" for error in output.get("column_errors", []))
        split = f"; of its columns: {columns}" if columns and output["columns"] > 1 else ""
        lines.append(
            (f"output {output['name']}", f"error on the calibration data {output['error']:.4f}{split}")
        )
    return lines


def _measured(r: RestructureReport) -> Lines:
    """Errors on what was held out of the calibration data, which tell what to expect, and on these."""
    bound = "no bound" if r["bound"] is None else f"bound {r['bound']:.4g}"
    lines = [("calibration", f"output error {r['output_error']:.4f} ({bound}){_details(r)}")]
    if "labels" in r:
        lines.append(("labels y", f"{r['labels']}: {r['labels_note']}"))
    if not r["held_out_samples"]:
        return [("held out", "not known: too few samples, to hold out or to make a network"), *lines]
    # Under their names on the calibration data.
    held_out = {
        name.removesuffix("_held_out"): value for name, value in r.items() if name.endswith("_held_out")
    }
    found = cast(RestructureReport, {**held_out, "outputs": r["outputs"]})
    about = "" if "trials" in r else ", with a network made from the others"
    text = f"output error {found['output_error']:.4f}{_details(found)}; on {r['held_out_samples']:,} samples"
    return [("held out", f"{text}{about}"), *lines]


def _details(r: RestructureReport) -> str:
    """Qualities beside the error of the outputs."""
    may_be_classes = len(r["outputs"]) == 1 and r["outputs"][0]["columns"] > 1 and "rmse" not in r
    parts = [f"same class for {r['agreement']:.2%}"] if may_be_classes or "accuracy" in r else []
    parts += [f"{name} {text}" for name, text in _against_labels(r)]
    return "".join(f", {part}" for part in parts)


def _against_labels(r: InferReport | RestructureReport) -> Lines:
    """The agreement with y, of the restructured and of the original network."""
    lines = []
    for key, name in (("accuracy", "accuracy"), ("rmse", "root mean square error"), ("r2", "R²")):
        if key in r:
            found, original = r.get(key), r.get(f"reference_{key}")
            reference = f", original {_number(original)}" if f"reference_{key}" in r else ""
            lines.append((name, f"restructured {_number(found)}{reference}{_points(key, found, original)}"))
    return lines


def _points(key: str, found: Any, original: Any) -> str:
    """`` (-0.13 points)`` of two accuracies; "": they are no shares, or one is not known."""
    return "" if key != "accuracy" or original is None else f" ({100 * (found - original):+.2f} points)"


def _number(value: Any) -> str:
    """Four digits of a share; of another number, which may have any size, four that count."""
    if value is None:
        return "not known"
    return f"{value:.4f}" if 0 <= value <= 1 and value >= 1e-3 else f"{value:.4g}"


def import_summary(report: Mapping[str, Any]) -> list[str]:
    """A line on how the import was checked; none if it was not tried."""
    if "import_check" not in report:
        return []
    from repurpose_hpc.model.importers.opinion import ImportCheck

    return [str(ImportCheck(**report["import_check"]))]


def _promise_summary(r: RestructureReport) -> Lines:
    if "trials" not in r:
        return []
    lines = []
    if "accuracy_drop" in r:
        drop, bound = (f"{r[key]:.2f} points" for key in ("accuracy_drop", "accuracy_drop_bound"))
        lines.append(("accuracy drop", f"on the held-out samples {drop} (95 % confidence: at most {bound})"))
    if "modelled_us" not in r:
        of_trials = f"the smallest of {r['trials']} tried that was enough on the held-out samples"
        return [*lines, ("budget", f"{r['comm_budget']:.4g}, {of_trials}")]
    lines.append(("modelled time", f"{r['modelled_us']:,.1f} µs for a sample on {r['machine']}{_beside(r)}"))
    budgets = f"{r['comm_budget']:.4g}, compute budget {r['compute_budget']:.4g}"
    of_trials = f"the fastest of {r['trials']} tried that were enough on the held-out samples"
    return [*lines, ("budget", f"{budgets}, {of_trials}")]


def _beside(r: RestructureReport) -> str:
    dense, single = (f"{r[key]:,.1f} µs" for key in ("modelled_dense_us", "modelled_single_process_us"))
    return f"; dense {dense}, one process {single}"
