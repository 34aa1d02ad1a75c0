"""Who asks: credentials in fields, the clients of a file, and what a token says of itself."""

import base64
import hashlib
import re
import tomllib
from random import Random

from mlflow_proxy.access import clients
from mlflow_proxy.access.credential import bearer
from mlflow_proxy.access.partition import partitions
from mlflow_proxy.errors import UnreadableError
from mlflow_proxy.mlflow_api import caller_fields, headers
from tests.fuzz.properties.drawing import Arguments, Property, bent, json_body, some_text


def _some_fields(chance: Random) -> list[tuple[str, str]]:
    names = (
        "Authorization",
        "authorization",
        "Cookie",
        "X",
        "x",
        "Accept",
        "Connection",
        "TE",
        "Xa",
        "Range",
    )
    values = ("a", "b", "", "ab", "close, X", "\udcff", "authorization ,te", "\u00fc")
    return [(chance.choice(names), chance.choice(values)) for _ in range(chance.randrange(5))]


def _two_heads(chance: Random) -> Arguments:
    one = _some_fields(chance)
    return one, chance.choice((one[::-1], one[1:], _some_fields(chance), [(n.upper(), v) for n, v in one]))


def _classes(kept: list[tuple[str, str]]) -> list[list[tuple[str, str]]]:
    """Return the fields of each class; order counts within a class, and an empty Cookie is none."""
    classes = caller_fields.Tells
    known = {name: tells for tells in classes for name in caller_fields.names(tells)}
    fields = [(name.lower(), value) for name, value in kept if (name.lower(), value) != ("cookie", "")]
    return [
        [field for field in fields if known.get(field[0], classes.COUNTED) is tells]
        for tells in (classes.COUNTED, classes.CREDENTIAL, classes.ADDRESS)
    ]


def _apart(one: list[tuple[str, str]], other: list[tuple[str, str]]) -> str:
    """Credentials are the same only if all that may be part of them is."""
    kept = [headers.end_to_end(each) for each in (one, other)]
    found = [partitions(caller_fields.WELL_KNOWN.identity(each), b"k").own for each in kept]
    meant = [_classes(each) for each in kept]
    return "" if (found[0] == found[1]) == (meant[0] == meant[1]) else f"{found} of {meant}"


_DIGEST = "sha256:" + hashlib.sha256(b"token").hexdigest()
_TOML = (
    *(
        "[clients]\n",
        "a = ",
        f'"{_DIGEST}"',
        f'"{_DIGEST.upper()}"',
        "\n",
        "[",
        "]",
        ",",
        '"',
        "b = 1\n",
        "[x]\n",
        "\0",
        "#",
    ),
    *(
        f'a = "{_DIGEST}"\n',
        f'b = ["{_DIGEST}"]\n',
        "\ufeff",
        "\u00fc",
        "''' ",
        "=",
        ".",
        "{",
        "}",
        "[" * 1500,
        "1e999",
    ),
    *(
        "a = 1979-05-27T07:32:00+99:99\n",
        "a = " + "9" * 5000 + "\n",
        '"\\ud800" = 1\n',
        '"" = 1\n',
        "a.b.c = 1\n",
        "\r",
    ),
)


def _toml(chance: Random) -> Arguments:
    text = ("[clients]\n" if chance.random() < 0.6 else "") + some_text(chance, _TOML, 6)
    return (bytes(bent(chance, bytearray(text.encode("utf-8", "surrogatepass")))),)


def _clients_file(data: bytes) -> str:
    try:
        found = clients.parse(data)
    except UnreadableError:
        return ""
    if not len(found) and tomllib.loads(data.decode()) != {"clients": {}}:
        return "no client in a file that is not an empty table"
    return "" if b"clients" in data else "clients out of nothing"


_KNOWN = clients.parse(f'[clients]\na = "{_DIGEST}"\n'.encode())
_SHOWN = (
    *(
        "Bearer",
        "bearer",
        "Basic",
        " ",
        "  ",
        "\t",
        "token",
        "tokens",
        "a:token",
        ":token",
        "=",
        "",
        "\udcff",
        ",",
        "\u00fc",
    ),
    *(
        base64.b64encode(each).decode()
        for each in (b"a:token", b":token", b"token", b"a:b:token", b"a:token\n", b"a:")
    ),
)


def _shown(chance: Random) -> Arguments:
    return (
        [chance.choice(("Authorization", "AUTHORIZATION", "X")) for _ in range(chance.randrange(3))],
        some_text(chance, _SHOWN, 5),
    )


def _identified(names: list[str], value: str) -> str:
    found = _KNOWN.identify([(name, value) for name in names])
    scheme, _, rest = value.strip().partition(" ")
    token: bytes | None = rest.strip().encode("utf-8", "surrogateescape")
    if scheme.lower() == "basic":
        canonical = re.fullmatch(
            r"(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?", rest.strip()
        )
        whole = base64.b64decode(rest.strip()) if canonical else b""
        token = whole.partition(b":")[2] if b":" in whole else None
    elif scheme.lower() != "bearer":
        token = None
    once = len([name for name in names if name.lower() == "authorization"]) == 1
    meant = "a" if once and token == b"token" else None
    return "" if found == meant else f"{found} is not {meant}"


def _jwt(chance: Random) -> Arguments:
    claims = bytes(json_body(chance)[0])
    if chance.random() < 0.5:
        number = chance.choice(("5", "1e999", "NaN", "-1", "9" * 400, "true", '"5"', "1e12", "5.5", "[]"))
        claims = f'{{"sub": "p", "exp": {number}}}'.encode()
    return (
        "e30."
        + base64.urlsafe_b64encode(claims).decode().rstrip("=")
        + chance.choice((".x", "", ".", "=.x")),
    )


def _expires(token: str) -> str:
    found = bearer(token).expires_at
    return "" if found is None or 0 <= found <= 1e12 else f"{found}"


PROPERTIES: dict[str, Property] = {
    "credentials are kept apart": Property(_two_heads, _apart),
    "a file of clients": Property(_toml, _clients_file),
    "clients are known by their tokens": Property(_shown, _identified),
    "a token of the proxy's own": Property(_jwt, _expires),
}
