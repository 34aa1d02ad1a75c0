"""What is asked, and what of an answer has to be the same however it came. Pure."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, unquote, urlencode, urlsplit

from tests.differential.timeline import Said

PREFIXES = (
    "/api/2.0/mlflow/",
    "/api/2.0/preview/mlflow/",
    "/ajax-api/2.0/mlflow/",
    "/ajax-api/2.0/preview/mlflow/",
)
FACADES = ("/api/2.0/mlflow-artifacts/artifacts", "/ajax-api/2.0/mlflow-artifacts/artifacts")
PERSONAL = "personal"
"""A member of an answer that says to whom it was given."""

PROOF = "registered-models/get"
LISTING = "model-versions/list-artifacts"
SIGNING = "model-versions/get-signed-download-uri"
URI = "model-versions/get-download-uri"
LATEST = "registered-models/get-latest-versions"
FACADE_LISTING = "facade listing"
FACADE_FILE = "facade file"


@dataclass(frozen=True)
class Question:
    """One question; ``parameters`` go into the query, or into a JSON body if it is a POST.

    ``model`` is what it is about, None if it is a search. The façade's are asked of the proxy only: directly,
    ``endpoint`` is another's, whose answer says what theirs has to be.
    """

    endpoint: str
    model: str | None = None
    parameters: tuple[tuple[str, str], ...] = ()
    method: str = "GET"

    @property
    def named(self) -> dict[str, str]:
        """The parameters by their name."""
        return dict(self.parameters)

    @property
    def path(self) -> str:
        """The path of the file or the directory."""
        return self.named.get("path", "")

    def target(self, choice: int, prefixes: Sequence[str]) -> str:
        """Return how it is asked of the proxy; ``choice`` picks one of the API's prefixes."""
        inside = f"mlflow-proxy/{self.model}/{self.named.get('version')}/{self.path}".rstrip("/")
        if self.endpoint == FACADE_LISTING:
            return f"{FACADES[choice % len(FACADES)]}?path={quote(inside, safe='')}"
        if self.endpoint == FACADE_FILE:
            return f"{FACADES[choice % len(FACADES)]}/{inside}"
        query = f"?{urlencode(self.parameters)}" if self.method == "GET" and self.parameters else ""
        return prefixes[choice % len(prefixes)] + self.endpoint + query

    @property
    def body(self) -> dict[str, Any] | None:
        """The JSON body of a POST."""
        if self.method == "GET":
            return None
        return {name: [value] if name == "stages" else value for name, value in self.parameters}

    @property
    def directly(self) -> "Question":
        """The question to the upstream whose answer decides this one's."""
        endpoint = {FACADE_LISTING: LISTING, FACADE_FILE: SIGNING}.get(self.endpoint, self.endpoint)
        return Question(endpoint, self.model, self.parameters, self.method)

    def __str__(self) -> str:
        return f"{self.method} {self.endpoint} {dict(self.parameters)}"


def about(model: str, versions: int, *, files: bool) -> Iterator[Question]:
    """Yield the questions about a model; ``files`` whether the upstream lists and signs them."""
    name = ("name", model)
    yield proof(model)
    yield Question("registered-models/alias", model, (name, ("alias", "champion")))
    yield Question(LATEST, model, (name,))
    yield Question(LATEST, model, (name, ("stages", "Production")), "POST")
    yield Question("model-versions/search", None, (("filter", f"name='{model}'"),))
    for number in range(1, versions + 1):
        version = (name, ("version", str(number)))
        yield Question("model-versions/get", model, version)
        yield Question(URI, model, version)
        if files:
            yield Question(LISTING, model, version)
            yield Question(LISTING, model, (*version, ("path", "data")))
            yield Question(SIGNING, model, (*version, ("path", "MLmodel")))
            yield Question(FACADE_LISTING, model, (*version, ("path", "data")))
            yield Question(FACADE_FILE, model, (*version, ("path", "data/part.bin")))


def searches() -> Iterator[Question]:
    """Yield the questions about no model in particular."""
    yield Question("registered-models/search")
    yield Question("model-versions/search")


def proof(model: str) -> Question:
    """Return the question whose answer proves that a model may be read."""
    return Question(PROOF, model, (("name", model),))


def said(question: Question, status: int, body: bytes) -> Said:
    """Return what an answer says, directly or through the proxy."""
    if status >= 400:
        return Said(status)
    if question.endpoint == FACADE_FILE:
        return Said(status, body.decode(errors="replace"))
    try:
        document = json.loads(body)
    except ValueError:
        document = None
    if not isinstance(document, dict):
        return Said(status, f"no JSON: {body[:300]!r}")
    document.pop(PERSONAL, None)
    created = None
    if question.endpoint == PROOF:
        model = document.get("registered_model")
        created = model.get("creation_timestamp") if isinstance(model, dict) else None
    if question.endpoint == SIGNING:
        document["signed_uri"] = unquote(urlsplit(str(document.get("signed_uri"))).path)
    if question.endpoint == URI and str(document.get("artifact_uri")).startswith("dbfs:"):
        version = question.named["version"]
        document["artifact_uri"] = f"mlflow-artifacts:/mlflow-proxy/{question.model}/{version}"
    return Said(status, json.dumps(document, sort_keys=True), created)


def facade_listing(listing: bytes) -> bytes:
    """Return how the façade says what ``list-artifacts`` said: names instead of paths."""
    files = json.loads(listing).get("files", [])
    return json.dumps(
        {"files": [{**each, "path": each["path"].rpartition("/")[2]} for each in files]}
    ).encode()
