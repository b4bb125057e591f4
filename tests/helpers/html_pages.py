"""A reader of HTML that notices what a browser would mend in silence, or ask others for."""

from __future__ import annotations

from collections import Counter
from html.parser import HTMLParser

# Elements of HTML without an end.
_VOID = {"meta", "br", "img", "link", "input", "hr"}
# Attributes by which a page asks for something.
_ASKING = {"src", "href", "action", "data", "poster", "srcset", "background"}


class Page(HTMLParser):
    """What is in a page.

    Args:
        text: HTML.

    Attributes:
        ids: how often each occurs.
        links: that lead into the page, without ``#``.
        asked: addresses outside the page, but for images that are in it.
        tags: how often each occurs.
        scripts: attributes and elements that would run code.
        outline: tags of headings, figures and tables in order.
        words: all text, in a row.
    """

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids, self.tags = Counter[str](), Counter[str]()
        self.links: list[str] = []
        self.asked: list[str] = []
        self.scripts: list[str] = []
        self.outline: list[str] = []
        self._words: list[str] = []
        self._open: list[str] = []
        self.attributes: list[tuple[str, dict[str, str]]] = []
        self.feed(text)
        self.close()
        assert self._open == [], f"{self._open} are never closed"

    @property
    def words(self) -> str:
        return " ".join("".join(self._words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag not in _VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        given = {name: value or "" for name, value in attrs}
        self.attributes.append((tag, given))
        if tag == "script":
            self.scripts.append(tag)
        if tag in ("h1", "h2", "h3", "figure", "svg", "table"):
            self.outline.append(tag)
        for name, value in given.items():
            if name.startswith("on") or "javascript:" in value:
                self.scripts.append(f"{tag} {name}")
            if name == "id":
                self.ids[value] += 1
            if name in _ASKING and value.startswith("#"):
                self.links.append(value[1:])
            elif name in _ASKING and not value.startswith("data:image/png;base64,"):
                self.asked.append(value)

    def handle_endtag(self, tag: str) -> None:
        assert self._open and self._open[-1] == tag, f"</{tag}> ends {self._open[-1:]}"
        self._open.pop()

    def handle_data(self, data: str) -> None:
        self._words.append(data)
