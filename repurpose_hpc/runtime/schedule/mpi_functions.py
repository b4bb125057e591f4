"""MPI functions by their C address, for compiled code that calls them without Python in between.

mpi4py is linked with an MPI library; its functions are found where mpi4py's own module finds them.  Arguments
are passed as C takes them: an int, an address, or a handle, which is an int or an address, depending on the
library.  These assumptions are checked once, with what mpi4py knows of the library and by an exchange.  Where
one of them fails, compiled code gets the address of a function that comes back to Python and makes mpi4py's
call.  That is slower, and its results are the same.

MPI starts when something here is first called, not when this is imported.
"""

from __future__ import annotations

import ctypes
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from time import monotonic
from typing import TYPE_CHECKING, Any, NamedTuple, cast
from weakref import WeakValueDictionary

import numpy as np

from repurpose_hpc.kernels.llvm.addresses import C_TYPES
from repurpose_hpc.kernels.llvm.clock import monotonic_address
from repurpose_hpc.kernels.replay import check_call

if TYPE_CHECKING:
    from mpi4py import MPI

# C's type of each argument: an int ("i"), an address ("p"), a handle ("h").
_EXCHANGE = "ppphppphh"
PROTOTYPES = {
    "MPI_Alltoallv": _EXCHANGE,
    "MPI_Ialltoallv": f"{_EXCHANGE}p",
    "MPI_Ineighbor_alltoallv": f"{_EXCHANGE}p",
    "MPI_Startall": "ip",
    "MPI_Waitall": "ipp",
    "MPI_Iprobe": "iihpp",
}
# Bytes of a status at least: the source, the tag and the error.
_LEAST_STATUS = 12


@dataclass(frozen=True)
class Function:
    """A C function that returns an error code.

    Attributes:
        name: in the MPI standard.
        address: where its code is.
        signature: C's types of its arguments, as recordings take them.
    """

    name: str
    address: int
    signature: str

    def __call__(self, *arguments: int) -> None:
        """Call it; the arguments are integers, addresses and handles.

        Raises:
            ValueError: more or fewer of them than it takes, or one that is wider than C takes it.
        """
        check_call(self.signature, arguments)
        check(prototype(self.signature)(self.address)(*arguments))


@cache
def prototype(signature: str) -> Callable:
    """The type of functions with these arguments, for ``ctypes``."""
    return ctypes.CFUNCTYPE(ctypes.c_int, *(C_TYPES[letter] for letter in signature))


def function(name: str) -> Function:
    """The MPI function ``name``, one of ``PROTOTYPES``."""
    problem = abi_problem()
    if problem is None:
        return _by_address(name)
    _say_once(problem)
    return _by_mpi4py(name)


def clock() -> int:
    """The address of a C function that returns the time in seconds: MPI's, where MPI was started."""
    if "mpi4py.MPI" not in sys.modules:
        return monotonic_address()
    return _clock_by_address() if abi_problem() is None else _address(_python_clock())


def now() -> float:
    """The time in seconds, of the same clock."""
    mpi = sys.modules.get("mpi4py.MPI")
    return monotonic() if mpi is None else mpi.Wtime()


def handle(thing: MPI.Comm | MPI.Datatype) -> int:
    """A communicator or datatype as C knows it."""
    from mpi4py import MPI

    unsigned = MPI._handleof(thing)
    return unsigned - (unsigned >> 63 << 64)


def check(status: int) -> None:
    """Raise what mpi4py would for an error code."""
    if status:
        from mpi4py import MPI

        raise MPI.Exception(status)


class Span(NamedTuple):
    """Requests side by side in memory: how many, and where."""

    requests: int
    address: int


class Requests:
    """Requests side by side in memory, as C takes them, with room for the statuses that they end with.

    Persistent ones are given back when this is gone.

    Attributes:
        all: where they are.
        statuses: where those are.
    """

    def __init__(self, requests: Sequence[MPI.Request]) -> None:
        from mpi4py import MPI

        self._mpi = MPI  # nothing can be imported when Python ends
        self._requests, self._size = list(requests), MPI._sizeof(MPI.Request)
        handles = b"".join(ctypes.string_at(MPI._addressof(request), self._size) for request in requests)
        self._handles = np.frombuffer(bytearray(handles), np.uint8)
        self._statuses = np.zeros(len(requests) * MPI._sizeof(MPI.Status), np.uint8)
        self.span = self.part(0, len(requests))
        self.statuses = self._statuses.ctypes.data
        for number in range(len(requests)):
            _OWNERS[self.part(number, 1).address] = self

    def part(self, first: int, count: int) -> Span:
        """``count`` of them from number ``first`` on."""
        return Span(count, self._handles.ctypes.data + first * self._size)

    def of(self, span: Span) -> tuple[list[MPI.Request], slice]:
        """mpi4py's requests, and which of them a part is."""
        first = (span.address - self.span.address) // self._size
        return self._requests, slice(first, first + span.requests)

    def __del__(self) -> None:
        mpi = self._mpi
        for request in self._requests:
            if isinstance(request, mpi.Prequest) and request != mpi.REQUEST_NULL and not mpi.Is_finalized():
                if not request.Test():  # what is still to come would be taken for a later message
                    request.Cancel()
                request.Free()


# Owners of requests, by the address of each.
_OWNERS: WeakValueDictionary[int, Requests] = WeakValueDictionary()


@cache
def abi_problem() -> str | None:
    """The reason why MPI functions cannot be called by their address, if there is one."""
    from mpi4py import MPI

    library = MPI.Get_library_version().split(",")[0].split("\n")[0].strip()
    problem = _size_problem() or _missing_function()
    if problem is None:
        try:
            problem = None if _exchange_agrees() else "an exchange came out differently"
        except (MPI.Exception, ValueError) as error:
            problem = f"an exchange failed: {error}"
    return problem and f"{problem} ({library})"


def _size_problem() -> str | None:
    from mpi4py import MPI

    handles = {MPI._sizeof(kind) for kind in (MPI.Comm, MPI.Datatype, MPI.Request)}
    if len(handles) > 1 or not handles <= {4, 8}:
        return f"handles have {sorted(handles)} bytes, not 4 or 8"
    if handles == {4} and MPI._handleof(MPI.COMM_SELF) >> 32:
        return "handles of 4 bytes have larger values"
    sizes = (ctypes.sizeof(ctypes.c_int), MPI.INT.Get_size(), np.dtype(np.intc).itemsize)
    if set(sizes) != {4}:
        return f"int has {sizes} bytes, not 4"
    if {ctypes.sizeof(ctypes.c_void_p), MPI.AINT.Get_size()} != {8}:
        return "addresses do not have 8 bytes"
    if MPI._sizeof(MPI.Status) < _LEAST_STATUS:
        return f"a status has {MPI._sizeof(MPI.Status)} bytes, fewer than {_LEAST_STATUS}"
    return None


def _missing_function() -> str | None:
    library = _library()
    missing = [name for name in (*PROTOTYPES, "MPI_Wtime") if not hasattr(library, name)]
    return f"{missing[0]} is not found" if missing else None


def _exchange_agrees() -> bool:
    """Compare an exchange of this rank with itself, by address, with that of mpi4py."""
    from mpi4py import MPI

    sent = np.array([7, -3, 1 << 30], np.intc)
    expected, received = np.zeros_like(sent), np.zeros_like(sent)
    counts, places = np.array([2], np.intc), np.array([1], np.intc)
    sides = [[array, counts, places, MPI.INT] for array in (sent, expected)]
    MPI.COMM_SELF.Alltoallv(*sides)
    requests, lists = Requests([MPI.REQUEST_NULL]), (counts.ctypes.data, places.ctypes.data, handle(MPI.INT))
    arguments = sent.ctypes.data, *lists, received.ctypes.data, *lists
    _by_address("MPI_Ialltoallv")(*arguments, handle(MPI.COMM_SELF), requests.span.address)
    _by_address("MPI_Waitall")(*requests.span, requests.statuses)
    return np.array_equal(expected, received) and expected[1] == sent[1]


@cache
def _library() -> ctypes.CDLL:
    from mpi4py import MPI

    return ctypes.CDLL(MPI.__file__)


@cache
def _by_address(name: str) -> Function:
    return Function(name, _address(getattr(_library(), name)), _signature(name))


@cache
def _clock_by_address() -> int:
    return _address(_library().MPI_Wtime)


def _signature(name: str) -> str:
    """The prototype with handles as this library has them; wherever nothing is called, as addresses."""
    from mpi4py import MPI

    return PROTOTYPES[name].replace("h", "i" if MPI._sizeof(MPI.Comm) == 4 else "p")


def _address(pointer: Any) -> int:
    address = ctypes.cast(pointer, ctypes.c_void_p).value
    if address is None:
        raise ValueError("a C function without an address")
    return address


@cache
def _say_once(problem: str) -> None:
    from mpi4py import MPI

    if MPI.COMM_WORLD.rank == 0:
        print(f"MPI is called by mpi4py, which is slower: {problem}", file=sys.stderr, flush=True)


@cache
def _by_mpi4py(name: str) -> Function:
    """A C function with the arguments of ``name`` that does the same by mpi4py's calls."""
    return Function(name, _address(_python_function(name)), PROTOTYPES[name].replace("h", "p"))


@cache  # keeps it alive
def _python_clock() -> Any:
    from mpi4py import MPI

    return ctypes.CFUNCTYPE(ctypes.c_double)(MPI.Wtime)


@cache  # keeps it alive
def _python_function(name: str) -> Any:
    from mpi4py import MPI

    carry_out = _SUBSTITUTES[name]

    def call(*arguments: int) -> int:
        try:
            carry_out(*arguments)
        except MPI.Exception as error:
            return error.Get_error_code()
        except Exception:  # nothing of Python may go through C
            traceback.print_exc()
            return MPI.ERR_INTERN
        return MPI.SUCCESS

    return prototype(PROTOTYPES[name].replace("h", "p"))(call)


def _alltoallv(*arguments: int) -> None:
    comm = _comm(arguments[8])
    comm.Alltoallv(_side(arguments[:4], comm.size), _side(arguments[4:8], comm.size))


def _ialltoallv(*arguments: int) -> None:
    comm = _comm(arguments[8])
    sides = _side(arguments[:4], comm.size), _side(arguments[4:8], comm.size)
    _keep(comm.Ialltoallv(*sides), arguments[9])


def _ineighbor_alltoallv(*arguments: int) -> None:
    comm = cast("MPI.Distgraphcomm", _comm(arguments[8]))
    sides = _side(arguments[:4], comm.outdegree), _side(arguments[4:8], comm.indegree)
    _keep(comm.Ineighbor_alltoallv(*sides), arguments[9])


def _startall(count: int, address: int) -> None:
    from mpi4py import MPI

    if count:
        requests, part = _OWNERS[address].of(Span(count, address))
        MPI.Prequest.Startall([request for request in requests[part] if isinstance(request, MPI.Prequest)])


def _waitall(count: int, address: int, statuses: int) -> None:
    from mpi4py import MPI

    if count:
        requests, part = _OWNERS[address].of(Span(count, address))
        MPI.Request.Waitall(requests[part])


def _iprobe(source: int, tag: int, comm: int, flag: int, status: int) -> None:
    _comm(comm).Iprobe(source, tag)


_SUBSTITUTES: dict[str, Callable[..., None]] = {
    "MPI_Alltoallv": _alltoallv,
    "MPI_Ialltoallv": _ialltoallv,
    "MPI_Ineighbor_alltoallv": _ineighbor_alltoallv,
    "MPI_Startall": _startall,
    "MPI_Waitall": _waitall,
    "MPI_Iprobe": _iprobe,
}


def _comm(number: int) -> MPI.Comm:
    from mpi4py import MPI

    return MPI.Comm.fromhandle(number % (1 << 64))


def _side(arguments: Sequence[int], peers: int) -> list:
    """Buffer, counts, places and datatype of what is sent, or received, as mpi4py takes them."""
    from mpi4py import MPI

    address, *lists, number = arguments
    counts, places = (
        np.ctypeslib.as_array((ctypes.c_int * peers).from_address(list_address)) for list_address in lists
    )
    datatype = MPI.Datatype.fromhandle(number % (1 << 64))
    size = int((counts + places).max(initial=0)) * datatype.Get_size()
    return [MPI.buffer.fromaddress(address, size), counts.tolist(), places.tolist(), datatype]


def _keep(request: MPI.Request, address: int) -> None:
    """Put a request where the caller will look for it."""
    requests, part = _OWNERS[address].of(Span(1, address))
    requests[part] = [request]
