"""Choose seeds for ``fuzz_guided.py`` and the tests from what it has found.

    python scripts/fuzz_seeds.py CORPUS [READER ...]

Of the inputs below CORPUS, its ``--corpus``, the small ones come first, and one that runs lines of the
package which none before it has run is kept in tests/data/seeds/, after those that are there.  None is kept
of readers that hand damaged files to a library which may crash.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Any

from fuzz_readers import READERS, Files, Reader, judge, limit_memory, valid_files

from helpers.seeds import keep, seeds, unpacked

PACKAGE = str(Path(__file__).resolve().parent.parent / "repurpose_hpc")
# An input that takes longer to read is no small one.
SECONDS = 1.0
Lines = set[tuple[str, int]]


def chosen(reader: Reader, inputs: list[Files]) -> list[Files]:
    """Those of ``inputs`` that run more than valid files and all before them."""
    known, found = lines_of(reader, valid_files(reader)), []
    for files in inputs:
        if is_harmless(reader, files) and (lines := lines_of(reader, files)) - known:
            known |= lines
            found.append(files)
    return found


def is_harmless(reader: Reader, files: Files) -> bool:
    """Whether files are read or refused soon, and with little memory; call ``limit_memory`` before."""
    began = time.perf_counter()
    verdict, reason = judge(reader, files)
    short_of_memory = "memory" in reason or "allocate" in reason
    return verdict != "FAULT" and not short_of_memory and time.perf_counter() - began < SECONDS


def lines_of(reader: Reader, files: Files) -> Lines:
    """The lines of the package that judging ``files`` runs."""
    lines: Lines = set()

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        if frame.f_code.co_filename.startswith(PACKAGE):
            lines.add((frame.f_code.co_filename, frame.f_lineno))
            return trace
        return None

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        judge(reader, files)
    finally:
        sys.settrace(before)
    return lines


def main(argv: list[str] | None = None) -> None:
    """Choose, and say how much was kept."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("corpus", type=Path, metavar="CORPUS")
    parser.add_argument("readers", nargs="*", metavar="READER", help=f"of {', '.join(READERS)}; default: all")
    args = parser.parse_args(argv)
    limit_memory()
    for name in args.readers or READERS:
        texts = [path.read_bytes() for path in (args.corpus / name).glob("*")]
        if texts and not READERS[name].trusts:
            found = chosen(READERS[name], [*seeds(name), *map(unpacked, sorted(texts, key=len))])
            keep(name, found)
            print(f"{name}: {len(found)} of {len(texts)} inputs, {sum(map(_size, found))} bytes")


def _size(files: Files) -> int:
    return sum(map(len, files.values()))


if __name__ == "__main__":
    main()
