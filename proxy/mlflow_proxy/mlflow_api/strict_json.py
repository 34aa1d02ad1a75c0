"""JSON that every reader takes alike (RFC 8259). Pure."""

import json
from collections.abc import Callable


def strict_json(body: bytes, whole_number: Callable[[str], int] = int) -> object:
    """Return the value of a JSON text in UTF-8. Raises ValueError if it is none, or too deep to be read.

    A repeated member is an error as well: parsers differ on which of them counts (section 4).
    ``whole_number`` reads those, and may raise ValueError.
    """
    try:
        return json.loads(body.decode(), object_pairs_hook=_object, parse_int=whole_number)
    except RecursionError as error:
        raise ValueError("too many brackets in brackets") from error


def _object(members: list[tuple[str, object]]) -> dict[str, object]:
    unique = dict(members)
    if len(unique) < len(members):
        raise ValueError("repeated member")
    return unique
