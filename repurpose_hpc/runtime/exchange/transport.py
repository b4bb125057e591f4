"""Transports, which carry exchanges: the base class, and the registry of all there are.

Rank p has a block of its send buffer for each rank q that needs something, and q a block of its
receive buffer for it (see ``exchange``).  One exchange is one message for each such pair, whichever
transport carries it; after it the receive buffers have the same bits.

A transport is a class in a file of its own in ``transports``, under a name given by ``@transport(NAME)``.
An object of the class carries the exchanges of one program, until it is freed.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, TypeVar

from repurpose_hpc.runtime.buffers import Part
from repurpose_hpc.runtime.calls import EXCHANGE, WAIT, Call
from repurpose_hpc.runtime.exchange.exchange import Exchange
from repurpose_hpc.runtime.exchange.messages import Message, Request
from repurpose_hpc.runtime.schedule.mpi_functions import Requests, Span, function, handle

if TYPE_CHECKING:
    from mpi4py import MPI


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


def wait_all(requests: Requests) -> Call:
    """The call that completes MPI requests."""
    return WAIT, function("MPI_Waitall"), (*requests.span, requests.statuses)
