"""A workspace whose answers say nothing that two of them would say differently."""

import json
from dataclasses import dataclass, field
from urllib.parse import parse_qs, urlsplit

from tests.integration.support import Inbound, Upstream

MODELS = ("m", "n")
DIRECTORIES = ("", "data", "data/deep")
DATE = "Tue, 24 Nov 2026 12:00:00 GMT"
"""On every second answer, by what is asked: the proxy dates the others."""


@dataclass
class State:
    """What may change about it."""

    readers: dict[str, set[str]] = field(default_factory=lambda: {model: {"a", "b", "c"} for model in MODELS})
    described: dict[str, int] = field(default_factory=lambda: dict.fromkeys(MODELS, 0))
    created: dict[str, int] = field(default_factory=lambda: dict.fromkeys(MODELS, 1_700_000_000_000))


class Workspace:
    """Answers for one proxy, and notes every call."""

    def __init__(self) -> None:
        self.state = State()
        self.calls: list[tuple[str, str, tuple[str, ...]]] = []
        self.upstream = Upstream(self._respond)

    async def _respond(self, inbound: Inbound) -> None:
        inbound.received = await inbound.body()
        method = inbound.line.split(" ")[0]
        self.calls.append((method, inbound.target, tuple(inbound.all("Authorization"))))
        status, answer = self._answer(method, inbound, inbound.received)
        body = json.dumps(answer).encode()
        lines = [f"HTTP/1.1 {status} Said", "Content-Type: application/json", f"Content-Length: {len(body)}"]
        if len(inbound.target) % 2:
            lines.append(f"Date: {DATE}")
        head = "\r\n".join([*lines, "", ""]).encode()
        await inbound.send(head + (b"" if method == "HEAD" else body))

    def _answer(self, method: str, inbound: Inbound, body: bytes) -> tuple[int, dict[str, object]]:
        parts = urlsplit(inbound.target)
        asked = {name: values[0] for name, values in parse_qs(parts.query).items()}
        endpoint = parts.path.removeprefix("/api/2.0/mlflow/")
        if parts.path == "/.well-known/databricks-config":
            return 200, {"oidc_endpoint": "https://workspace.invalid/oidc"}
        if method not in {"GET", "HEAD"}:
            name = json.loads(body or b"{}").get("name", "m")
            self.state.described[name] = self.state.described.get(name, 0) + 1
            return 200, {"registered_model": self._model(name)}
        model = asked.get("name", "")
        if model not in self.state.readers:
            return 404, {"error_code": "RESOURCE_DOES_NOT_EXIST", "message": f"no {model}"}
        token = (inbound.all("Authorization") or [""])[0].removeprefix("Bearer ")
        if token not in self.state.readers[model] | {"principal"}:
            return 403, {"error_code": "PERMISSION_DENIED", "message": f"not {model}"}
        if endpoint == "registered-models/get":
            return 200, {"registered_model": self._model(model)}
        if endpoint == "model-versions/get":
            return 200, {"model_version": self._version(model, asked.get("version", ""))}
        if endpoint == "model-versions/list-artifacts":
            path = asked.get("path", "")
            files = [f"{path}/file-{number}".lstrip("/") for number in range(3)]
            return 200, {"files": [{"path": each, "is_dir": False, "file_size": 1} for each in files]}
        return 200, {"artifact_uri": f"dbfs:/{model}"}

    def _model(self, name: str) -> dict[str, object]:
        return {
            "name": name,
            "creation_timestamp": self.state.created.get(name, 1),
            "description": str(self.state.described[name]),
        }

    def _version(self, model: str, version: str) -> dict[str, object]:
        return {
            "name": model,
            "version": version,
            "status": "READY",
            "creation_timestamp": 1,
            "description": str(self.state.described[model]),
        }
