"""What a query or a body asks: the same for all who read it, and under one key only if it is the same."""

import json
import re
from random import Random

from mlflow_proxy.mlflow_api.answers import json_object, signed_url, versions
from mlflow_proxy.mlflow_api.api_prefixes import API_PREFIXES
from mlflow_proxy.mlflow_api.messages import NO_CLIENT
from mlflow_proxy.mlflow_api.reads import json_parameters, parameters, shareable, written_models
from mlflow_proxy.mlflow_api.routes import ROUTES, Freshness, match
from tests.fuzz.expected import percent_decoded
from tests.fuzz.properties.drawing import PIECES, Arguments, Property, json_body, some_text


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
    one = some_text(chance) if chance.random() < 0.5 else "name=m&version=1&path=d"
    other = one
    for _ in range(chance.randrange(3)):
        place = chance.randrange(len(other) + 1)
        other = other[:place] + chance.choice(PIECES) + other[place + chance.randrange(2) :]
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


PROPERTIES: dict[str, Property] = {
    "a query means what it says": Property(lambda chance: (some_text(chance),), _query),
    "equal keys are the same question": Property(_two_queries, _same_question),
    "bodies are read as JSON": Property(json_body, _bodies),
}
