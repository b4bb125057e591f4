"""The command ``report``: shards, reports, tables and traces as pictures, in one HTML file and as files.

It runs in one process, needs matplotlib, and makes the same bytes of the same input.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from repurpose_hpc.commands.parser import parser_maker, plain_parse
from repurpose_hpc.errors import Note, UserError
from repurpose_hpc.fields import Access, Declared, count, option, path, paths
from repurpose_hpc.io.atomic import check_writable, write_text, writing
from repurpose_hpc.io.speech import tell

if TYPE_CHECKING:
    from repurpose_hpc.commands.start import Context


def run(args: Arguments, context: Context) -> None:
    """Run the command in this process.

    Args:
        args: see ``parse``.
        context: of the start.

    Raises:
        UserError: a file cannot be read or written, there is nothing to draw, or matplotlib is missing.
    """
    if find_spec("matplotlib") is None:
        raise UserError(
            "report draws with matplotlib, which is not installed; pip install 'repurpose-hpc[plot]'"
        )
    check_writable(args.out)
    from repurpose_hpc.report.page import notes_on_none, page, pictures_of_sources
    from repurpose_hpc.report.pictures.render import write_files
    from repurpose_hpc.report.sources import open_source

    sources = [open_source(place) for place in args.sources]
    shown = pictures_of_sources(sources)
    text = page(shown, sources, args.command_line)
    for note in notes_on_none(shown, sources):
        warnings.warn(note, Note, stacklevel=2)
    if args.figures is not None:
        with writing(args.figures):
            args.figures.mkdir(parents=True, exist_ok=True)
        for each in shown:
            write_files(each.picture, args.figures, each.anchor)
    write_text(args.out, text)
    pictures = count(len(shown), "picture")
    beside = f", and as files in {args.figures}" if args.figures is not None else ""
    tell({"written": str(args.out), "pictures": len(shown)}, f"{pictures} in {args.out}{beside}")


@dataclass(frozen=True, kw_only=True)
class Arguments(Declared):
    """What to draw, and where to."""

    sources: tuple[Path, ...] = option(
        kind=paths("shards"),
        positional=True,
        repeated=True,
        metavar="DIR|REPORT.json",
        help="shards, reports of any command, tables of study and scaling, or traces of infer and generate",
    )
    out: Path = option(kind=path("report.html", Access.WRITES), metavar="FILE.html", help="gets the page")
    figures: Path | None = option(
        None,
        kind=path("figures", Access.ADDS),
        metavar="DIR",
        help="gets every picture as a file, .svg and .png",
    )

    @property
    def command_line(self) -> str:
        """The words that make the same page."""
        from repurpose_hpc.io.invocation import command_line

        return command_line("report", *map(str, self.sources), "--out", str(self.out))


make_parser = parser_maker("report", Arguments)
parse = plain_parse(make_parser, Arguments)
