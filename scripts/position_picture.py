"""A picture of a plan with layers by position and by channel: who has what of every map, and what is sent.

    python scripts/position_picture.py MODEL SHARDS --out docs/results/positions.svg

MODEL is what SHARDS were made from.  A square is the map that a layer makes: rectangles are tiles of one
worker, with all channels; stripes are channels of one worker, with all positions.  Below is what the layer is
sent for it, halos and maps that are brought together among it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle as Patch

from repurpose_hpc.model.importers.load import load_model
from repurpose_hpc.model.network import Network
from repurpose_hpc.model.operations import Mixing
from repurpose_hpc.model.tiles import Division, tiles_of
from repurpose_hpc.plan.files.origin import as_it_was_cut
from repurpose_hpc.plan.files.store import StoredPlan, open_plan

WORKER_COLORS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#bbbbbb", "#000000")


def main() -> None:
    """Draw it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("shards", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    network, stored = load_model(args.model, check=False), open_plan(args.shards)
    # The same file for the same plan.
    matplotlib.rcParams["svg.hashsalt"] = "positions"
    layers = [mixing for mixing in network.mixings if not mixing.fixed]
    figure, (maps, bars) = pyplot.subplots(
        2, 1, figsize=(0.75 * len(layers), 3.2), sharex=True, height_ratios=(0.68, 1), layout="constrained"
    )
    cut = as_it_was_cut(stored, network)
    _draw_maps(maps, network, cut, stored, layers)
    _draw_values(bars, cut, stored, layers)
    figure.savefig(args.out, metadata={"Date": None} if args.out.suffix == ".svg" else {})


def _draw_maps(axes: Axes, network: Network, cut: Network, stored: StoredPlan, layers: list[Mixing]) -> None:
    """A square for each layer, of the workers' colours."""
    record = stored.provenance["by_position"]
    tiles = tiles_of(network, record["layers"], Division.of(record["division"]), record["repeated"])
    for place, mixing in enumerate(layers):
        if mixing.target in tiles:
            height, width = network.positions_of[mixing.target]
            for worker, tile in enumerate(tiles.own[mixing.target]):
                if tile is not None:
                    (top, bottom), (left, right) = tile
                    corner = left / width, 1 - bottom / height
                    _draw_part(axes, place, worker, corner, ((right - left) / width, (bottom - top) / height))
        else:
            owners = stored.plan.owners[cut.space_of[mixing.target]]
            shares = np.bincount(owners, minlength=stored.plan.workers) / owners.size
            for worker, end in enumerate(np.cumsum(shares)):
                corner = 0, 1 - end
                _draw_part(axes, place, worker, corner, (1, shares[worker]))
    axes.set(xlim=(-0.5, len(layers) - 0.5), ylim=(-0.5, 0.5))
    axes.axis("off")
    by_position = sum(mixing.target in tiles for mixing in layers)
    axes.set_title(f"{by_position} layers by position, {len(layers) - by_position} by channel", fontsize=10)


def _draw_part(
    axes: Axes, place: int, worker: int, corner: tuple[float, float], size: tuple[float, float]
) -> None:
    """A part of the square of a layer; ``corner`` and ``size`` are relative to it."""
    side = 0.8
    first = place - side / 2 + side * corner[0], side * (corner[1] - 0.5)
    color = WORKER_COLORS[worker % len(WORKER_COLORS)]
    patch = Patch(first, side * size[0], side * size[1], facecolor=color, edgecolor="white", linewidth=0.8)
    axes.add_patch(patch)


def _draw_values(axes: Axes, cut: Network, stored: StoredPlan, layers: list[Mixing]) -> None:
    """A bar for each layer: values that it is sent for a sample."""
    makers = {relays: mixing for mixing, relays in stored.plan.relays.items()}
    sent = {mixing.name: 0 for mixing in layers}
    for name, traffic in stored.traffic.items():
        layer = cut.layer_of(makers.get(name, name))
        # What is summed up between layers, such as means, is for the last.
        sent[layer if layer in sent else layers[-1].name] += int(traffic.sum())
    axes.bar(range(len(layers)), list(sent.values()), 0.8, color="#555555")
    axes.set_xticks(range(len(layers)), map(_shape, layers), rotation=45, ha="right", fontsize=8)
    axes.set_ylabel("values sent for a sample", fontsize=8)
    axes.tick_params(axis="y", labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)


def _shape(mixing: Mixing) -> str:
    """Channels, and positions of a map, that a layer makes."""
    out = () if mixing.window is None else mixing.window.out
    return " × ".join(map(str, (len(mixing.bias), *out)))


if __name__ == "__main__":
    main()
