"""What a program does with a batch of one size: all its calls, in order.

Ghosts of a tensor are sent as soon as it is computed; where a network has branches, other branches may be
computed before they are waited for.

A batch may go through the network in parts (micro-batches).  What is done with a part falls into stages,
each but the first beginning where a mixing may have to wait for other ranks.  Parts take turns at these
points: while the messages of one are on their way, the rank computes with another.  The order is the same
on all ranks.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain, zip_longest

import numpy as np

from repurpose_hpc.runtime.blocks import Call
from repurpose_hpc.runtime.buffers import Buffer, Part
from repurpose_hpc.runtime.exchanges.messages import Carrier, Tally
from repurpose_hpc.runtime.local import LocalStep
from repurpose_hpc.runtime.mixings import MixingStep
from repurpose_hpc.runtime.parallel import on_threads
from repurpose_hpc.runtime.setting import Setting
from repurpose_hpc.runtime.tape import carry_out, taped

Step = MixingStep | LocalStep


class Schedule:
    """The calls for one batch size, on the memory of a program."""

    def __init__(
        self,
        steps: Sequence[Step],
        inputs: Sequence[Buffer],
        outputs: Sequence[Buffer],
        parts: Sequence[Part],
        way: str,
        setting: Setting,
    ) -> None:
        """Collective over the ranks of ``setting``.

        Args:
            steps: of the program, in order.
            inputs, outputs: the memory of its input and output tensors, at least one output.
            parts: of a batch.
            way: how exchanges are carried.
            setting: of the program.
        """
        dtype = outputs[0].flat.dtype
        self._places = [place for part in parts for place in _places(inputs, part)]
        self._outputs = [[buffer.maps(part) for buffer in outputs] for part in parts]
        self._carriers: list[Carrier] = []
        stages = [self._stages(steps, inputs, part, way) for part in parts]
        calls = [call for carrier in self._carriers for call in carrier.begin] + _in_turns(stages)
        self._steps = taped(on_threads(calls, setting.threads), dtype, setting.formats)

    def run(self, X: np.ndarray, seconds: np.ndarray) -> np.ndarray:
        """Compute the outputs of X (columns, batch), adding to ``seconds`` by phase."""
        for rows, samples, target in self._places:
            np.copyto(target, X[rows, samples].reshape(target.shape))
        carry_out(self._steps, seconds)
        outputs = [_flat(part) for part in self._outputs]
        return outputs[0] if len(outputs) == 1 else np.concatenate(outputs, axis=1)

    @property
    def tallies(self) -> list[Tally]:
        """Of carriers that count what they send."""
        return [carrier.tally for carrier in self._carriers if carrier.tally is not None]

    def _stages(
        self, steps: Sequence[Step], inputs: Sequence[Buffer], part: Part, way: str
    ) -> list[list[Call]]:
        """All that is done with a part; local steps belong to the stage in which they are reached."""
        carried = {step: step.carriers(part, way) for step in steps if isinstance(step, MixingStep)}
        self._carriers += chain.from_iterable(carried.values())

        def posts(tensor: Buffer) -> Iterable[Call]:
            return chain.from_iterable(
                step.post_calls(part, carriers) for step, carriers in carried.items() if step.source is tensor
            )

        stages: list[list[Call]] = [[*chain.from_iterable(map(posts, inputs))]]
        for step in steps:
            if isinstance(step, MixingStep):
                first, *later = step.stages(part, carried[step])
                stages[-1] += first
                stages += later
            else:
                stages[-1] += step.calls(part)
            stages[-1] += posts(step.target)
        return stages


def _in_turns(parts: Iterable[list[list[Call]]]) -> list[Call]:
    """The first stage of every part, then the second of every part, and so on."""
    return [*chain.from_iterable(chain.from_iterable(zip_longest(*parts, fillvalue=())))]


def _places(inputs: Sequence[Buffer], part: Part) -> list[tuple[slice, slice, np.ndarray]]:
    """Which rows and samples of a batch (columns, batch) go where in the input tensors."""
    places, first = [], 0
    samples = slice(part.first, part.first + part.samples)
    for buffer in inputs:
        rows, tensor = slice(first, first + buffer.rows * buffer.values), buffer.maps(part)
        # One value per neuron: the tensor is as the samples are.
        target = tensor[:, :, 0] if buffer.values == 1 else tensor.transpose(0, 2, 1)
        places.append((rows, samples, target))
        first = rows.stop
    return places


def _flat(outputs: list[np.ndarray]) -> np.ndarray:
    """Output tensors, each (neurons, batch, values), as (columns, batch); a single vector is not copied."""
    if len(outputs) == 1 and outputs[0].shape[2] == 1:
        return outputs[0][:, :, 0]
    batch = outputs[0].shape[1]
    rows = [tensor.transpose(0, 2, 1).reshape(-1, batch) for tensor in outputs]
    return rows[0] if len(rows) == 1 else np.concatenate(rows)
