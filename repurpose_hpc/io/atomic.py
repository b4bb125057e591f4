"""Files that have their final name only when they are complete, and on disk.

A file is written under a temporary name beside its final one, in which a random part cannot be foretold, and
is on disk before it is renamed.  A link is followed; a device or a pipe takes text as it comes, and nothing
else.

Temporary files are registered from when they are named until they are complete or removed, so that a command
that is aborted can remove all of its process (``remove_registered``).
"""

from __future__ import annotations

import csv
import ctypes
import errno
import io
import os
import re
import secrets
import shutil
import socket
import stat
import tempfile
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from repurpose_hpc.errors import UserError

_registered: set[Path] = set()
# Of a file and of a machine, in temporary names, which file systems limit.
_LONGEST_NAME, _LONGEST_HOST = 150, 40
_NOT_FOR_WANT_OF_SPACE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.EISDIR, errno.ENOTDIR, errno.ENOENT)
# Of Linux' renameat2: names as they are, and the flag that exchanges them.
_HERE, _EXCHANGE = -100, 2


def temporary_name(path: Path) -> Path:
    """``.NAME.HOST.PID.RANDOM.tmp`` beside ``path``, another one each time."""
    return path.with_name(f"{_beginning(path)}{os.getpid()}.{secrets.token_hex(8)}.tmp")


def _beginning(path: Path) -> str:
    """Beginning of the names of temporary files for ``path`` that processes on this machine make."""
    return f".{path.name[:_LONGEST_NAME]}.{socket.gethostname()[:_LONGEST_HOST]}."


def clear_remains(path: Path) -> None:
    """Remove temporary files and directories for ``path`` of processes on this machine that are dead."""
    beginning = _beginning(path)
    for remains in path.parent.glob(".*.tmp"):
        match = re.fullmatch(r"(\d+)\.[0-9a-f]+\.tmp", remains.name.removeprefix(beginning))
        if match and remains.name.startswith(beginning) and _is_dead(int(match[1])):
            _remove(remains)


def _remove(temporary: Path) -> None:
    """Remove a file, or a directory with all that is in it, as far as that is possible."""
    if temporary.is_dir() and not temporary.is_symlink():
        shutil.rmtree(temporary, ignore_errors=True)
    else:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def _is_dead(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except OSError:  # it is another user's
        return False
    return False


def followed(path: Path) -> Path:
    """The file that ``path`` stands for, through links."""
    return path.resolve() if path.is_symlink() else path


def takes_text(path: Path) -> bool:
    """Tell whether ``path`` is a device or a pipe, which takes text as it comes."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return stat.S_ISCHR(mode) or stat.S_ISFIFO(mode)


def put_in_place(temporary: Path, path: Path) -> None:
    """Give a complete file its name, after it is on disk; then see that the name is, too.

    Raises:
        OSError: it did not get to the disk, or cannot be renamed.
    """
    sync_file(temporary)
    os.replace(temporary, path)
    sync_directory(path.parent)


def put_directory_in_place(complete: Path, path: Path) -> None:
    """Exchange a complete directory and that at ``path``, if there is one, in one step if that is possible.

    Where it is not, there is a moment without either; the earlier one then has the name of ``complete`` and
    ``.earlier``.

    Raises:
        OSError: it cannot be renamed.
    """
    if not path.exists():
        complete.rename(path)
    elif not _exchange(complete, path):
        path.rename(complete.with_name(f"{complete.name}.earlier"))
        complete.rename(path)
    sync_directory(path.parent)


def _exchange(first: Path, second: Path) -> bool:
    """Exchange two names; False where system or file system cannot."""
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is None:
        return False
    names = os.fsencode(first.absolute()), os.fsencode(second.absolute())
    return renameat2(_HERE, names[0], _HERE, names[1], _EXCHANGE) == 0


def sync_file(path: Path) -> None:
    """See that a file is on disk.

    Raises:
        OSError: it is not.
    """
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def sync_directory(directory: Path) -> None:
    """See that the names in ``directory`` are on disk, where the file system can do that."""
    with suppress(OSError):
        number = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)


@contextmanager
def registered(*temporaries: Path) -> Iterator[None]:
    """Block during which files that are not complete may exist under these names.

    They may be another process's: an aborted job may kill the rank that writes a file before it can tidy up,
    so every rank registers the file.  They stay registered if an exception ends the block, for whoever
    aborts the command because of it.
    """
    _registered.update(temporaries)
    yield
    _registered.difference_update(temporaries)


def remove_registered() -> None:
    """Remove all temporary files and directories that are registered; for where a command is aborted.

    A process on a machine that does not see such a file leaves it: its name says what it is.
    """
    while _registered:
        _remove(_registered.pop())


@contextmanager
def temporary_directory(path: Path) -> Iterator[Path]:
    """A block with a directory of its own beside ``path``, which goes with all that is in it.

    Raises:
        OSError: it cannot be made.
    """
    directory = temporary_name(path)
    with registered(directory):
        clear_remains(path)
        directory.mkdir(mode=0o700)
        try:
            yield directory
        finally:
            _remove(directory)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what goes wrong while ``path`` is written into a message."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        raise UserError(f"{path}: {refusal(error, path.parent)}") from None


def refusal(error: OSError | RuntimeError, directory: Path) -> str:
    """Why nothing can be written to ``directory``, and what to do: without the names of temporary files."""
    number = error.errno if isinstance(error, OSError) else None
    if number == errno.ENOENT and not directory.exists():
        return f"expected a directory that exists, found none: {directory}; make it, or choose another place"
    reason = os.strerror(number) if number else str(error)
    remedy = "" if number in _NOT_FOR_WANT_OF_SPACE else " or free some space"
    return f"expected to be able to write there: {reason}; choose another place{remedy}"


def check_those_given(*paths: Path | None) -> None:
    """``check_writable`` of the files of text among ``paths`` that are wanted."""
    for path in paths:
        if path is not None:
            check_writable(path)


def check_writable(path: Path, text: bool = True) -> None:
    """Find out now, not at the end of a long run, that ``path`` cannot be written.

    Args:
        path: the final name.
        text: whether text will be written, which a device or a pipe takes.

    Raises:
        UserError: its directory does not exist or is not writable, or it is something else than a file.
    """
    with writing(path):
        target = followed(path)
        if path.is_dir():
            raise IsADirectoryError(f"{path} is a directory")
        if text and takes_text(path):
            if not os.access(path, os.W_OK):
                raise PermissionError(f"{path} is not writable")
            return
        if path.exists() and not path.is_file():
            raise OSError(f"{path} is no regular file")
        with tempfile.TemporaryFile(dir=target.parent):
            pass


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A block that writes a whole file under the name it is given; that file then replaces ``path``.

    Raises:
        UserError: it cannot be written.
    """
    path = followed(path)
    temporary = temporary_name(path)
    with writing(path), registered(temporary):
        clear_remains(path)
        try:
            os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
            yield temporary
            put_in_place(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a whole text file, or to a device or a pipe.

    Raises:
        UserError: it cannot be written.
    """
    if takes_text(path):
        with writing(path), open(path, "w", encoding="utf-8") as device:
            device.write(text)
        return
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_csv(path: Path, columns: Collection[str], rows: Iterable[dict]) -> None:
    """Write a whole table of comma-separated values; None is an empty field.

    Raises:
        UserError: it cannot be written.
    """
    text = io.StringIO()
    writer: csv.DictWriter[str] = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())
