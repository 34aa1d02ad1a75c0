"""Directories as door A lists them, made of the registry's pages; and what names in them can mean. Pure.

Work on a directory of many files is a generator that yields now and then, so that it can be interrupted.
"""

import json
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from mlflow_proxy.errors import BadGatewayError
from mlflow_proxy.mlflow_api.answers import Listed, json_object, listed, next_page
from mlflow_proxy.mlflow_api.client_names import asked_as, is_plain, listed_as, why_unusable
from mlflow_proxy.mlflow_api.messages import StoredResponse
from mlflow_proxy.mlflow_api.reads import Key
from mlflow_proxy.mlflow_api.shapes import LISTING

_SLICE = 1000
"""Entries that are read in one go, which takes about 2 ms."""
_ODD = 20
"""How many times the effort of another entry one takes that clients may ask for by other names."""
_COMMA = b", "
_SENSE = 256
"""Bytes that a meaning takes beside its text (estimate)."""

T = TypeVar("T")
Pausing = Generator[None, None, T]
"""Work that may be interrupted where it yields."""
Part = tuple[Key, StoredResponse]
"""An answer of the registry and where it is stored if it is."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One name in a directory."""

    name: str
    is_dir: bool


@dataclass(frozen=True, slots=True)
class Sense:
    """An entry that something said may mean, in a GET of a file or in a request for a listing."""

    entry: Entry
    asked: bool
    listed: bool

    def is_cut(self, said: str) -> bool:
        """Whether a client that means this entry has cut its name at ``#``."""
        return said != self.entry.name and "#" in self.entry.name


@dataclass(frozen=True, slots=True)
class Unusable:
    """A path that no client can have, and why."""

    path: str
    why: str


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a directory.

    ``texts`` are its entries as this API has them, in JSON, each behind a comma. ``odd`` are names for which
    clients may say something else.
    """

    texts: tuple[bytes, ...]
    odd: tuple[Entry, ...]
    unusable: Unusable | None
    token: str

    @property
    def size(self) -> int:
        """Bytes that it takes, approximately."""
        return sum(map(len, self.texts)) + _SENSE * len(self.odd)


@dataclass(frozen=True, slots=True)
class Directory:
    """A whole directory, made of ``pages`` that were read of the answers ``parts``.

    ``senses`` are all entries that something said may mean, where that is not just the one of this name.
    """

    pages: tuple[Page, ...]
    parts: tuple[Part, ...]
    senses: Mapping[str, tuple[Sense, ...]]

    @property
    def size(self) -> int:
        """Bytes that it takes beside its pages, approximately."""
        return sum(_SENSE * len(senses) + len(said) for said, senses in self.senses.items())

    @property
    def longest(self) -> int:
        """The most segments that a client may send for one name: it may decode an escaped slash."""
        return 1 + max((said.count("/") for said in self.senses), default=0)

    @property
    def unusable(self) -> Unusable | None:
        """Return what in it no client can have, None if there is nothing."""
        return next((page.unusable for page in self.pages if page.unusable), None)

    def chunks(self) -> Iterator[bytes]:
        """Yield what this API answers for it."""
        texts = (text for page in self.pages for text in page.texts)
        yield b'{"files": [' + next(texts, _COMMA)[len(_COMMA) :]
        yield from texts
        yield b"]}"

    def entry(self, name: str) -> Entry | None:
        """Return the entry of this very name, None if there is none."""
        # This stands only where an entry begins: within a name, quotation marks are escaped.
        start = f'{{"path": {json.dumps(name)}, "is_dir": '.encode()
        for page in self.pages:
            for text in page.texts:
                if (place := text.find(start)) >= 0:
                    return Entry(name, text.startswith(b"true", place + len(start)))
        return None


EMPTY = Directory((), (), {})


def read_page(body: bytes, directory: str) -> Pausing[Page]:
    """Read a page of a directory. Raises BadGatewayError for what is none.

    A file that is listed as itself has nothing in it.
    """
    answer = json_object(body)
    token = next_page(answer) if answer is not None else None
    if answer is None or token is None or not LISTING.fits(answer):
        raise _no_page()
    entries, texts, odd, unusable = [], [], [], None
    effort = 0
    for each in answer.get("files") or ():
        file = listed(each)
        if file is None:
            raise _no_page()
        if directory and file.path == directory:
            continue
        below = file.path.removeprefix(f"{directory}/") if directory else file.path
        plain = is_plain(below)
        if not plain and (why := why_unusable(below)) is not None:
            unusable = unusable or Unusable(file.path, why)
        else:
            entries.append(_described(file))
            if not is_plain(file.name):
                odd.append(Entry(file.name, file.is_dir))
        effort += 1 if plain else _ODD
        if effort >= _SLICE:
            texts += _texts(entries)
            entries, effort = [], 0
            yield
    yield
    return Page((*texts, *_texts(entries)), tuple(odd), unusable, token)


def put_together(pages: Sequence[Page], parts: Sequence[Part]) -> Pausing[Directory]:
    """Make a directory of all its pages."""
    senses: dict[str, list[Sense]] = {}
    odd = [entry for page in pages for entry in page.odd]
    for number, entry in enumerate(odd, 1):
        asked, listed = asked_as(entry.name), listed_as(entry.name)
        for said in asked | listed:
            if said != entry.name:
                senses.setdefault(said, []).append(Sense(entry, said in asked, said in listed))
        if number * _ODD % _SLICE == 0:
            yield
    # What may be said for another name may be a name of its own.
    for text in (text for page in pages for text in page.texts) if senses else ():
        for file in json.loads(b"[%b]" % text[len(_COMMA) :]):
            if file["path"] in senses:
                itself = Entry(file["path"], file["is_dir"])
                senses[itself.name].append(Sense(itself, asked=True, listed=True))
        yield
    return Directory(tuple(pages), tuple(parts), {said: tuple(meant) for said, meant in senses.items()})


def _texts(entries: list[dict[str, Any]]) -> list[bytes]:
    return [_COMMA + json.dumps(entries)[1:-1].encode()] if entries else []


def _described(file: Listed) -> dict[str, Any]:
    size = {} if file.size is None else {"file_size": file.size}
    return {"path": file.name, "is_dir": file.is_dir, **size}


def _no_page() -> BadGatewayError:
    return BadGatewayError("The workspace's answer is not a listing of files.")
