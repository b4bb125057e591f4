"""The schedule of a batch size: all calls of a program, round by round.

In a round a rank first waits for the messages of the round before.  Then come the steps that needed them, and
all steps that can follow without further messages.  Ghosts and sums for other ranks are packed as soon as
they are there, and posted as soon as everything in the same message is packed.  Products with own neurons of
mixings that wait for the next round come last, after everything of the round is posted.

A batch may go through the network in parts (micro-batches), which take turns, round by round: while the
messages of one travel, the rank computes with another.  The order is the same on all ranks.

Where not all samples are wanted behind the first stage, the wanted ones of every tensor that is read there
are brought to the front of its memory; what comes then is for so many samples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import chain, zip_longest

import numpy as np

from repurpose_hpc.kernels import keep_samples
from repurpose_hpc.runtime.buffers import Buffer, Part
from repurpose_hpc.runtime.calls import PACK, Call
from repurpose_hpc.runtime.exchange.exchange import Exchange
from repurpose_hpc.runtime.exchange.messages import Request
from repurpose_hpc.runtime.lowering.lower import Step
from repurpose_hpc.runtime.lowering.mixings import MixingStep
from repurpose_hpc.runtime.resources import Resources
from repurpose_hpc.runtime.schedule.replay import carry_out, record
from repurpose_hpc.runtime.schedule.rounds import Round
from repurpose_hpc.runtime.schedule.stages import Stage
from repurpose_hpc.runtime.schedule.threads import on_threads

# Collective: the request of an exchange for a part of a batch.
MakeRequest = Callable[[Exchange, Part], Request]


def no_request(exchange: Exchange, part: Part) -> Request:
    """Refuse to exchange anything: a process without a communicator hosts all workers."""
    raise ValueError("expected a communicator, as there is something to exchange with other ranks")


class Schedule:
    """The calls for one batch size, and one number of wanted samples, on the memory of a program.

    What MPI keeps for them is given back when this is gone.
    """

    def __init__(
        self,
        stages: Sequence[Stage],
        outputs: Sequence[Buffer],
        parts: Sequence[Sequence[Part]],
        wanted: np.ndarray,
        make_request: MakeRequest,
        resources: Resources,
    ) -> None:
        """Makes the requests of all exchanges; collective.

        Args:
            stages: of the program; one without samples is left out.
            outputs: the memory of its output tensors, at least one.
            parts: of a batch, in each stage.
            wanted: memory with the places, in the batch, of the samples of the second stage; int64.
            make_request: of the transport.
            resources: of the program.
        """
        dtype = outputs[0].flat.dtype
        self._places = [place for part in parts[0] for place in _places(stages[0].inputs, part)]
        self._outputs = [[buffer.maps(part) for buffer in outputs] for part in parts[-1]]
        self._requests: list[Request] = []  # kept, as the calls have addresses of what they use
        calls: list[Call] = []
        before = parts[0]
        for stage, now in zip(stages, parts, strict=True):
            if not any(part.samples for part in now):
                break
            calls += _to_the_front(stage.inputs, before, now, wanted)
            calls_of_parts = [_PartCalls(stage, part, make_request) for part in now]
            self._requests += [request for each in calls_of_parts for request in each.requests.values()]
            calls += _in_turns([each.rounds for each in calls_of_parts])
            before = now
        beginning = [call for request in self._requests for call in request.begin]
        self._steps = record(on_threads([*beginning, *calls], resources.threads), dtype, resources.formats)

    def run(self, X: np.ndarray, seconds: np.ndarray) -> np.ndarray:
        """Compute the outputs of X (columns, batch) that are wanted, adding to ``seconds`` by phase."""
        for rows, samples, target in self._places:
            np.copyto(target, X[rows, samples].reshape(target.shape))
        carry_out(self._steps, seconds)
        outputs = [_flat(part) for part in self._outputs]
        return outputs[0] if len(outputs) == 1 else np.concatenate(outputs, axis=1)


class _PartCalls:
    """The calls of a stage for a part of a batch.

    Attributes:
        requests: of each exchange.
        rounds: the calls of each round.
    """

    def __init__(self, stage: Stage, part: Part, make_request: MakeRequest) -> None:
        """Makes the requests; collective."""
        rounds, inputs = stage
        exchanges = [exchange for _, _, exchanges in rounds for exchange in exchanges]
        mixings = [step for steps, _, _ in rounds for step in steps if isinstance(step, MixingStep)]
        self.requests = {exchange: make_request(exchange, part) for exchange in exchanges}
        self._exchange_of = {member: exchange for exchange in exchanges for member in exchange.members}
        self._unpacked = {exchange: len(exchange.members) for exchange in exchanges}
        self._ghosts, self._part = {step.source: step.ghosts for step in mixings}, part
        self.rounds = self._make_rounds(rounds, inputs)

    def _make_rounds(self, rounds: Sequence[Round], inputs: Sequence[Buffer]) -> list[list[Call]]:
        calls_of_rounds: list[list[Call]] = []
        arriving = [call for tensor in inputs for call in self._completed(tensor)]
        for steps, waiting, exchanges in rounds:
            beginning = [call for step in steps for call in self._begin(step, step in waiting)]
            own_products = [call for step in waiting for call in step.own_calls(self._part)]
            calls_of_rounds.append([*arriving, *beginning, *own_products])
            arriving = [call for exchange in exchanges for call in self.requests[exchange].wait]
            transfers = dict.fromkeys(step.ghosts for step in waiting)
            arriving += [call for ghosts in transfers for call in ghosts.unpack_calls(self._part)]
            arriving += [call for step in waiting for call in self._end(step)]
        return calls_of_rounds

    def _begin(self, step: Step, waits: bool) -> list[Call]:
        """Calls of a step that need no messages; if it waits, without the products with own neurons."""
        if not isinstance(step, MixingStep):
            return [*step.calls(self._part), *self._completed(step.target)]
        sums = [*step.sum_calls(self._part), *self._packed(step.sums.exchange)]
        return sums if waits else [*sums, *step.own_calls(self._part), *self._end(step)]

    def _end(self, step: MixingStep) -> list[Call]:
        return [*step.rest_calls(self._part), *self._completed(step.target)]

    def _completed(self, tensor: Buffer) -> list[Call]:
        """Calls that follow when a tensor is complete: its ghosts go where they are needed."""
        ghosts = self._ghosts.get(tensor)
        if ghosts is None:
            return []
        packing = [*ghosts.pack_calls(self._part), *self._packed(ghosts.exchange)]
        return [*packing, *ghosts.near_calls(self._part)]

    def _packed(self, member: Exchange) -> list[Call]:
        """Calls that follow when a member of an exchange is packed: if it was the last one, posting."""
        exchange = self._exchange_of.get(member)
        if exchange is None:  # nobody sends anything
            return []
        self._unpacked[exchange] -= 1
        return [] if self._unpacked[exchange] else self.requests[exchange].post


def _to_the_front(
    tensors: Sequence[Buffer], before: Sequence[Part], now: Sequence[Part], wanted: np.ndarray
) -> list[Call]:
    """Calls that keep the wanted samples of some tensors; none if all are wanted."""
    if list(before) == list(now):
        return []
    return [
        (PACK, keep_samples, (buffer.view(part), wanted[: kept.samples], buffer.view(kept)))
        for part, kept in zip(before, now, strict=True)
        for buffer in tensors
    ]


def _in_turns(parts: Iterable[list[list[Call]]]) -> list[Call]:
    """The first round of every part, then the second of every part, and so on."""
    return [*chain.from_iterable(chain.from_iterable(zip_longest(*parts, fillvalue=())))]


def _places(inputs: Sequence[Buffer], part: Part) -> list[tuple[slice, slice, np.ndarray]]:
    """Rows and samples of a batch (columns, batch), and where they go in the input tensors."""
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
    """Output tensors, each (neurons, batch, values), as (columns, batch); a single vector is not copied.

    C-contiguous, as they are sent as they lie: of one neuron alone, NumPy would only transpose a view.
    """
    if len(outputs) == 1 and outputs[0].shape[2] == 1:
        return outputs[0][:, :, 0]
    batch = outputs[0].shape[1]
    rows = [tensor.transpose(0, 2, 1).reshape(tensor.shape[0] * tensor.shape[2], batch) for tensor in outputs]
    return np.ascontiguousarray(rows[0] if len(rows) == 1 else np.concatenate(rows))
