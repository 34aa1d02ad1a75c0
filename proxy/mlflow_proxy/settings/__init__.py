"""Every setting: its name, meaning, default and bounds; and how flags, environment and TOML become one.

``commands`` (what is read, in which order; errors as one line) is over ``sections`` (the settings), which are
over ``kinds`` (what a value may be). ``sources`` has file and the preset, ``wording`` what operators read.
"""

from mlflow_proxy.settings.commands import CommandSettings, Settings, load, parse
from mlflow_proxy.settings.kinds import Seconds, api_ending
from mlflow_proxy.settings.sections import (
    AccessSettings,
    AdminSettings,
    ArtifactSettings,
    BudgetSettings,
    CacheSettings,
    ConnectionSettings,
    FleetSettings,
    TlsSettings,
)
from mlflow_proxy.settings.sources import names
from mlflow_proxy.settings.wording import PREFIX, variable

__all__ = [
    "PREFIX",
    "AccessSettings",
    "AdminSettings",
    "ArtifactSettings",
    "BudgetSettings",
    "CacheSettings",
    "CommandSettings",
    "ConnectionSettings",
    "FleetSettings",
    "Seconds",
    "Settings",
    "TlsSettings",
    "api_ending",
    "load",
    "names",
    "parse",
    "variable",
]
