"""Fine-tuning of a network in memory, in one process that hosts all workers: nothing is sent, or written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from repurpose_hpc.io.samples import Samples
from repurpose_hpc.io.spooled import Spooled
from repurpose_hpc.model.network import Network
from repurpose_hpc.mpi.groups import Groups
from repurpose_hpc.plan.assemble import assemble
from repurpose_hpc.plan.shard import make_shard
from repurpose_hpc.runtime.exchange.transports import DEFAULT_TRANSPORT
from repurpose_hpc.runtime.resources import Formats
from repurpose_hpc.runtime.session import Cut
from repurpose_hpc.tuning.copies import Copies
from repurpose_hpc.tuning.driver import Diverged, Epoch, Tuning, best_of, epochs_behind, parted
from repurpose_hpc.tuning.options import TuneOptions
from repurpose_hpc.tuning.passes import Passes
from repurpose_hpc.tuning.targets import of_original


@dataclass(frozen=True)
class FineTuning:
    """What is done to a network that was cut: it is tuned to the original's outputs.

    Attributes:
        options: of fine-tuning.
        log: is given one line for each epoch.
    """

    options: TuneOptions
    log: Callable[[str], None]

    @property
    def record(self) -> dict[str, object]:
        """What the result depends on, JSON values."""
        return {"epochs": self.options.epochs, "seed": self.options.seed}

    def __call__(self, original: Network, cut: Cut, samples: Samples) -> Network:
        """The network of a cut with the weights of the best epoch, perhaps those that it has.

        Args:
            original: as it was trained.
            cut: of it; weights that are zero stay so.
            samples: as ``original`` takes them, ``understood``.  Some are held out, and decide which epoch is
                best.

        Raises:
            FieldError: too few samples.
        """
        options, dtype = self.options, cut.network.mixings[0].bias.dtype
        shards = [make_shard(cut.network, cut.plan, worker, dtype.type) for worker in range(cut.plan.workers)]
        formats = Formats(comm_dtype=cut.plan.comm_dtype)
        passes = Passes(shards, None, options.batch_size, formats, DEFAULT_TRANSPORT)
        targets = of_original(cut.network, samples, original, dtype, options.batch_size)
        with Spooled(samples, passes.input_columns, dtype) as spooled:
            parts = parted(samples.samples, options)
            best = self._best(Tuning(passes, spooled, targets, parts, options, Copies(Groups(None))))
        for parameter, values in zip(passes.parameters, best, strict=True):
            parameter.values[...] = values
        operations = assemble(passes.tuned(shards, passes.tuned_graph())).operations
        return replace(cut.network, operations=operations)

    def _best(self, tuning: Tuning) -> list[np.ndarray]:
        """All parameters after the best epoch; one that diverges is the last."""
        epochs: list[Epoch] = []
        best = [parameter.values.copy() for parameter in tuning.passes.parameters]
        try:
            for epoch in epochs_behind(epochs, tuning, self.options, self.log):
                if best_of(epochs) is epoch:
                    best = [parameter.values.copy() for parameter in tuning.passes.parameters]
        except Diverged as error:
            self.log(f"ended: {error}")
        return best
