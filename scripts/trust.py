"""Faults, kills and long runs of the real commands, and the tables of docs/trust.md.

    python scripts/trust.py DIR [PART ...] [--only TEXT]

measures what is missing, row by row: a call that ends early goes on where it was.  Rows lie in DIR, in a file
for each part.  With no PART, everything is measured and the tables are written.  Disks of a size of their own
and a small /dev/shm take root.
"""

from __future__ import annotations

import argparse
import json
import re
import signal
import sys
from pathlib import Path
from typing import Any

import environment

sys.path[:0] = [str(environment.ROOT), str(environment.ROOT / "tests")]

from faults import both, files, launcher, resumption, signals, soak  # noqa: E402
from faults.table import tables  # noqa: E402

PARTS = {
    "signals": signals,
    "files": files,
    "both": both,
    "launcher": launcher,
    "resumption": resumption,
    "soak": soak,
}
PAGE = environment.ROOT / "docs" / "trust.md"
_TABLES = re.compile(r"(<!-- faults -->\n).*?(<!-- end -->)", re.S)


def main() -> None:
    """Measure what is missing, then write the tables."""
    args = _arguments()
    # A shell lets what it starts in the background ignore it, and so would all commands.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    args.folder.mkdir(parents=True, exist_ok=True)
    for part in args.parts or PARTS:
        measure(part, args.folder, args.only)
    if not args.parts and not args.only:
        text = tables({part: read(part, args.folder) for part in PARTS})
        page = PAGE.read_text(encoding="utf-8")
        PAGE.write_text(
            _TABLES.sub(lambda marked: f"{marked[1]}\n{text}\n{marked[2]}", page), encoding="utf-8"
        )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, metavar="DIR")
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; default: all")
    parser.add_argument("--only", default="", metavar="TEXT", help="rows whose name has it")
    args = parser.parse_args()
    args.folder = args.folder.resolve()
    if unknown := set(args.parts) - PARTS.keys():
        parser.error(f"no part {', '.join(unknown)}, expected some of {', '.join(PARTS)}")
    return args


def measure(part: str, folder: Path, only: str = "") -> None:
    """Measure the rows of a part that are missing, and write each down at once."""
    done = {row["name"] for row in read(part, folder)}
    for case in PARTS[part].cases():
        if case.name in done or only not in case.name:
            continue
        row = {"name": case.name, **PARTS[part].measure(case, folder)}
        with _store(part, folder).open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        print(case.name, row["wrong"] or "as it should be", row.get("text", ""), sep=" | ", flush=True)


def read(part: str, folder: Path) -> list[dict[str, Any]]:
    """The rows of a part that were measured."""
    store = _store(part, folder)
    return [json.loads(line) for line in store.read_text().splitlines()] if store.exists() else []


def _store(part: str, folder: Path) -> Path:
    return folder / f"{part}.jsonl"


if __name__ == "__main__":
    main()
