"""What a Markdown document is made of: fenced blocks, code spans, links, anchors, words. Pure."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

_FENCE = re.compile(
    r"^(?P<indent> *)```(?P<language>\w*)\n(?P<text>.*?)^(?P=indent)```$", re.MULTILINE | re.DOTALL
)
_SPAN = re.compile(r"(?<!`)`([^`]+)`(?!`)")
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#{1,6} +(.+?) *$", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A fenced block: the file and line that it begins in, its language, its text without indentation."""

    file: str
    line: int
    language: str
    text: str

    @property
    def first(self) -> str:
        """Its first line."""
        return self.text.partition("\n")[0]

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


def blocks(file: str, document: str) -> Iterator[Block]:
    """Yield the fenced blocks of a document, in order."""
    for found in _FENCE.finditer(document):
        text = re.sub(rf"^{found['indent']}", "", found["text"], flags=re.MULTILINE)
        yield Block(file, document.count("\n", 0, found.start()) + 1, found["language"], text)


def without_blocks(document: str) -> str:
    """Return what is not in a fenced block."""
    return _FENCE.sub("", document)


def spans(document: str) -> list[str]:
    """Return the code spans outside fenced blocks, each as one line."""
    return [" ".join(span.split()) for span in _SPAN.findall(without_blocks(document))]


def links(document: str) -> list[str]:
    """Return the targets of the links outside code."""
    return _LINK.findall(_SPAN.sub("", without_blocks(document)))


def anchors(document: str) -> set[str]:
    """Return the anchors of the headings, as GitHub makes them."""
    found: dict[str, int] = {}
    names = set()
    for heading in _HEADING.findall(without_blocks(document)):
        text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        name = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
        seen = found.setdefault(name, 0)
        found[name] += 1
        names.add(f"{name}-{seen}" if seen else name)
    return names


def words(document: str) -> int:
    """Count what a reader takes for words, those of code and tables included."""
    return sum(any(character.isalnum() for character in word) for word in document.split())
