"""Make a site of all documents, with a reference from docstrings, by Sphinx (extra ``docs``).

    python scripts/site_of_documents.py --out site

README.md is its first page.  A link that leads nowhere, or a docstring that cannot be read, is an error, and
the exit status is 1.  Documents are copied first, with the files that they link to, as the README is beside
their folder and not in it.
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCES = (
    "README.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "CHANGELOG.md",
    "findings/README.md",
    "docs/**/*.md",
)
# In the order of the menu; all others follow.
FIRST = (
    *("docs/tutorial", "docs/choosing", "docs/concepts", "reference", "docs/models", "docs/networks"),
    *("docs/method", "docs/finetuning", "docs/transformers", "docs/formats", "docs/export", "docs/clusters"),
)
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s:#]+)(#[^)\s]*)?\)")
SETTINGS = {
    "project": "repurpose-hpc",
    "extensions": ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"],
    "html_theme": "furo",
    "myst_heading_anchors": 4,
    "autodoc_typehints": "description",
    "autodoc_member_order": "bysource",
    "exclude_patterns": [],
    # Fields of options are declared with ranges and help, which their docstrings repeat.
    "napoleon_use_ivar": True,
}


def main() -> int:
    """Build the site; the exit status is 1 if anything is wrong with it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("site"))
    out = parser.parse_args().out
    with tempfile.TemporaryDirectory() as folder:
        return build(Path(folder), out)


def build(folder: Path, out: Path) -> int:
    """Copy the documents to ``folder`` and build the site ``out``; 1 if there were warnings, else 0."""
    from sphinx.application import Sphinx

    pages = [path for pattern in SOURCES for path in sorted(ROOT.glob(pattern))]
    for page in pages:
        _copy(page, pages, folder)
    (folder / "reference.md").write_text(reference(), encoding="utf-8")
    menu = _menu([_name(page) for page in pages])
    with open(folder / "index.md", "a", encoding="utf-8") as file:
        file.write(menu)
    app = Sphinx(folder, None, out, folder / ".doctrees", "html", SETTINGS, status=None, keep_going=True)
    app.build()
    return int(app._warncount > 0)


def _name(page: Path) -> str:
    """Of a document in the site."""
    name = page.relative_to(ROOT).with_suffix("").as_posix()
    return "index" if name == "README" else name


def _copy(page: Path, pages: list[Path], folder: Path) -> None:
    """A document, its links as the site has them, and the files that it links to."""

    def link(found: re.Match[str]) -> str:
        image, text, path, anchor = found[1], found[2], found[3], found[4] or ""
        target = (page.parent / path).resolve()
        if target == ROOT / "README.md":
            up = "../" * len(page.parent.relative_to(ROOT).parts)
            return f"[{text}]({up}index.md{anchor})"
        if target.is_dir() or (target.suffix == ".md" and target not in pages):  # it is not in the site
            return text
        if target.suffix != ".md":
            place = folder / target.relative_to(ROOT)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(target, place)
        return f"{image}[{text}]({path}{anchor})"

    text = LINK.sub(link, page.read_text(encoding="utf-8"))
    place = folder / f"{_name(page)}.md"
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(text, encoding="utf-8")


def _menu(names: list[str]) -> str:
    """The table of contents, which the theme shows beside every page."""
    first = [name for name in FIRST if name in (*names, "reference")]
    others = [name for name in names if name not in (*first, "index")]
    return "\n".join(["", "```{toctree}", ":hidden:", "", *first, *others, "```", ""])


def reference() -> str:
    """The page of all that a library user imports, from docstrings."""
    return "\n".join(["# Reference", "", "```{eval-rst}", *_entries(), "```", ""])


def _entries() -> Iterator[str]:
    import repurpose_hpc

    yield from (".. currentmodule:: repurpose_hpc", "")
    for name in dir(repurpose_hpc):
        if not name.startswith("_"):
            is_class = isinstance(getattr(repurpose_hpc, name), type)
            yield f".. {'autoclass' if is_class else 'autofunction'}:: {name}"
            yield from (["   :members:", ""] if is_class else [""])


if __name__ == "__main__":
    sys.exit(main())
