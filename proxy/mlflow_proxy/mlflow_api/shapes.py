"""The shapes of JSON objects that endpoints answer with, as data for the route table.

A gateway in front of the workspace can answer anything with 200: a login page, an error, the start page of
another API. What has not the shape of its route is passed on, and neither kept nor taken for an answer.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Members = tuple[tuple[str, type[object]], ...]
"""Names of members, each with the type that ``json`` gives to its value."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What members an answer has.

    ``required`` ones are there and not empty. ``optional`` ones may be missing or null, since JSON of
    protocol buffers leaves out what is empty; where nothing is required, ``{}`` is an answer, too. Others may
    be there, but not alone.
    """

    required: Members = ()
    optional: Members = ()

    def fits(self, answer: Mapping[str, Any]) -> bool:
        """Whether an answer has this shape."""
        if "error_code" in answer:
            return False
        if not all(isinstance(value := answer.get(name), kind) and value for name, kind in self.required):
            return False
        present = [(answer[name], kind) for name, kind in self.optional if name in answer]
        if not all(value is None or isinstance(value, kind) for value, kind in present):
            return False
        return bool(self.required or present or not answer)


_NEXT_PAGE = ("next_page_token", str)

MODEL = Shape(required=(("registered_model", dict),))
MODELS = Shape(optional=(("registered_models", list), _NEXT_PAGE))
VERSION = Shape(required=(("model_version", dict),))
VERSIONS = Shape(optional=(("model_versions", list), _NEXT_PAGE))
DOWNLOAD_URI = Shape(required=(("artifact_uri", str),))
LISTING = Shape(optional=(("files", list), ("root_uri", str), _NEXT_PAGE))
SIGNED_URL = Shape(required=(("signed_uri", str),))
WORKSPACE_CONFIG = Shape(required=(("oidc_endpoint", str),))
OAUTH_SERVER = Shape(required=(("authorization_endpoint", str), ("token_endpoint", str)))
"""RFC 8414 section 2, as far as databricks-sdk reads it."""
