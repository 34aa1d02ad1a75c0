"""The sharing mode in force, and why: ``access.sharing``, with ``auto`` decided. Pure."""

from dataclasses import dataclass
from typing import Literal

from mlflow_proxy.mlflow_api.upstream_kind import UpstreamKind

Mode = Literal["credential", "proven", "service"]
Setting = Literal["auto", Mode]


@dataclass(frozen=True, slots=True)
class Sharing:
    """The mode in force; ``reason`` tells an operator why."""

    mode: Mode
    reason: str


def in_force(setting: Setting, upstream: UpstreamKind) -> Sharing:
    """Return the mode for an upstream of which so much is known, and why."""
    known = f", and of the upstream is known: {upstream.reason}" if setting == "auto" else ""
    return Sharing(mode(setting, upstream), f"access.sharing is {setting}{known}")


def mode(setting: Setting, upstream: UpstreamKind) -> Mode:
    """Return the mode alone, which every request has to know.

    A Databricks workspace is known to have one permission, Can Read, for a model with all its versions and
    files, which is what a proof is about. Of other servers that is not known: MLflow's own has finer
    permissions, so that each credential keeps to its own answers there.
    """
    if setting != "auto":
        return setting
    return "proven" if upstream.is_databricks else "credential"
