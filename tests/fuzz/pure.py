"""Pure functions against oracles that were written apart from them.

A property makes its arguments by chance and says what is wrong with them, empty if nothing is. An exception
that it does not expect is a finding too.
"""

import base64
import calendar
import hashlib
import json
import math
import ntpath
import posixpath
import re
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any
from urllib.parse import unquote

from mlflow_proxy.access import clients
from mlflow_proxy.access.credential import bearer
from mlflow_proxy.access.partition import partitions
from mlflow_proxy.access.reach import is_mlflow
from mlflow_proxy.errors import BadRequestError, UnreadableError
from mlflow_proxy.mlflow_api import artifact_paths, caller_fields, headers
from mlflow_proxy.mlflow_api.answers import json_object, signed_url, versions
from mlflow_proxy.mlflow_api.api_prefixes import API_PREFIXES
from mlflow_proxy.mlflow_api.messages import NO_CLIENT
from mlflow_proxy.mlflow_api.reads import json_parameters, parameters, shareable, written_models
from mlflow_proxy.mlflow_api.routes import ROUTES, UNKNOWN, Freshness, Invalidates, match
from mlflow_proxy.mlflow_api.signed_urls import expires_at
from mlflow_proxy.upstream.retry import retry_after_seconds
from tests.fuzz.expected import percent_decoded, tilde_decoded

Arguments = tuple[Any, ...]


@dataclass(frozen=True)
class Property:
    """``make`` draws arguments, ``wrong`` says what is wrong with what comes of them."""

    make: Callable[[Random], Arguments]
    wrong: Callable[..., str]


_PIECES = (
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


def _text(chance: Random, pieces: tuple[str, ...] = _PIECES, most: int = 10) -> str:
    return "".join(
        chance.choice(pieces) if chance.random() < 0.95 else chr(chance.choice((0x7F, 0x100, 0x1F600, 0x661)))
        for _ in range(chance.randrange(most))
    )


# -- questions ---------------------------------------------------------------------------------------------


def query_meaning(raw: str) -> dict[str, str] | None:
    """Say what a query means, None where readers could disagree."""
    if raw == "":
        return {}
    found: dict[str, str] = {}
    for pair in raw.split("&"):
        if pair.count("=") == 0 or any(ord(c) > 0x7F or c == ";" for c in pair):
            return None
        if re.search("%(?:.?$|[^0-9a-fA-F]|.[^0-9a-fA-F])", pair, re.DOTALL):
            return None
        name, _, value = pair.partition("=")
        decoded = [percent_decoded(part.encode(), plus=True) for part in (name, value)]
        if decoded[0] is None or decoded[1] is None or decoded[0] in found:
            return None
        found[decoded[0]] = decoded[1]
    return found


def _query(raw: str) -> str:
    found, meant = parameters(raw), query_meaning(raw)
    return "" if found == meant else f"{found} is not {meant}"


_SHARED = [r for r in ROUTES if r.freshness is not Freshness.NEVER and "GET" in r.methods]
_PLAIN_NAMES = {"name", "version", "path", "page_token"}


def _two_queries(chance: Random) -> Arguments:
    one = _text(chance) if chance.random() < 0.5 else "name=m&version=1&path=d"
    other = one
    for _ in range(chance.randrange(3)):
        place = chance.randrange(len(other) + 1)
        other = other[:place] + chance.choice(_PIECES) + other[place + chance.randrange(2) :]
    if chance.random() < 0.3:
        pairs = other.split("&")
        chance.shuffle(pairs)
        other = "&".join(pairs)
    return one, other, chance.randrange(len(_SHARED))


def _same_question(one: str, other: str, number: int) -> str:
    """Equal keys mean the same, are asked in the same way, and what is asked means what was sent."""
    route = _SHARED[number]
    path = route.path if route.path[0] == "/" else API_PREFIXES[0] + route.path
    reads = [shareable(route, "GET", f"{path}?{raw}", (), b"", "p") for raw in (one, other)]
    meant = [_meant(raw, listing=route.freshness is Freshness.LISTING) for raw in (one, other)]
    for read, means in zip(reads, meant, strict=True):
        if read is None:
            plain = (
                means is not None and _PLAIN_NAMES.issuperset(means) and len(means.get("version", "")) <= 32
            )
            if plain and route.freshness is not Freshness.DISCOVERY:
                return f"{route.name}: {means} is not shared"
            continue
        asked = read.request((), NO_CLIENT, fresh=False).target.partition("?")
        if means is None or asked[0] != path or query_meaning(asked[2]) != means:
            return f"{route.name}: {asked} for {means}"
    if reads[0] is None or reads[1] is None:
        return ""
    if (reads[0].key == reads[1].key) != (meant[0] == meant[1]):
        return f"{route.name}: {[read and read.key for read in reads]} but {meant}"
    return ""


def _meant(raw: str, *, listing: bool) -> dict[str, str] | None:
    found = query_meaning(raw)
    if found is None or not listing:
        return found
    found["path"] = re.sub("/+$", "", found.get("path", ""))
    return {name: value for name, value in found.items() if value or name not in {"path", "page_token"}}


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


def _json(chance: Random) -> Arguments:
    if chance.random() < 0.1:
        # Near the depth at which parsers give up.
        depth = chance.randrange(100, 1100)
        inner = "[" * depth + "]" * depth
        return (('{"name": ' + inner + "}").encode(),)
    text = _text(chance, _JSON, 6).encode("utf-8", "surrogatepass")
    return (bytes(_bent(chance, bytearray(text))),)


def _bent(chance: Random, data: bytearray) -> bytearray:
    if data and chance.random() < 0.3:
        data[chance.randrange(len(data))] = chance.randrange(256)
    return data


def _bodies(body: bytes) -> str:
    found = json_object(body)
    list(versions(found or {}))
    signed_url(found or {})
    written_models("", body)
    latest = API_PREFIXES[0] + "registered-models/get-latest-versions"
    read = shareable(
        match("POST", latest), "POST", latest, (("Content-Type", "application/json"),), body, "p"
    )
    if read is not None and json.loads(read.request((), NO_CLIENT, fresh=False).body) != json.loads(body):
        return f"{read.key} is another question"
    try:
        meant = json.loads(body)
    except (ValueError, RecursionError):
        return "" if found is None else f"{found!r} of what is no JSON"
    if not isinstance(meant, dict):
        return "" if found is None else f"{found!r} of what is no object"
    asked = json_parameters(body)
    if asked is None:
        return ""
    try:
        told = {name: _spelt(json.loads(value)) for name, value in asked.items()}
        return (
            "" if told == {name: _spelt(value) for name, value in meant.items()} else f"{told} is not {meant}"
        )
    except RecursionError:
        return ""  # this oracle is one call deeper


def _spelt(value: object) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False)


# -- routes and reach --------------------------------------------------------------------------------------

_PATHS = (
    *(
        "/",
        "//",
        "/./",
        "/../",
        "\\",
        "%2f",
        "%2F",
        "%5c",
        "%5C",
        ".",
        "..",
        "%2e",
        "%2E%2e",
        "%252e",
        ";",
        ";x",
        "..;x",
    ),
    *(
        "api",
        "ajax-api",
        "2.0",
        "mlflow",
        "mlflow-artifacts",
        "preview",
        "/api/2.0/mlflow/",
        "/api/2.0/preview/mlflow/",
    ),
    *(
        "/ajax-api/2.0/mlflow/",
        "registered-models",
        "model-versions",
        "get",
        "runs/search",
        "%67et",
        "token",
        "%00",
    ),
    *(
        " ",
        "%20",
        "%09",
        "\t",
        "\u00fc",
        "%c3%bc",
        "%",
        "%25",
        "%25252e%25252e",
        "?",
        "x=1",
        "#",
        "/api/2.0/mlflow/x",
    ),
)


def _path(chance: Random) -> Arguments:
    start = chance.choice(
        ("", "/api/2.0/mlflow/", "/ajax-api/2.0/mlflow-artifacts/", "/api/2.0/preview/mlflow/")
    )
    return (start + _text(chance, _PATHS, 8),)


def _reach(target: str) -> str:
    """Whatever server reads it: what is of MLflow's API stays there."""
    if not is_mlflow(target):
        return ""
    path = target.partition("?")[0]
    for _ in range(8):
        for slashes in ("/", "/\\"):
            for parameters_too in (False, True):
                parts = re.split(f"[{re.escape(slashes)}]", path)
                if parameters_too:
                    parts = [part.partition(";")[0] for part in parts]
                read = posixpath.normpath("/".join(part.strip() for part in parts))
                if not re.match(r"//?(ajax-)?api/\d+\.\d+/(preview/)?mlflow(-artifacts)?(/|$)", read):
                    return f"may be read as {read!r}"
        path = unquote(path)
    return ""


_EXACT = [(m, p + r.path) for r in ROUTES if r.path[0] != "/" for m in r.methods for p in API_PREFIXES]


def _spelling(chance: Random) -> Arguments:
    method, path = chance.choice(_EXACT)
    path = path.replace("*", "x")
    spelt = ""
    for character in path:
        kind = chance.random()
        if kind < 0.03 and character != "/":
            spelt += f"%{ord(character):02{chance.choice('xX')}}"
        elif kind < 0.1 and character == "/":
            spelt += chance.choice(("//", "/./", "/x/../", "/%2e/", "///"))
        else:
            spelt += character
    return method, path, spelt


def _family(method: str, path: str, spelt: str) -> str:
    """However a path is spelt, it spends from the same budget and its writes are noticed."""
    plain, found = match(method, path), match(method, spelt)
    if found is plain:
        harmless = plain.freshness is Freshness.NEVER and plain.invalidates is Invalidates.NOTHING
        spelt_so = spelt == path or plain.path.endswith("*")
        return "" if spelt_so or harmless else f"{found} for another spelling"
    if found.freshness is not Freshness.NEVER:
        return f"{found} is shared under a name it did not spell"
    writes = plain.invalidates is not Invalidates.NOTHING
    if writes and found.invalidates is not Invalidates.REGISTRY:
        return f"{found} is not noticed"
    if ("registered-models" in path or "model-versions" in path) and found.group is not plain.group:
        return f"{found} spends elsewhere than {plain}"
    return "" if found is not UNKNOWN else f"{found} for {plain}"


# -- paths of the façade -----------------------------------------------------------------------------------

_NAMES = (
    "mlflow-proxy",
    "/",
    "/",
    "m",
    "1",
    "~",
    "~2f",
    "~41",
    "~c3~bc",
    "~c3",
    ".",
    "..",
    "\0",
    "\\",
    "\u00fc",
    "",
    "12",
)


def _artifact(chance: Random) -> Arguments:
    return ("mlflow-proxy/" + _text(chance, _NAMES) if chance.random() < 0.8 else _text(chance, _NAMES),)


def _parse(path: str) -> str:
    try:
        found = artifact_paths.parse(path)
    except BadRequestError:
        return ""
    segments = path.split("/")
    meant = (tilde_decoded(segments[1]), segments[2], "/".join(segments[3:]).removesuffix("/"))
    if (found.model, found.version, found.path) != meant:
        return f"{found} is not {meant}"
    if set(found.path.split("/")) & {"..", "."} or "\0" in found.path:
        return f"{found} climbs"
    if found.path and not ntpath.normpath(f"C:\\base\\{found.path}").startswith("C:\\base\\"):
        return f"{found} climbs on Windows"
    if artifact_paths.encode(found.model) != segments[1]:
        return f"{found} has two spellings"
    return ""


def _name(chance: Random) -> Arguments:
    some = (
        "m",
        ".",
        "..",
        "/",
        "~",
        "~2f",
        "%2e",
        "\u00fc",
        "\U0001f600",
        " ",
        "\0",
        "-",
        "_",
        "\\",
        "A",
        "?",
        "#",
    )
    return (_text(chance, some, 6) or ".",)


def _round_trip(model: str) -> str:
    spelt = artifact_paths.encode(model)
    if not re.fullmatch(r"[A-Za-z0-9_.~-]+", spelt) or not spelt.strip("."):
        return f"{spelt!r} is not safe in a URL"
    return "" if artifact_paths.decode(spelt) == model else f"{artifact_paths.decode(spelt)!r}"


# -- times -------------------------------------------------------------------------------------------------

_DATES = (
    *(
        "20260301T120000Z",
        "20260301T1200Z",
        "2026111T120000Z",
        "20260231T000000Z",
        "99991231T235959Z",
        "00010101T000000Z",
    ),
    *(
        "2026-03-01T12:05:00Z",
        "2026-03-01",
        "20260301",
        "2026-W10-7",
        "0001-01-01T00:00:00+23:59",
        "9999-12-31T23:59:59",
    ),
    *(
        "\u0662\u0660260301T120000Z",
        "2026-03-01T12:05:00.5Z",
        "900",
        "0",
        "-1",
        "1e3",
        "999999999999",
        "9" * 13,
        "\u0661",
    ),
    *(
        "2026-03-01T12%3A05%3A00%2B02%3A00",
        "2026-03-01T24:00:00Z",
        "2026-03-01 12:05:00",
        "+900",
        " 900",
        "1_0",
        "",
    ),
)
_TIMED = (
    "X-Amz-Date",
    "X-Amz-Expires",
    "X-Goog-Date",
    "X-Goog-Expires",
    "se",
    "sig",
    "ske",
    "Expires",
    "x-amz-date",
    "X-Amz-Security-Token",
    "SE",
    "a",
)


def _signed(chance: Random) -> Arguments:
    usual = chance.choice(
        (("X-Amz-Date", "X-Amz-Expires"), ("se", "sig"), ("Expires",), ("X-Goog-Date", "X-Goog-Expires"))
    )
    named = [(name, chance.choice(_DATES)) for name in usual]
    named += [(chance.choice(_TIMED), chance.choice(_DATES)) for _ in range(chance.choice((0, 0, 0, 1, 2)))]
    return ("https://s.test/f?" + "&".join(f"{name}={value}" for name, value in named),)


def _expiry(url: str) -> str:
    found = expires_at(url)
    if found is not None and not math.isfinite(found):
        return f"{found}"
    pairs = [pair.partition("=") for pair in url.partition("?")[2].split("&")]
    query = {name.lower(): unquote(value).replace("+", " ") for name, _, value in pairs}
    names = {*query}
    moments: list[float | None] = []
    for date, seconds in (("x-amz-date", "x-amz-expires"), ("x-goog-date", "x-goog-expires")):
        if {date, seconds} <= names:
            began = _basic(query[date])
            lasts = re.fullmatch("[0-9]{1,12}", query[seconds])
            moments.append(began + int(lasts[0]) if began is not None and lasts else None)
    if "expires" in names:
        epoch = re.fullmatch("[0-9]{1,12}", query["expires"])
        moments.append(float(epoch[0]) if epoch else None)
    if {"se", "sig"} <= names:
        for end in {"se", "ske"} & names:
            extended = re.fullmatch(r"(\d{4})-(\d\d)-(\d\d)T(\d\d):(\d\d):(\d\d)Z", query[end], re.ASCII)
            if extended is None:
                return ""  # several spellings of ISO 8601 are read; this oracle knows one
            moments.append(
                _basic("".join(extended.groups()[:3]) + "T" + "".join(extended.groups()[3:]) + "Z")
            )
    if moments and "x-amz-security-token" in names:
        signed = _basic(query.get("x-amz-date", ""))
        moments.append(None if signed is None else signed + 300)
    known = [moment for moment in moments if moment is not None]
    meant = min(known) if known and len(known) == len(moments) and len(names) == len(pairs) else None
    return "" if found == meant else f"{found} is not {meant}"


def _basic(text: str) -> float | None:
    parts = re.fullmatch(r"(\d{4})(\d\d)(\d\d)T(\d\d)(\d\d)(\d\d)Z", text, re.ASCII)
    if parts is None:
        return None
    year, month, day, hour, minute, second = (int(part) for part in parts.groups())
    if year < 1 or not 1 <= month <= 12 or hour > 23 or minute > 59 or second > 59:
        return None
    if not 1 <= day <= calendar.monthrange(year, month)[1]:
        return None
    return float(calendar.timegm((year, month, day, hour, minute, second)))


_FIELD_DATES = (
    *(
        "Sun, 01 Mar 2026 12:00:00 GMT",
        "Sunday, 01-Mar-26 12:00:00 GMT",
        "Sun Mar  1 12:00:00 2026",
        "GMT",
        "+9999",
        "-2359",
    ),
    *(
        "Sun,",
        "01",
        "Mar",
        "9999",
        "0000",
        "12:00:00",
        "99:99:99",
        "-",
        "+",
        "1",
        " ",
        ",",
        "0",
        "\u0661",
        "9" * 400,
        "inf",
    ),
    *(
        "01 Jan 0001 00:00:00 +2359",
        "31 Dec 9999 23:59:59 -2359",
        "nan",
        "1e5",
        "\0",
        "(x",
        "Sun, 01 Mar 2026 12:00:00 +0200",
    ),
)


def _times(chance: Random) -> Arguments:
    return _text(chance, _FIELD_DATES, 4), _text(chance, _FIELD_DATES, 3)


def _field_times(value: str, date: str) -> str:
    old = headers.age(value)
    digits = re.fullmatch(r"\s*([0-9]{1,20})\s*", value)
    if old != (min(int(digits[1]), 2**31) if digits else 0):
        return f"age {old}"
    after = retry_after_seconds(value, 1e9, date)
    if after is not None and not 0 <= after <= 1e12:
        return f"retry after {after}"
    moment = headers.unix_time(value)
    if moment is not None and not math.isfinite(moment):
        return f"time {moment}"
    if value == _FIELD_DATES[0] and moment != calendar.timegm((2026, 3, 1, 12, 0, 0)):
        return f"time {moment}"
    return ""


# -- fields and clients ------------------------------------------------------------------------------------


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
    found = [partitions(caller_fields.WELL_KNOWN.told(each), b"k").own for each in kept]
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
    text = ("[clients]\n" if chance.random() < 0.6 else "") + _text(chance, _TOML, 6)
    return (bytes(_bent(chance, bytearray(text.encode("utf-8", "surrogatepass")))),)


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
        _text(chance, _SHOWN, 5),
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
    claims = bytes(_json(chance)[0])
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
    "a token of the proxy's own": Property(_jwt, _expires),
    "a query means what it says": Property(lambda chance: (_text(chance),), _query),
    "equal keys are the same question": Property(_two_queries, _same_question),
    "bodies are read as JSON": Property(_json, _bodies),
    "what is of MLflow stays there": Property(_path, _reach),
    "a path is of its family however spelt": Property(_spelling, _family),
    "an artifact path names one file": Property(_artifact, _parse),
    "a model's name survives its spelling": Property(_name, _round_trip),
    "a signed URL's expiry": Property(_signed, _expiry),
    "times in fields": Property(_times, _field_times),
    "credentials are kept apart": Property(_two_heads, _apart),
    "a file of clients": Property(_toml, _clients_file),
    "clients are known by their tokens": Property(_shown, _identified),
}


def wrong(name: str, arguments: Arguments) -> str:
    """Say what is wrong with a property for these arguments, empty if nothing is."""
    try:
        return PROPERTIES[name].wrong(*arguments)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is what was looked for
        return f"raised {error!r}"
