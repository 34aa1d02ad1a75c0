"""Which file or directory a client means: its path is looked up in the listings of the directories on it.

Clients change names before they ask for them (``mlflow_api.client_names``), so that a request can mean
several files. If only one of them exists, it is that one. If several do, the client gets AmbiguousNameError
rather than what may be another file. The listings are usually stored, since the client has just walked the
directories; otherwise they are fetched once for all clients.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from mlflow_proxy.access.sharing import Caller
from mlflow_proxy.artifacts.listings import Found, Listings
from mlflow_proxy.errors import AmbiguousNameError
from mlflow_proxy.mlflow_api.artifact_paths import ModelFile
from mlflow_proxy.mlflow_api.client_names import shown
from mlflow_proxy.reading.answer import Answer
from mlflow_proxy.term import Terms, together

_MOST_WAYS = 8
"""That are followed at once. A request that may mean more is as good as one that may mean two."""

Purpose = Literal["file", "listing"]


@dataclass(frozen=True, slots=True)
class _Way:
    """What the beginning of a request may mean: a path, for so many of its segments.

    ``cut`` if the client has not said what is meant below this path; ``above`` is where its last name is.
    """

    names: tuple[str, ...] = ()
    taken: int = 0
    cut: bool = False
    above: Found | None = None

    @property
    def path(self) -> str:
        return "/".join(self.names)


@dataclass(frozen=True, slots=True)
class Meant:
    """What a client means, and the directory that it is in: None for the root.

    ``terms`` is until when it means the same, None if that is not known.
    """

    file: ModelFile
    above: Found | None
    terms: Terms | None

    @property
    def is_file(self) -> bool:
        """Whether it is known to be no directory."""
        entry = self.above.directory.entry(self.file.path.rpartition("/")[2]) if self.above else None
        return entry is not None and not entry.is_dir


class Names:
    """Finds out what clients mean."""

    def __init__(self, listings: Listings) -> None:
        self._listings = listings

    async def meant(
        self, caller: Caller, said: ModelFile, purpose: Purpose, deadline: float
    ) -> Meant | Answer:
        """Return what a client means, or the workspace's answer if it does not let that be found out.

        What can mean nothing that exists means itself. ``caller`` and ``deadline`` are as of
        ``Pipeline.ask``. Raises AnswerableError; AmbiguousNameError if several files or directories may be
        meant.
        """
        segments = said.path.split("/") if said.path else []
        ways, ends = [_Way()], list[_Way]()
        terms: Terms | None = ()
        while ways:
            onward: list[_Way] = []
            for way in ways:
                if way.cut or way.taken == len(segments):
                    ends.append(way)
                    continue
                found = await self._listings.find(caller, replace(said, path=way.path), deadline)
                terms = together(terms, found.terms)
                if isinstance(found, Found):
                    onward += _steps(found, way, segments, purpose)
                elif found.response.status != 404 or len(ways) == 1:
                    return found._replace(terms=terms)
            ways = onward
            if len(ways) + len(ends) > _MOST_WAYS:
                raise _ambiguous(said, [*ways, *ends])
        if len(ends) > 1:
            terms = None
            ends = [way for way in ends if await self._exists(caller, said, way, purpose, deadline)]
        if len(ends) > 1:
            raise _ambiguous(said, ends)
        if not ends or ends[0].cut:
            return Meant(said, None, terms)
        return Meant(replace(said, path=ends[0].path), ends[0].above, terms)

    async def _exists(
        self, caller: Caller, said: ModelFile, way: _Way, purpose: Purpose, deadline: float
    ) -> bool:
        for place, name in enumerate(way.names):
            above = replace(said, path="/".join(way.names[:place]))
            found = await self._listings.find(caller, above, deadline)
            entry = found.directory.entry(name) if isinstance(found, Found) else None
            last = place == len(way.names) - 1
            if entry is None or not (entry.is_dir or last):
                return False
            if last and entry.is_dir and purpose == "file" and not way.cut:
                return False
        return True


def _steps(found: Found, way: _Way, segments: Sequence[str], purpose: Purpose) -> Iterator[_Way]:
    """Yield what the next segments may mean in the directory that was found."""
    directory = found.directory
    left = len(segments) - way.taken
    for count in range(1, min(left, directory.longest) + 1):
        said = "/".join(segments[way.taken : way.taken + count])
        names = {
            sense.entry.name: sense.entry.is_dir and sense.is_cut(said)
            for sense in directory.senses.get(said, ())
            if (sense.asked if purpose == "file" else sense.listed)
            and (sense.entry.is_dir or count == left)
            and (count == left or not sense.is_cut(said))
        }
        if count == 1 and not names:
            names = {said: False}
        for name, cut in names.items():
            yield _Way((*way.names, name), way.taken + count, cut, found)


def _ambiguous(said: ModelFile, ways: Sequence[_Way]) -> AmbiguousNameError:
    paths = [shown(way.path + "/" * way.cut) for way in ways]
    return AmbiguousNameError(
        f"A client that asks for {shown(said.path)} may mean {' or '.join(paths)}: "
        "MLflow clients do not tell these names apart. Rename all but one of them."
    )
