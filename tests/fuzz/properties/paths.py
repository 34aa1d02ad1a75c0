"""Where a path leads, however it is spelt: to a route, to MLflow's API, to a file of the façade."""

import ntpath
import posixpath
import re
from random import Random
from urllib.parse import unquote

from mlflow_proxy.access.reach import is_mlflow
from mlflow_proxy.errors import BadRequestError
from mlflow_proxy.mlflow_api import artifact_paths
from mlflow_proxy.mlflow_api.api_prefixes import API_PREFIXES
from mlflow_proxy.mlflow_api.routes import ROUTES, UNKNOWN, Freshness, Invalidates, match
from tests.fuzz.expected import tilde_decoded
from tests.fuzz.properties.drawing import Arguments, Property, some_text

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
    return (start + some_text(chance, _PATHS, 8),)


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
    return (
        "mlflow-proxy/" + some_text(chance, _NAMES) if chance.random() < 0.8 else some_text(chance, _NAMES),
    )


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
    return (some_text(chance, some, 6) or ".",)


def _round_trip(model: str) -> str:
    spelt = artifact_paths.encode(model)
    if not re.fullmatch(r"[A-Za-z0-9_.~-]+", spelt) or not spelt.strip("."):
        return f"{spelt!r} is not safe in a URL"
    return "" if artifact_paths.decode(spelt) == model else f"{artifact_paths.decode(spelt)!r}"


PROPERTIES: dict[str, Property] = {
    "what is of MLflow stays there": Property(_path, _reach),
    "a path is of its family however spelt": Property(_spelling, _family),
    "an artifact path names one file": Property(_artifact, _parse),
    "a model's name survives its spelling": Property(_name, _round_trip),
}
