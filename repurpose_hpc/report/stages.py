"""Which stages there are, and why ``restructure --stages auto`` chose so many."""

from __future__ import annotations

from collections.abc import Sequence

from repurpose_hpc.report.choice import Lines
from repurpose_hpc.report.schema import RestructureReport, StageLayers, StagingPoint


def stage_lines(r: RestructureReport) -> Lines:
    """The lines; none of one stage that was asked for."""
    stages = r.get("stages", [])
    lines = [("stages", stages_in_words(stages))] if stages else []
    if "staging" not in r:
        return lines
    staging = r["staging"]
    points = ", ".join(map(_point, staging["points"]))
    most = f"most samples a second by the forecast for {staging['machine']}"
    return [
        *(lines or [("stages", "1")]),
        ("  because", f"{most}; batches of {staging['batch_size']:,}: {points}"),
    ]


def stages_in_words(stages: Sequence[StageLayers]) -> str:
    """Which workers share which layers."""
    return "; ".join(map(_stage, stages))


def _stage(stage: StageLayers) -> str:
    layers, workers = stage["layers"], stage["workers"]
    names = layers[0] if len(layers) == 1 else f"{layers[0]} to {layers[-1]}"
    numbers = f"{workers[0]}" if len(workers) == 1 else f"{workers[0]} to {workers[-1]}"
    return f"{names} on worker{'s' * (len(workers) > 1)} {numbers}"


def _point(point: StagingPoint) -> str:
    return (
        f"{point['stages']} in {point['period_us']:,.0f} µs, one alone {point['forecast_us']:,.0f}, error "
        f"{point['output_error']:.4f}"
    )
