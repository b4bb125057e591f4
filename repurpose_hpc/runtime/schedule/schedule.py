"""The schedule of a batch size: all calls of a program, round by round.

In a round a rank first waits for the messages of the round before.  Then come the steps that needed them, and
all steps that can follow without further messages.  Ghosts and sums for other ranks are packed as soon as
they are there, and posted as soon as everything in the same message is packed.  Products with own neurons of
mixings that wait for the next round come last, after everything of the round is posted, and then what can be
done ``ahead`` of others.

While large messages travel, MPI is called once before every step that computes: most libraries go on with
them only then.

A batch may go through the network in parts (micro-batches), which take turns, round by round: while the
messages of one travel, the rank computes with another.  The order is the same on all ranks.

Where not all samples are wanted behind the first scope, the wanted ones of every tensor that is read there
are brought to the front of its memory; what comes then is for so many samples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import chain, zip_longest

import numpy as np

from repurpose_hpc.kernels import keep_samples
from repurpose_hpc.runtime.buffers import Buffer, Part
from repurpose_hpc.runtime.calls import COMPUTE, PACK, Call, Labelled, Traffic, labelled
from repurpose_hpc.runtime.exchange.exchange import Exchange
from repurpose_hpc.runtime.exchange.messages import Request
from repurpose_hpc.runtime.exchange.transfers import GhostTransfer
from repurpose_hpc.runtime.lowering.local import LocalStep, StitchStep
from repurpose_hpc.runtime.lowering.lower import Step
from repurpose_hpc.runtime.lowering.mixings import MixingStep
from repurpose_hpc.runtime.lowering.normalisation import NormalisationStep
from repurpose_hpc.runtime.resources import Resources
from repurpose_hpc.runtime.schedule.ahead import Ahead, Halves
from repurpose_hpc.runtime.schedule.replay import carry_out, record
from repurpose_hpc.runtime.schedule.rounds import Round
from repurpose_hpc.runtime.schedule.scopes import Scope
from repurpose_hpc.runtime.schedule.threads import on_threads

# Where traces show what brings wanted samples to the front, which is no operation of the network.
WANTED = "wanted samples"
# Collective: the request of an exchange for a part of a batch.
MakeRequest = Callable[[Exchange, Part], Request]


def no_request(exchange: Exchange, part: Part) -> Request:
    """Refuse to exchange anything: a process without a communicator hosts all workers."""
    raise ValueError("expected a communicator, as there is something to exchange with other ranks")


class Schedule:
    """The calls for one batch size, and one number of wanted samples, on the memory of a program.

    What MPI keeps for them is given back when this is gone.

    Attributes:
        labels: of the calls, in order.
        marks: calls and messages that a trace of a forward shows.
    """

    def __init__(
        self,
        scopes: Sequence[Scope],
        outputs: Sequence[Buffer],
        parts: Sequence[Sequence[Part]],
        wanted: np.ndarray,
        make_request: MakeRequest,
        resources: Resources,
    ) -> None:
        """Makes the requests of all exchanges; collective.

        Args:
            scopes: of the program; one without samples is left out.
            outputs: the memory of its output tensors, at least one.
            parts: of a batch, in each scope.
            wanted: memory with the places, in the batch, of the samples of the second scope; int64.
            make_request: of the transport.
            resources: of the program.
        """
        dtype = outputs[0].flat.dtype
        self._places = [place for part in parts[0] for place in _places(scopes[0].inputs, part)]
        self._outputs = [[buffer.maps(part) for buffer in outputs] for part in parts[-1]]
        self._requests: list[Request] = []  # kept, as the calls have addresses of what they use
        calls: list[Labelled] = []
        beginning: list[Labelled] = []
        ending: list[Labelled] = []
        before = parts[0]
        for scope, now in zip(scopes, parts, strict=True):
            if not any(part.samples for part in now):
                break
            calls += _to_the_front(scope.inputs, before, now, wanted)
            calls_of_parts: list[_PartCalls] = []
            for part in now:
                calls_of_parts.append(_PartCalls(scope, part, make_request, len(self._requests)))
                self._requests += calls_of_parts[-1].requests.values()
            beginning += [call for each in calls_of_parts for call in each.beginning]
            ending += [call for each in calls_of_parts for call in each.ending]
            calls += _in_turns([each.rounds for each in calls_of_parts])
            before = now
        progress = [call for request in self._requests for call in request.progress]
        calls = [*beginning, *_with_progress(calls, progress[:1]), *ending]
        self.labels = [label for label, _ in calls]
        traffic = [label.traffic for label in self.labels if label.traffic is not None]
        self.marks = len(calls) + sum(len(each.sent) + len(each.received) for each in traffic)
        shared = on_threads([call for _, call in calls], resources.threads)
        self._steps = record(shared, dtype, resources.formats)

    def run(
        self, X: np.ndarray, seconds: np.ndarray, times: np.ndarray | None = None, first: int = 0
    ) -> np.ndarray:
        """Compute the outputs of X (columns, batch) that are wanted.

        Args:
            X: inputs.
            seconds: by phase, (4,) float64; added to.
            times, first: of the calls, for who asks; see ``carry_out``.
        """
        for rows, samples, target in self._places:
            np.copyto(target, X[rows, samples].reshape(target.shape))
        carry_out(self._steps, seconds, times, first)
        outputs = [_flat(part) for part in self._outputs]
        return outputs[0] if len(outputs) == 1 else np.concatenate(outputs, axis=1)

    def break_off(self) -> None:
        """Wait for what was sent in a forward behind which nothing will come, against what was said in it."""
        for request in self._requests:
            for _, function, arguments in request.end:
                function(*arguments)


class _PartCalls:
    """The calls of a scope for a part of a batch.

    Attributes:
        requests: of each exchange.
        beginning, ending: the calls when a forward begins, and when it ends.
        rounds: the calls of each round.
    """

    def __init__(self, scope: Scope, part: Part, make_request: MakeRequest, first: int) -> None:
        """Makes the requests, numbered from ``first`` on; collective."""
        rounds, inputs = scope
        exchanges = [exchange for one in rounds for exchange in one.exchanges]
        mixings = [step for one in rounds for step in one.steps if isinstance(step, MixingStep)]
        self.requests = {exchange: make_request(exchange, part) for exchange in exchanges}
        self._numbers = {exchange: first + number for number, exchange in enumerate(exchanges)}
        self._exchange_of = {member: exchange for exchange in exchanges for member in exchange.members}
        self._unpacked = {exchange: len(exchange.members) for exchange in exchanges}
        self._ghosts, self._part = {step.source: step.ghosts for step in mixings}, part
        self._stitched: dict[StitchStep, Sequence[bool]] = {}  # what is done ahead of it
        self._halves: dict[MixingStep, Halves] = {}
        self._readers: dict[Exchange, list[str]] = {}
        for step in mixings:
            for member in step.exchanges:
                self._readers.setdefault(member, []).append(step.name)
        self.beginning = [call for each in exchanges for call in self._of(each, self.requests[each].begin)]
        self.ending = [call for each in exchanges for call in self._of(each, self.requests[each].end)]
        self.rounds = self._make_rounds(rounds, inputs)

    def _make_rounds(self, rounds: Sequence[Round], inputs: Sequence[Buffer]) -> list[list[Labelled]]:
        calls_of_rounds: list[list[Labelled]] = []
        arriving = [call for tensor in inputs for call in self._completed(tensor)]
        for steps, waiting, exchanges, ahead in rounds:
            beginning = [call for step in steps for call in self._begin(step, step in waiting)]
            own_products = [call for step in waiting for call in self._own(step)]
            early = [call for some in ahead for call in self._ahead(some)]
            calls_of_rounds.append([*arriving, *beginning, *own_products, *early])
            arriving = [call for exchange in exchanges for call in self._awaited(exchange)]
            transfers = dict.fromkeys(step.ghosts for step in waiting)
            arriving += [call for ghosts in transfers for call in self._arrived(ghosts)]
            arriving += [call for step in waiting for call in self._end(step)]
            arriving += [call for each in exchanges for call in self._of(each, self.requests[each].renew)]
        return calls_of_rounds

    def _begin(self, step: Step, waits: bool) -> list[Labelled]:
        """Calls of a step that need no messages; if it waits, without the products with own neurons."""
        if not isinstance(step, MixingStep):
            return [*self._label(step.name, self._local(step)), *self._completed(step.target)]
        freed, sums = self._freed(step.sums.exchange), self._label(step.name, step.sum_calls(self._part))
        sums = [*freed, *sums, *self._packed(step.sums.exchange)]
        return sums if waits else [*sums, *self._own(step), *self._end(step)]

    def _local(self, step: LocalStep | NormalisationStep) -> list[Call]:
        """Calls of a step without an exchange, or those that are left of it."""
        if isinstance(step, StitchStep) and step in self._stitched:
            return step.calls_of(self._part, [not is_done for is_done in self._stitched[step]])
        return step.calls(self._part)

    def _own(self, step: MixingStep) -> list[Labelled]:
        """Calls of products with own neurons, or those that are left of them."""
        halves = self._halves.get(step)
        calls = step.own_calls(self._part) if halves is None else step.region_calls(self._part, halves.border)
        return self._label(step.name, calls)

    def _ahead(self, ahead: Ahead) -> list[Labelled]:
        """Calls of what is done ahead, which later ones leave out."""
        stitch, is_there, layers = ahead
        self._stitched[stitch] = is_there
        self._halves.update(layers)
        copies = self._label(stitch.name, stitch.calls_of(self._part, is_there))
        insides = (
            call
            for step, (inside, _) in layers.items()
            for call in self._label(step.name, step.region_calls(self._part, [inside]))
        )
        return [*copies, *insides]

    def _end(self, step: MixingStep) -> list[Labelled]:
        rest = self._label(step.name, step.rest_calls(self._part), arrived=True)
        return [*rest, *self._completed(step.target)]

    def _completed(self, tensor: Buffer) -> list[Labelled]:
        """Calls that follow when a tensor is complete: its ghosts go where they are needed."""
        ghosts = self._ghosts.get(tensor)
        if ghosts is None:
            return []
        readers = self._readers_of(ghosts.exchange)
        freed, packing = self._freed(ghosts.exchange), self._label(readers, ghosts.pack_calls(self._part))
        packing = [*freed, *packing, *self._packed(ghosts.exchange)]
        return packing + self._label(readers, ghosts.near_calls(self._part))

    def _freed(self, member: Exchange) -> list[Labelled]:
        """Calls before a member of an exchange is packed: if it is the first one, what was sent is gone."""
        exchange = self._exchange_of.get(member)
        if exchange is None or self._unpacked[exchange] < len(exchange.members):
            return []
        return self._of(exchange, self.requests[exchange].free)

    def _packed(self, member: Exchange) -> list[Labelled]:
        """Calls that follow when a member of an exchange is packed: if it was the last one, posting."""
        exchange = self._exchange_of.get(member)
        if exchange is None:  # nobody sends anything
            return []
        self._unpacked[exchange] -= 1
        if self._unpacked[exchange]:
            return []
        return self._label(
            self._readers_of(exchange), self.requests[exchange].post, traffic=self._sent(exchange)
        )

    def _of(self, exchange: Exchange, calls: Iterable[Call]) -> list[Labelled]:
        """Calls of a request, but for those that send or wait for what is needed."""
        return self._label(self._readers_of(exchange), calls)

    def _awaited(self, exchange: Exchange) -> list[Labelled]:
        """Calls that wait for what others send."""
        calls, traffic = self.requests[exchange].wait, self._received(exchange)
        return self._label(self._readers_of(exchange), calls, arrived=True, traffic=traffic)

    def _arrived(self, ghosts: GhostTransfer) -> list[Labelled]:
        """Calls that bring ghosts where they are read."""
        return self._label(self._readers_of(ghosts.exchange), ghosts.unpack_calls(self._part), arrived=True)

    def _label(
        self, layer: str, calls: Iterable[Call], arrived: bool = False, traffic: Traffic | None = None
    ) -> list[Labelled]:
        """Calls of this part with their labels; for the arguments see ``labelled``."""
        return labelled(calls, layer, self._part.number, arrived, traffic)

    def _readers_of(self, exchange: Exchange) -> str:
        """The mixings that an exchange is for."""
        readers = [name for member in exchange.members for name in self._readers[member]]
        return ", ".join(dict.fromkeys(readers))

    def _sent(self, exchange: Exchange) -> Traffic:
        ranks = np.flatnonzero(exchange.sent).tolist()
        values, size = (each * self._part.samples for each in (exchange.values_sent, exchange.bytes_sent))
        return Traffic(self._numbers[exchange], size, values, sent=tuple(ranks))

    def _received(self, exchange: Exchange) -> Traffic:
        ranks, buffer = np.flatnonzero(exchange.received).tolist(), exchange.receive
        size = buffer.rows * buffer.values * buffer.flat.itemsize * self._part.samples
        return Traffic(self._numbers[exchange], size, received=tuple(ranks))


def _to_the_front(
    tensors: Sequence[Buffer], before: Sequence[Part], now: Sequence[Part], wanted: np.ndarray
) -> list[Labelled]:
    """Calls that keep the wanted samples of some tensors; none if all are wanted."""
    if list(before) == list(now):
        return []
    return [
        call
        for part, kept in zip(before, now, strict=True)
        for buffer in tensors
        for call in labelled(
            [(PACK, keep_samples, (buffer.view(part), wanted[: kept.samples], buffer.view(kept)))],
            WANTED,
            part.number,
        )
    ]


def _with_progress(calls: Iterable[Labelled], progress: Sequence[Call]) -> list[Labelled]:
    """Calls, with one that lets MPI go on with large messages before every step that computes."""
    going_on: list[Labelled] = []
    step = None
    for label, call in calls:
        if label.category == COMPUTE and (label.layer, label.part) != step:
            going_on += labelled(progress, label.layer, label.part)
            step = label.layer, label.part
        going_on.append((label, call))
    return going_on


def _in_turns(parts: Iterable[list[list[Labelled]]]) -> list[Labelled]:
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
