"""The report of a run: one dictionary, printed as a summary and written as JSON.

Keys of ``infer``.  Of the job: ``ranks``, ``workers``, ``samples``, ``batch_size``, ``dtype``, ``wire``,
``weights_dtype``, ``exchange``, ``micro_batches``, ``input_placement``, ``threads_per_rank``,
``blas_threads`` (what the environment says), ``shards``, ``cached``, ``output``.
With ``--exchange auto``: ``exchange_us``, the latency by way.

Communication between ranks, counted from what was sent: ``values_sent`` and
``bytes_sent`` (per sample), ``messages`` (per forward of a batch), ``dense_values`` (per sample,
the same network on the same ranks with nothing pruned), ``comm_fraction``.  With ``--exchange sparse``:
``sent_bytes_per_sample``, what was left of ``bytes_sent`` without zeros, the mean over the samples streamed.

Weights: ``weights`` (of the dense network), ``weights_kept``, ``load`` (weights of each rank),
``load_share``, ``formats`` (layer -> blocks per format).

With labels: ``accuracy``, and ``reference_accuracy`` of the network before restructuring where that is
known.  With ``--verify``: ``max_abs_difference``, ``relative_difference``.  With ``--certify``:
``certified``, the share of samples whose class provably is that of the original network.

Unless ``--repeat 0``, for the first batch: ``latency_us`` {median, p10, p90}, ``phases_us`` (medians
on the slowest rank), ``single_process_latency_us``, ``speedup`` (below 1: one process is faster).

Of the whole run: ``throughput`` (samples per second), ``seconds`` by phase, the maximum over
the ranks; among them ``import`` (from the start of the process until MPI and all modules are there) and
``jit``.  With ``--resume``: ``resumed_samples``, which an earlier run had finished.

What it asked for, the maximum over the ranks: ``first_result_seconds``, from the start of the process to the
end of its first forward, imports and JIT included; ``peak_memory_mib``, resident.  The root needs memory
for the whole network, unless ``--repeat 0`` and neither ``--verify`` nor ``--certify`` ask for it.
"""

from __future__ import annotations

import json
from pathlib import Path

from repurpose_hpc.io.atomic import write_text


def write(path: Path, result: dict) -> None:
    """Write ``result`` as JSON; ``path`` appears when it is complete.

    Raises:
        UserError: it cannot be written.
    """
    write_text(path, json.dumps(result, indent=2) + "\n")


def render(result: dict) -> str:
    """The summary for people, several lines."""
    sections = (_job, _quality, _communication, _weights, _latency, _seconds)
    lines = [line for section in sections for line in section(result)]
    width = max(len(name) for name, _ in lines)
    return "\n".join(f"{name:<{width}}  {text}" for name, text in lines)


Lines = list[tuple[str, str]]


def _job(r: dict) -> Lines:
    lines = [
        ("ranks", f"{r['ranks']}{_threads(r)}, {r['workers']} workers"),
        (
            "samples",
            f"{r['samples']} in batches of {_batch(r)}, {r['dtype']}{_formats(r)}{_resumed(r)}",
        ),
        ("input", r["input_placement"]),
        ("exchange", _exchange(r)),
        ("shards", f"{r['shards']}{' (from the cache)' if r['cached'] else ''}"),
    ]
    return [*lines, ("output", r["output"])] if r["output"] else lines


def _exchange(r: dict) -> str:
    """The way taken, and what was measured of all if it was chosen by that."""
    tried = ", ".join(f"{way} {us:.0f}" for way, us in r.get("exchange_us", {}).items())
    return r["exchange"] + (f", the fastest; microseconds: {tried}" if tried else "")


def _threads(r: dict) -> str:
    if r["threads_per_rank"] > 1:
        return f" with {r['threads_per_rank']} threads each"
    return f" (BLAS threads per rank: {r['blas_threads']})"


def _batch(r: dict) -> str:
    parts = f" in {r['micro_batches']} parts" if r["micro_batches"] > 1 else ""
    return f"{r['batch_size']}{parts}"


def _formats(r: dict) -> str:
    """How weights are kept and ghosts travel."""
    return f", weights {r['weights_dtype']}, wire {r['wire']}"


def _resumed(r: dict) -> str:
    return f"; {r['resumed_samples']} of them from an earlier run" if r.get("resumed_samples") else ""


def _quality(r: dict) -> Lines:
    lines = []
    if "accuracy" in r:
        original = f", original {r['reference_accuracy']:.4f}" if "reference_accuracy" in r else ""
        lines.append(("accuracy", f"restructured {r['accuracy']:.4f}{original}"))
    if "max_abs_difference" in r:
        text = f"largest difference {r['max_abs_difference']:.2e}, relative {r['relative_difference']:.2e}"
        lines.append(("verified", f"{text}, against the float64 reference of the same weights"))
    if "certified" in r:
        lines.append(("certified", f"{r['certified']:.2%} of the samples provably keep the original's class"))
    return lines


def _communication(r: dict) -> Lines:
    sent, dense = r["values_sent"], r["dense_values"]
    return [
        ("values sent", f"{sent:,} per sample of {dense:,} dense ({r['comm_fraction']:.2%})"),
        ("messages", f"{r['messages']} per batch, {r['bytes_sent']:,} bytes per sample{_without_zeros(r)}"),
    ]


def _without_zeros(r: dict) -> str:
    if "sent_bytes_per_sample" not in r:
        return ""
    return f"; without zeros {r['sent_bytes_per_sample']:,.0f} on average"


def _weights(r: dict) -> Lines:
    kept = r["weights_kept"] / r["weights"]
    shares = " ".join(f"{share:.1%}" for share in r["load_share"])
    formats = "; ".join(
        f"{layer}: " + ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))
        for layer, counts in r["formats"].items()
    )
    return [
        ("weights kept", f"{r['weights_kept']:,} of {r['weights']:,} ({kept:.1%})"),
        ("load per rank", shares),
        ("blocks", formats),
    ]


def _latency(r: dict) -> Lines:
    if "latency_us" not in r:
        return []
    phases = ", ".join(f"{phase} {us:,.0f}" for phase, us in r["phases_us"].items())
    return [
        ("latency", f"{_spread(r['latency_us'])} per batch of {r['batch_size']}"),
        ("  split", f"{phases} us (medians on the slowest rank)"),
        ("single process", f"{_spread(r['single_process_latency_us'])}: {_verdict(r)}"),
    ]


def _seconds(r: dict) -> Lines:
    seconds = ", ".join(f"{phase} {value:.2f}" for phase, value in r["seconds"].items())
    return [*_start(r), ("throughput", f"{r['throughput']:,.0f} samples/s"), ("seconds", seconds)]


def _start(r: dict) -> Lines:
    """The way to the first result, and the memory."""
    lines = [("peak memory", f"{r['peak_memory_mib']:,.0f} MiB on the rank that needed most")]
    if "first_result_seconds" not in r:
        return lines
    imports, jit = (r["seconds"][phase] for phase in ("import", "jit"))
    text = f"{r['first_result_seconds']:.2f} s after the start (imports {imports:.2f}, JIT {jit:.2f})"
    return [("first result", text), *lines]


def _spread(us: dict[str, float]) -> str:
    return f"{us['median']:,.0f} us median ({us['p10']:,.0f} to {us['p90']:,.0f}, 10th to 90th percentile)"


def _verdict(r: dict) -> str:
    if r["ranks"] == 1:
        return "the run is a single process"
    if r["speedup"] >= 1:
        return f"{r['ranks']} ranks are {r['speedup']:.2f} times faster"
    return f"ONE PROCESS IS FASTER, {1 / r['speedup']:.2f} times, than {r['ranks']} ranks"
