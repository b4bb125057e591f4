"""Transports, which carry exchanges: the base class, and the registry of all there are.

Rank p has a block of its send buffer for each rank q that needs something, and q a block of its
receive buffer for it (see ``exchange``).  One exchange is one message for each such pair, whichever
transport carries it; after it the receive buffers have the same bits.

A transport is a class in a file of its own in ``transports``, under a name given by ``@transport(NAME)``.
An object of the class carries the exchanges of one program, until it is freed.

Large messages take long.  A rank waits for one that it sends not where it waits for what it gets, but before
it packs again, or when the forward ends.  If it is known that the next forward is of the same schedule (see
``Transport.turn``), it is not waited for at the end, and what the next forward receives is started as soon as
what came has been used.  Between forwards of different schedules nothing travels, as these have their buffers
in common.

Nobody waits in a circle.  Order all waits by forward, then by round, with those for sends of the same forward
last.  A rank that waits for a message needs its sender to come to the end of the round before.  A rank that
waits for a send to be over needs its receiver to come to where it waits for that message; this is in an
earlier forward, or in a round of this one.  So whoever is waited for has only earlier waits before it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, TypeVar

import numpy as np

from repurpose_hpc.runtime.buffers import Part
from repurpose_hpc.runtime.calls import EXCHANGE, WAIT, Call, name_of
from repurpose_hpc.runtime.exchange.exchange import Exchange
from repurpose_hpc.runtime.exchange.messages import Message, Request
from repurpose_hpc.runtime.schedule.mpi_functions import Requests, Span, function, handle

if TYPE_CHECKING:
    from mpi4py import MPI


# Bytes of a large message.  Smaller ones MPI libraries hand to the system at once (up to 64 KiB is what they
# have as eager limits); with larger ones they go on only while a rank calls MPI.
LARGE = 1 << 16


@dataclass
class Tally:
    """Bytes that were handed to MPI."""

    bytes: int = 0


class Transport(ABC):
    """A means to carry the exchanges of a program.

    All methods are collective over ``comm``: all ranks call them in the same order.

    Attributes:
        name: in the registry.
        is_replayable: whether compiled code can make all of its calls.
        absence: why these ranks do not have it, where they do not.
        comm: of the ranks.
        tally: of a transport that sends less than the whole blocks: what it has sent; None: it sends them.
    """

    name: ClassVar[str]
    is_replayable: ClassVar[bool] = True
    absence: ClassVar[str] = "this MPI does not have it"

    def __init__(self, exchanges: Sequence[Exchange], comm: MPI.Comm, parts: int = 1) -> None:
        """Prepares to carry ``exchanges``; collective.

        Args:
            exchanges: of a program, the same on all ranks and in the same order.
            comm: of the ranks.
            parts: most parts of a batch.

        Raises:
            UserError: on all ranks: something that it needs is not there.
        """
        self.comm = comm
        self.tally: Tally | None = None
        self._goes_on = self._went_on = False
        self._numbers = {exchange: number for number, exchange in enumerate(exchanges)}

    @classmethod
    def is_available(cls, comm: MPI.Comm) -> bool:
        """Tell whether the ranks can use it where they are; collective, the same on all."""
        return True

    def request(self, exchange: Exchange, part: Part) -> Request:
        """The calls that make one of the exchanges for a part of a batch; collective.

        Raises:
            UserError: there are more numbers than MPI can count.
        """
        sent = Message.of(exchange.send, exchange.sent, part)
        received = Message.of(exchange.receive, exchange.received, part)
        request = self._request(exchange, part, sent, received)
        return replace(
            request,
            post=[*exchange.merge_calls(part), *request.post],
            wait=[*request.wait, *exchange.split_calls(part)],
        )

    def turn(self, goes_on: bool) -> None:
        """A forward begins.

        Args:
            goes_on: whether the next one will be of the same schedule, so that large messages may still
                travel when this one ends.
        """
        self._went_on, self._goes_on = self._goes_on, goes_on

    def unhurried(self, request: Request, sent: Message, received: Message) -> Request:
        """A request that waits for sends and receives together, of which some may be large.

        Where large messages are sent and nothing comes, it waits before items are packed again.
        """
        if not is_large(sent, received):
            return request
        probe = Probe(self.comm)
        request = replace(request, progress=probe.calls, uses=(*request.uses, probe))
        if received.peers:
            return request
        return replace(request, wait=[], free=request.wait, end=self._if_it_ends(request.wait))

    def apart(self, request: Request, complete: list[Call]) -> Request:
        """A request with large messages whose sends are waited for by calls of their own, ``complete``.

        These come before items are packed again, and receives are begun as early as they can.
        """
        probe = Probe(self.comm)
        return replace(
            request,
            begin=_conditional(request.begin, lambda: not self._went_on),
            uses=(*request.uses, probe),
            free=complete,
            renew=_conditional(request.begin, lambda: self._goes_on),
            end=self._if_it_ends(complete),
            progress=probe.calls,
        )

    def _if_it_ends(self, calls: Iterable[Call]) -> list[Call]:
        """Calls that are made if the next forward may be of another schedule."""
        return _conditional(calls, lambda: not self._goes_on)

    @abstractmethod
    def _request(self, exchange: Exchange, part: Part, sent: Message, received: Message) -> Request:
        """``request`` without what merged exchanges copy."""

    def free(self) -> None:
        """Give back what MPI keeps; collective; requests must not be used any more."""
        self._numbers.clear()

    def tag(self, exchange: Exchange, part: Part) -> int:
        """A number that tells the messages of a part of an exchange from all others of the program."""
        return self._numbers[exchange] + part.number * len(self._numbers)


_Class = TypeVar("_Class", bound=type[Transport])
# By name, in the order in which ``transports`` names them.
TRANSPORTS: dict[str, type[Transport]] = {}


def transport(name: str) -> Callable[[_Class], _Class]:
    """A decorator that puts a class into the registry."""

    def register(cls: _Class) -> _Class:
        cls.name = name
        TRANSPORTS[name] = cls
        return cls

    return register


def is_large(*messages: Message) -> bool:
    """Tell whether some message for a rank, or from one, is large."""
    return any(int(side.counts.max(initial=0)) * side.buffer.itemsize >= LARGE for side in messages)


@dataclass(frozen=True, eq=False)
class _Conditional:
    """A function that does nothing where it is not due."""

    function: Callable[..., object]
    is_due: Callable[[], bool]

    @property
    def name(self) -> str:
        return name_of(self.function)

    def __call__(self, *arguments: int) -> None:
        if self.is_due():
            self.function(*arguments)


def _conditional(calls: Iterable[Call], is_due: Callable[[], bool]) -> list[Call]:
    return [(phase, _Conditional(function, is_due), arguments) for phase, function, arguments in calls]


def nonblocking(name: str, comm: MPI.Comm, sent: Message, received: Message) -> Request:
    """The request of the collective MPI function ``name``, which starts and returns an MPI request."""
    from mpi4py import MPI

    requests = Requests([MPI.REQUEST_NULL])
    arguments = *sent.arguments(), *received.arguments(), handle(comm), requests.span.address
    post = EXCHANGE, function(name), arguments
    return Request([], [post], [wait_all(requests)], (sent, received, requests))


def start_all(requests: Span) -> Call:
    """The call that starts persistent MPI requests."""
    return EXCHANGE, function("MPI_Startall"), tuple(requests)


def wait_all(requests: Requests, span: Span | None = None) -> Call:
    """The call that completes MPI requests, or those of a span of them."""
    return WAIT, function("MPI_Waitall"), (*(span or requests.span), requests.statuses)


class Probe:
    """A call that lets MPI work on what was started: it looks for any message, and takes none.

    Attributes:
        function, arguments: of the call.
    """

    def __init__(self, comm: MPI.Comm) -> None:
        from mpi4py import MPI

        self._flag, self._status = np.zeros(1, np.intc), np.zeros(MPI._sizeof(MPI.Status), np.uint8)
        self.function = function("MPI_Iprobe")
        outputs = self._flag.ctypes.data, self._status.ctypes.data
        self.arguments = MPI.ANY_SOURCE, MPI.ANY_TAG, handle(comm), *outputs

    @property
    def calls(self) -> list[Call]:
        """The call, as schedules take it."""
        return [(EXCHANGE, self.function, self.arguments)]
