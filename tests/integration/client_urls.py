"""Run by a client's own interpreter: what its code makes of names, without a request being made.

Standard input is a JSON list of paths, each a list of names as listings have them. Output is for each what
the client says for it: in a GET of the file, as the raw target below the model, and in a request for a
listing; null for a path with a name that it refuses.
"""

import json
import posixpath
import sys
from urllib.parse import parse_qs

import requests

try:
    from mlflow.utils.uri import (  # type: ignore[import-not-found, unused-ignore]
        validate_path_is_safe as taken,
    )
except ImportError:  # mlflow 1 takes names as they come

    def taken(path: str) -> str:
        return path


BASE = "http://proxy/api/2.0/mlflow-artifacts/artifacts"


def said(names: "list[str]") -> "tuple[str, str] | None":
    try:
        path = posixpath.join(*map(taken, names))
    except Exception:  # noqa: BLE001 - whatever it is, the client will not have the file
        return None
    asked = requests.Request("GET", f"{BASE}/{path}").prepare().path_url
    listing = requests.Request("GET", BASE, params={"path": path}).prepare().path_url
    [listed] = parse_qs(listing.partition("?")[2], keep_blank_values=True, strict_parsing=True)["path"]
    return asked.partition("/artifacts/")[2], listed


print(json.dumps([said(names) for names in json.load(sys.stdin)]))
