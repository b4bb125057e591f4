"""Networks whose maps are shared out by position: ``tiled`` (docs/convolutions.md).

A map is divided into rectangles, its *tiles*, one for each worker.  A worker computes its tile of a map from
its tiles of others and a *halo*, positions that it gets from those who have them.  ``division`` says where
maps are cut, ``rules`` what each operation is on a rectangle, ``halos`` what workers need of each other,
``tiler`` makes the network.  May import the rest of the model.
"""

from repurpose_hpc.model.tiles.division import Division, divisions
from repurpose_hpc.model.tiles.halos import (
    Tiles,
    gathered_values,
    halo_values,
    most_multiply_adds,
    tileable,
    tiles_of,
)
from repurpose_hpc.model.tiles.tiler import tiled

__all__ = [
    "Division",
    "Tiles",
    "divisions",
    "gathered_values",
    "halo_values",
    "most_multiply_adds",
    "tileable",
    "tiled",
    "tiles_of",
]
