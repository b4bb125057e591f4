"""Machine code on disk: a machine compiles a kernel once, and all later processes load it.

*Place.*  A folder of the user's, the first of these that can be made: in ``$NUMBA_CACHE_DIR``, if that is
set, in the user's cache directory, in the one for temporary files.  Machine code is code: the folder has mode
0700, and one that is another user's, or that others can write to, is passed over.  Where there is none, every
process compiles.

*Key.*  Its name is a digest of the sources of all kernels and of the versions of Python, NumPy, Numba and
llvmlite; Numba tells processors apart.  So environments share it, and edited kernels are compiled anew, also
those that inline what was edited.

*Age.*  A folder in use is marked once a day.  Those that were not for two months go: each change of a version
leaves one of about 10 MB.

*Lock.*  A process that finds no machine code of a function takes the function's lock, and looks once more
before it compiles.  The others sleep, then load.  A lock ends with its process in whatever way that ends.
A function waits only for those that it calls, so that nobody waits in a circle.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
import shutil
import stat
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import llvmlite
import numba
import numpy
from numba.core.caching import CompileResultCacheImpl, FunctionCache, _CacheLocator

_PACKAGE = Path(__file__).resolve().parent
# A process that was stopped keeps its lock: after so many seconds others compile for themselves.
_LONGEST_WAIT = 300.0
_DAY = 86_400.0
_LONGEST_UNUSED = 60 * _DAY


@cache
def directory() -> Path | None:
    """The folder of machine code of these sources and versions, made if need be; None: there is none."""
    for place in _places():
        folder = place / f"kernels-{_key()}"
        with suppress(OSError):
            folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with suppress(FileExistsError):
                folder.mkdir(mode=0o700)
            if _is_private(folder) and os.access(folder, os.W_OK):
                _mark_used(folder)
                return folder
    return None


def _places() -> Iterator[Path]:
    if chosen := os.environ.get("NUMBA_CACHE_DIR"):
        yield Path(chosen)
    with suppress(RuntimeError):  # no home directory
        yield Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()) / "repurpose-hpc"
    yield Path(tempfile.gettempdir()) / f"repurpose-hpc-{os.geteuid()}"


def _is_private(folder: Path) -> bool:
    """Say if a folder, not a link to one, is the user's, and nobody else can write to it."""
    about = folder.lstat()
    others = stat.S_IWGRP | stat.S_IWOTH
    return stat.S_ISDIR(about.st_mode) and about.st_uid == os.geteuid() and not about.st_mode & others


def _mark_used(folder: Path) -> None:
    """Mark a folder as used today, at the first use of a day, and then remove those that nobody uses."""
    now = time.time()
    if now - folder.stat().st_mtime < _DAY:
        return
    os.utime(folder)
    for other in folder.parent.glob("kernels-" + 16 * "[0-9a-f]"):
        if _is_private(other) and now - other.stat().st_mtime > _LONGEST_UNUSED:
            shutil.rmtree(other, ignore_errors=True)


@cache
def _key() -> str:
    versions = [library.__version__ for library in (numpy, numba, llvmlite)]
    digest = hashlib.sha256("\n".join([sys.version, platform.machine(), *versions]).encode())
    for source in sorted(_PACKAGE.rglob("*.py")):
        digest.update(f"\n{source.relative_to(_PACKAGE)}\n".encode())
        digest.update(source.read_bytes())
    return digest.hexdigest()[:16]


class KernelCache(FunctionCache):
    """The machine code of a function, for each combination of argument types."""

    def __init__(self, function: Any) -> None:
        """Finds the files of ``function``; there must be a ``directory``."""
        super().__init__(function)
        self._lock_path = Path(self.cache_path) / f"{self._impl.filename_base}.lock"
        self._lock: int | None = None

    def load_overload(self, signature: Any, target_context: Any) -> Any:
        """What is there for a signature; None: this process has to compile, and the others wait for it."""
        found = self._load(signature, target_context)
        if found is None and self._lock is None:
            self._lock = _locked(self._lock_path, _LONGEST_WAIT)
            found = self._load(signature, target_context)
            if found is not None:
                self._release()
        return found

    def _load(self, signature: Any, target_context: Any) -> Any:
        try:
            return super().load_overload(signature, target_context)
        except Exception:  # whatever reading a damaged file may raise
            with suppress(OSError):
                self.flush()
            return None

    def save_overload(self, signature: Any, compiled: Any) -> None:
        """Keep what was compiled, if there is room, and let the others go on."""
        try:
            with suppress(OSError):
                super().save_overload(signature, compiled)
        finally:
            self._release()

    def is_compiled_elsewhere(self) -> bool:
        """Say if another process is at work on the function, so that there is time for something else."""
        # Shared with others that only look, who must not take each other for compilers.
        descriptor = _locked(self._lock_path, 0.0, fcntl.LOCK_SH)
        if descriptor is not None:
            os.close(descriptor)
        return descriptor is None

    def _release(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def _locked(path: Path, longest_wait: float, kind: int = fcntl.LOCK_EX) -> int | None:
    """A descriptor of a file that is locked until it is closed; None: another process has it for that long.

    Where there are no locks nobody is kept out: the same may be compiled, and written, twice.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    except OSError:  # no more files can be made here
        return os.open(os.devnull, os.O_RDONLY)
    pause, until = 0.002, time.monotonic() + longest_wait
    while True:
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= until:
                os.close(descriptor)
                return None
        except OSError:  # a file system without locks
            return descriptor
        else:
            return descriptor
        time.sleep(pause)
        pause = min(1.5 * pause, 0.05)


class _Locator(_CacheLocator):
    """The place of a function's machine code, as Numba asks for it."""

    def __init__(self, source: Path, line: int) -> None:
        self._source, self._line = source, line
        self._py_file = str(source)  # Numba's warnings name it

    @classmethod
    def from_function(cls, function: Any, source: str) -> _Locator:
        return cls(Path(source).resolve(), function.__code__.co_firstlineno)

    def ensure_cache_path(self) -> None:
        """Nothing to do: the folder is there."""

    def get_cache_path(self) -> str:
        return str(directory())

    def get_source_stamp(self) -> str:
        """What a change of is noticed: of kernels it is in the name of the folder."""
        return "" if self._is_kernel() else hashlib.sha256(self._source.read_bytes()).hexdigest()

    def get_disambiguator(self) -> str:
        """What tells functions of one name and file name apart, wherever the package lies."""
        source = self._source.relative_to(_PACKAGE) if self._is_kernel() else self._source
        return f"{self._line}-{hashlib.sha256(str(source).encode()).hexdigest()[:8]}"

    def _is_kernel(self) -> bool:
        return self._source.is_relative_to(_PACKAGE)


class _Implementation(CompileResultCacheImpl):
    _locator_classes = [_Locator]


KernelCache._impl_class = _Implementation


def keep(compiled: Any, function: Any) -> None:
    """Let a function of Numba's, which compiles ``function``, have its machine code on disk."""
    if not numba.config.DISABLE_JIT and directory() is not None:
        compiled._cache = KernelCache(function)
