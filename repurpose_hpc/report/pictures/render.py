"""Pictures as SVG, for a page or a file, and as PNG; the same picture always has the same bytes."""

from __future__ import annotations

import io
import re
import textwrap
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape
from pathlib import Path
from xml.etree import ElementTree

import matplotlib
import matplotlib.style
from matplotlib.figure import Figure

from repurpose_hpc.io.atomic import replacing
from repurpose_hpc.report.pictures import style
from repurpose_hpc.report.pictures.picture import Picture

# Letters of a title in a line, for each inch.
_LETTERS = 11
_REFERENCE = re.compile(r"url\(#([^)]*)\)")
# Without which files have no dates and name no programs.
_NO_DATES = {"svg": {"Date": None, "Creator": None, "Format": None, "Type": None}, "png": {"Software": None}}


def inline_svg(picture: Picture, anchor: str) -> str:
    """The picture as an element of an HTML page, without a title.

    Args:
        picture: to draw.
        anchor: unique in the page; all names inside begin with it.
    """
    with drawn(picture) as figure:
        image = io.BytesIO()
        figure.savefig(image, format="svg", metadata=_NO_DATES["svg"])
    return _embedded(image.getvalue(), anchor)


def write_files(picture: Picture, directory: Path, name: str) -> None:
    """Write the picture with its title as ``NAME.svg`` and ``NAME.png``.

    Raises:
        UserError: they cannot be written.
    """
    with drawn(picture) as figure:
        lines = textwrap.wrap(picture.title, round(_LETTERS * figure.get_figwidth()))
        figure.set_figheight(figure.get_figheight() + 0.17 * len(lines))
        figure.suptitle("\n".join(lines), x=0.01, ha="left", fontsize=9.5, fontweight="bold")
        for kind, metadata in _NO_DATES.items():
            image = io.BytesIO()
            figure.savefig(image, format=kind, metadata=metadata)
            content = image.getvalue()
            with replacing(directory / f"{name}.{kind}") as temporary:
                temporary.write_bytes(_read_aloud(content, picture) if kind == "svg" else content)


def _read_aloud(image: bytes, picture: Picture) -> bytes:
    """An SVG file with what screen readers say of it: title and note of the picture."""
    before, opening, rest = image.decode().partition("<svg ")
    attributes, _, inside = rest.partition(">")
    numbers = picture.numbers.caption
    said = (
        f'<title id="title">{escape(picture.title)}</title>\n '
        f'<desc id="desc">{escape(f"{picture.note} {numbers}.".strip())}</desc>'
    )
    role = 'role="img" aria-labelledby="title" aria-describedby="desc" '
    return f"{before}{opening}{role}{attributes}>\n {said}{inside}".encode()


@contextmanager
def drawn(picture: Picture) -> Iterator[Figure]:
    """A block with the picture as a figure, in which nothing depends on the user's matplotlib."""
    with matplotlib.style.context(["default", style.RC]), warnings.catch_warnings():
        # The font that measures text may lack letters that a browser finds elsewhere.
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)
        warnings.filterwarnings("ignore", "Data has no positive values", UserWarning)
        width = style.WIDE if picture.is_wide else style.WIDTH
        figure = Figure(figsize=(width, picture.height), layout="constrained")
        picture.draw(figure)
        yield figure


def _embedded(image: bytes, anchor: str) -> str:
    """SVG without namespaces, which HTML does not need, and with names of its own."""
    root = ElementTree.fromstring(image)
    for parent in list(root.iter()):
        for child in [child for child in parent if child.tag.endswith("}metadata")]:
            parent.remove(child)
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
        element.attrib = {
            name.rpartition("}")[2]: _renamed(name, value, anchor) for name, value in element.attrib.items()
        }
    for name in ("width", "height", "version"):
        root.attrib.pop(name, None)
    root.attrib |= {"aria-hidden": "true", "focusable": "false"}
    return ElementTree.tostring(root, encoding="unicode")


def _renamed(name: str, value: str, anchor: str) -> str:
    """The value of an attribute in which names begin with ``anchor``."""
    if name == "id":
        return f"{anchor}-{value}"
    if name.endswith("href") and value.startswith("#"):
        return f"#{anchor}-{value[1:]}"
    return _REFERENCE.sub(rf"url(#{anchor}-\1)", value)
