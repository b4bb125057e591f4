"""What ``restructure --workers auto`` chose, why, and how to run it, in three lines."""

from __future__ import annotations

from repurpose_hpc.fields import count, shown
from repurpose_hpc.report.schema import Choice, ChoicePoint, RestructureReport

Lines = list[tuple[str, str]]
"""Names, and what there is to say of each."""


def choice_lines(r: RestructureReport) -> Lines:
    """The lines; none if the number of workers was given."""
    if "choice" not in r:
        return []
    choice = r["choice"]
    workers, most = choice["workers"], choice["ranks_at_most"]
    time = f"{choice['forecast_us']:,.0f} µs for a batch of {choice['batch_size']:,} on {choice['machine']}"
    beside = f", one process {choice['single_process_us']:,.0f} µs" if workers > 1 else ""
    return [
        ("chosen", f"{count(workers, 'worker')} of at most {most}; forecast {time}{beside}"),
        ("  because", _reason(choice)),
        ("  run", _how_to_run(choice, r["part_weights"], r["shards"])),
    ]


def _reason(choice: Choice) -> str:
    workers = choice["workers"]
    others = [point for point in choice["points"] if point["workers"] not in (1, workers)]
    if workers == 1:
        reason = "no more are enough faster than one process"
    elif min(point["forecast_us"] for point in choice["points"]) < choice["forecast_us"]:
        reason = "these are the fewest that are about as fast as the fastest"
    else:
        reason = "these are the fastest"
    return f"{reason}; {', '.join(map(_time, others)) or 'there are no others'}"


def _time(point: ChoicePoint) -> str:
    return f"{point['workers']:,} take {point['forecast_us']:,.0f} µs"


def _how_to_run(choice: Choice, part_weights: list[float], shards: str) -> str:
    """The command that runs the workers, and their places."""
    workers, files = choice["workers"], f"--shards {shards} --input DATA"
    batch = f"--batch-size {choice['batch_size']}"
    if workers == 1:
        return f"repurpose-hpc infer {files} {batch}"
    command = f"mpirun -n {workers} repurpose-hpc infer {files} {batch} --exchange auto"
    even = len({*part_weights}) == 1
    places = [
        "equal shares" if even else f"shares {shown(part_weights)}",
        f"{choice['workers_per_node']} on a node",
        *([f"without rank {shown(choice['left_out'])} of probe, slower"] if choice["left_out"] else []),
    ]
    return f"{command}; {', '.join(places)}"
