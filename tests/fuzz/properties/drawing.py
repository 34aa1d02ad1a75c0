"""What properties draw their arguments from: texts of pieces that matter, JSON, and bytes that are bent."""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

Arguments = tuple[Any, ...]


@dataclass(frozen=True)
class Property:
    """``make`` draws arguments, ``wrong`` says what is wrong with what comes of them."""

    make: Callable[[Random], Arguments]
    wrong: Callable[..., str]


PIECES = (
    *(
        "name",
        "version",
        "path",
        "page_token",
        "=",
        "=",
        "=",
        "&",
        "&",
        "&",
        ";",
        "%",
        "%6d",
        "%zz",
        "%ff",
        "+",
    ),
    *(
        "%2B",
        "%26",
        "%3D",
        "%3d",
        "m",
        "n",
        "1",
        "a/b",
        "/",
        "\u00fc",
        "%C3%BC",
        "%c3",
        "\udcff",
        "",
        "\0",
        "#",
        "?",
    ),
    *(
        "%ed%a0%80",
        "%f4%90%80%80",
        "%c0%80",
        "%00",
        "\ufeff",
        "\u2028",
        " ",
        "%20",
        "name=m",
        "name=m&version=1",
    ),
)


def some_text(chance: Random, pieces: tuple[str, ...] = PIECES, most: int = 10) -> str:
    """Draw some of these pieces in a row, now and then another character between."""
    return "".join(
        chance.choice(pieces) if chance.random() < 0.95 else chr(chance.choice((0x7F, 0x100, 0x1F600, 0x661)))
        for _ in range(chance.randrange(most))
    )


_JSON = (
    *(
        '{"name": "m"}',
        '"name"',
        '"m"',
        ":",
        ",",
        "{",
        "}",
        "[",
        "]",
        "1",
        "-0",
        "1e999",
        "1E5",
        "NaN",
        "Infinity",
    ),
    *(
        '"\\ud800"',
        '"\\u006d"',
        "true",
        "null",
        " ",
        "\n",
        '""',
        '"a":1',
        "\ufeff",
        "\0",
        '"\u00fc"',
        "9" * 5000,
        "1.0",
    ),
    *(
        '{"name": "m", "stages": ["Production"]}',
        '{"model_version": {"name": "m", "version": 1}}',
        "[" * 200,
        "]" * 200,
    ),
    *(
        '{"a":' * 300 + "1" + "}" * 300,
        '{"signed_uri": "x", "headers": [{"name": "a", "value": "b"}]}',
        "[" * 1200,
    ),
)


def json_body(chance: Random) -> Arguments:
    """Draw a body that is JSON, or nearly."""
    if chance.random() < 0.1:
        # Near the depth at which parsers give up.
        depth = chance.randrange(100, 1100)
        inner = "[" * depth + "]" * depth
        return (('{"name": ' + inner + "}").encode(),)
    text = some_text(chance, _JSON, 6).encode("utf-8", "surrogatepass")
    return (bytes(bent(chance, bytearray(text))),)


def bent(chance: Random, data: bytearray) -> bytearray:
    """Change a byte now and then."""
    if data and chance.random() < 0.3:
        data[chance.randrange(len(data))] = chance.randrange(256)
    return data
