"""The interdependency mask of every layer, before and after."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from repurpose_hpc.plan.masks import EVERYBODY
from repurpose_hpc.report.pictures import style
from repurpose_hpc.report.pictures.picture import Chapter, Numbers, Picture, pictures_of
from repurpose_hpc.report.shards import Mask, ShardContents, SortedNeurons, between
from repurpose_hpc.report.sources import SHARDS
from repurpose_hpc.report.words import percent

# Layers that are drawn: those that send most, as a page of more is too large to read.
MOST_LAYERS = 40
# Of the colour, in a cell with a single link.
_FAINTEST = 0.4
# Lines between workers are drawn for no more than so many; of more they would hide the mask.
_MOST_LINES = 32
_INSIDE, _BETWEEN = style.BLUE, style.ORANGE


@pictures_of(Chapter.MASKS, SHARDS)
def masks(shards: ShardContents) -> Iterator[Picture]:
    """A picture of each layer, or of those that send most."""
    values = {layer.name: layer.values for layer in shards.layers}
    trained = [mask for mask in shards.masks if not mask.is_fixed]
    chosen = sorted(trained, key=lambda mask: -values[mask.name])[:MOST_LAYERS]
    for mask in (mask for mask in trained if mask in chosen):
        yield Picture(
            name=f"mask {mask.name}",
            title=f"{mask.name}: {_finding(mask, shards.unit)}",
            note=_note(mask),
            numbers=_numbers(mask),
            draw=partial(_draw, mask),
            height=2.75,
        )


def _finding(mask: Mask, unit: str) -> str:
    left, before = (int(between(blocks).sum()) for blocks in (mask.blocks, mask.blocks_before))
    relays = f"; relays of {mask.relays:,} values per {unit} stand for others" if mask.relays else ""
    if not before:
        return "no link goes from one worker to another"
    if mask.is_sparse:
        return f"{left:,} links between workers{relays}"
    if left == before:
        return f"every link between workers is left, {before:,} in all{relays}"
    share, kept = (f" ({percent(left / before)})", f"{left:,}") if left else ("", "none")
    return f"{kept} of {before:,} possible links between workers are left{share}{relays}"


def _note(mask: Mask) -> str:
    owners = {name: side.owner for name, side in (("inputs", mask.columns), ("outputs", mask.rows))}
    common = [name for name, owner in owners.items() if owner.size and (owner == EVERYBODY).all()]
    note = (
        "Every point is a link from an input neuron (across) to an output neuron (down), sorted by owner; "
        "darker where there are more."
    )
    if common:
        note += f" The {' and '.join(common)} belong to all workers alike."
    if mask.is_sparse:
        note += " The weights are stored sparse; the shards do not have those that were there before."
    cells = mask.cells.shape[1:]
    if cells != (mask.rows.owner.size, mask.columns.owner.size):
        across, down = mask.columns.owner.size, mask.rows.owner.size
        note += f" {across:,} × {down:,} neurons are drawn in {cells[1]} × {cells[0]} cells."
    return note


def _numbers(mask: Mask) -> Numbers:
    """Neurons and links of every owner of output neurons."""
    left, before = between(mask.blocks), between(mask.blocks_before)
    inside, inside_before = mask.blocks.sum(axis=1) - left, mask.blocks_before.sum(axis=1) - before
    rows = [
        (
            "all workers" if number == 0 else number - 1,
            *(int(side.totals[number]) for side in (mask.columns, mask.rows)),
            *(() if mask.is_sparse else (int(inside_before[number]), int(before[number]))),
            int(inside[number]),
            int(left[number]),
        )
        for number in range(len(left))
        if number or mask.rows.totals[0] or mask.columns.totals[0]
    ]
    parts = ("inside, before", "from others, before") if not mask.is_sparse else ()
    columns = ("worker", "input neurons", "output neurons", *parts, "inside, left", "from others, left")
    return Numbers(f"Links of {mask.name} into the output neurons of each worker", columns, rows)


def _draw(mask: Mask, figure: Figure) -> None:
    panels = {"left" if mask.is_sparse else "after": mask.cells}
    if not mask.is_sparse:
        panels = {"before": mask.cells_before, **panels}
    grid = figure.subplots(1, len(panels), squeeze=False)[0]
    areas = mask.cells_before.sum(axis=0)
    for axes, (title, cells) in zip(grid, panels.items(), strict=True):
        axes.imshow(_coloured(cells, areas), aspect="auto", interpolation="none", extent=(0, 1, 1, 0))
        axes.set_title(title)
        for side, is_across in ((mask.columns, True), (mask.rows, False)):
            _mark_owners(axes, side, is_across)
        axes.set_xlabel("input neurons of worker")
    for axes in grid[1:]:
        axes.tick_params(labelleft=False)
    grid[0].set_ylabel("output neurons of worker")
    handles = [Patch(color=_INSIDE), Patch(color=_BETWEEN)]
    figure.legend(handles, ["inside a worker", "between workers"], loc="outside lower center", ncols=2)


def _coloured(cells: np.ndarray, areas: np.ndarray) -> np.ndarray:
    """Colours of cells, (rows, columns, 3): white without links, mixed where there are both kinds."""
    density = cells / np.maximum(areas, 1)
    strength = np.where(density > 0, _FAINTEST + (1 - _FAINTEST) * density, 0)
    # Where a cell has both, each takes its share of the colour.
    share = density / np.maximum(density.sum(axis=0), 1e-12)
    ink = 1 - np.array([to_rgb(_INSIDE), to_rgb(_BETWEEN)])
    return np.clip(1 - np.einsum("krc,kx->rcx", strength * share, ink), 0, 1)


def _mark_owners(axes: Axes, side: SortedNeurons, is_across: bool) -> None:
    """Lines between the neurons of workers, and the numbers of some workers."""
    ends = np.cumsum(side.totals) / max(1, side.owner.size)
    begins = np.concatenate([[0.0], ends[:-1]])
    if len(ends) <= _MOST_LINES:
        line = axes.axvline if is_across else axes.axhline
        for end in ends[:-1]:
            if 0 < end < 1:
                line(end, color="#8a8a8a", linewidth=0.4)
    names = ["all", *map(str, range(len(ends) - 1))]
    owning = [number for number in range(len(ends)) if ends[number] > begins[number]]
    marked = owning[:: -(-len(owning) // 8)]
    places = [(begins[number] + ends[number]) / 2 for number in marked]
    (axes.set_xticks if is_across else axes.set_yticks)(places, [names[number] for number in marked])
    axes.tick_params(length=2)
