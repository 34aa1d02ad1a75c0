"""The README is short enough to be read, and every link in the documents leads somewhere."""

import pytest

from tests.docs.documents import ALL, blocks_of, text_of
from tests.docs.harness import ROOT
from tests.docs.markdown import anchors, links, words


def test_the_readme_is_read_in_five_minutes() -> None:
    assert words(text_of("README.md")) <= 1800


def test_the_readme_has_the_commands_that_set_it_up() -> None:
    lines = [line for block in blocks_of("README.md") for line in block.text.splitlines()]
    commands = {line.partition("#")[0].strip() for line in lines}
    assert {"make demo", "make test"} <= commands


@pytest.mark.parametrize("file", ALL)
def test_links_lead_somewhere(file: str) -> None:
    directory = (ROOT / file).parent
    for link in links(text_of(file)):
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        target = directory / path if path else ROOT / file
        assert target.exists(), f"{file} links to {link}: there is no such file"
        if anchor:
            name = target.resolve().relative_to(ROOT).as_posix()
            assert anchor in anchors(text_of(name)), f"{file} links to {link}: there is no such heading"


def test_every_document_is_linked_from_the_readme() -> None:
    linked = {link.partition("#")[0] for link in links(text_of("README.md"))}
    assert set(ALL) - {"README.md"} <= linked
