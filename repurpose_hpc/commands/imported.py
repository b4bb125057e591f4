"""What commands ask and say of the import of a model."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from repurpose_hpc.io.samples import Samples
    from repurpose_hpc.model.importers.input_shapes import InputShapes
    from repurpose_hpc.model.network import Network


def holds_shards(path: Path) -> bool:
    """Whether a path stands for shards, rather than a model: a directory that is not one of a model.

    Raises:
        UserError: it is a single file of shards.
    """
    from repurpose_hpc.model.importers.load import is_model_directory
    from repurpose_hpc.model.importers.matrices import holds_matrices
    from repurpose_hpc.plan.files.store import refuse_file

    refuse_file(path)
    return path.is_dir() and not is_model_directory(path) and not holds_matrices(path)


def import_report(
    path: Path, network: Network, samples: Samples | None, shapes: InputShapes | None, check: bool
) -> dict[str, Any]:
    """Compare an imported network with its file; a warning says if no program can run it.

    Args:
        path: of the file.
        network: imported from it.
        samples: from which inputs are drawn; None: they are normally distributed.
        shapes: with which it was imported.
        check: False: nothing is compared.

    Returns:
        key ``import_check`` of the report; nothing where there is nothing to compare.

    Raises:
        UserError: the network is not the one in the file, or takes other samples.
    """
    from repurpose_hpc.model.importers.load import check_model

    if samples is not None:
        network.ends.check(samples, network.input_shape)
    result = check_model(path, network, samples, shapes) if check else None
    return {} if result is None else {"import_check": asdict(result)}
