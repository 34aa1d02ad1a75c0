"""The documents that are tested, and their text."""

from functools import cache

from tests.docs.harness import ROOT
from tests.docs.markdown import Block, blocks

DOCUMENTS = tuple(
    path.relative_to(ROOT).as_posix()
    for pattern in ("README.md", "CONTRIBUTING.md", "docs/*.md", "deploy/*.md")
    for path in sorted(ROOT.glob(pattern))
)
"""Whose commands are run."""
ALL = (*DOCUMENTS, "SECURITY.md", "CHANGELOG.md")


@cache
def text_of(file: str) -> str:
    """Return a document."""
    return (ROOT / file).read_text()


def blocks_of(file: str) -> list[Block]:
    """Return the fenced blocks of a document."""
    return list(blocks(file, text_of(file)))
