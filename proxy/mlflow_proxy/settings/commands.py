"""How flags, environment and files become the settings of a command, and errors become one line.

Precedence: flags, environment (``MLFLOW_PROXY_``, nested with ``__``), TOML file, preset, defaults.
"""

import argparse
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import Field, ValidationError, ValidationInfo, field_validator
from pydantic_settings import (
    BaseSettings,
    CliSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from mlflow_proxy.errors import InvalidSettingsError
from mlflow_proxy.settings.kinds import Addresses, HostNames, Origin, Seconds
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
from mlflow_proxy.settings.sources import PresetSource, TomlSource, names
from mlflow_proxy.settings.wording import PREFIX, flag, one_line, short, suggestion, variable


class Settings(BaseSettings):
    """Settings of `mlflow-proxy serve`."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_nested_delimiter="__",
        extra="forbid",
        frozen=True,
        cli_prog_name="mlflow-proxy serve",
        cli_kebab_case=True,
        cli_hide_none_type=True,
        cli_avoid_json=True,
        cli_exit_on_error=False,
        cli_use_class_docs_for_groups=True,
    )

    upstream: Origin = Field(description="URL of the workspace")
    preset: Literal["databricks", "open-source"] = Field(
        "databricks",
        description="what kind of upstream the defaults are for; an MLflow server is given no limits, "
        "answers are shared by credential only, and clients' addresses are passed on to it",
    )
    host: Annotated[Addresses, NoDecode] = Field(
        ("127.0.0.1",),
        description="address to listen on, or several with commas between them",
    )
    port: int = Field(8080, ge=0, le=65535, description="port to listen on, 0 for any free one")
    allowed_hosts: Annotated[HostNames, NoDecode] = Field(
        (),
        description="names that clients may call the proxy by, with commas between them, beside localhost "
        "where it listens on that",
    )
    redis: str = Field(
        "", description="URL of the Redis or Valkey that all proxies of this workspace share, if there is one"
    )
    workers: int = Field(
        1,
        ge=1,
        description="processes that serve side by side; more than one need redis",
    )
    config: Path | None = Field(None, description="TOML file to read settings from")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="least level logged")
    log_format: Literal["auto", "console", "json"] = Field(
        "auto", description="auto is console on a terminal, else json"
    )
    shutdown_grace: Seconds = Field(30, description="how long to let requests in flight finish when stopping")
    shutdown_delay: Seconds = Field(
        0, description="how long to go on accepting when stopping, for load balancers that ask /-/readyz"
    )
    cache: CacheSettings = CacheSettings()
    budget: BudgetSettings = BudgetSettings()
    connections: ConnectionSettings = ConnectionSettings()
    artifacts: ArtifactSettings = ArtifactSettings()
    access: AccessSettings = AccessSettings()
    fleet: FleetSettings = FleetSettings()
    tls: TlsSettings = TlsSettings()
    admin: AdminSettings = AdminSettings()

    @field_validator("workers")
    @classmethod
    def _one_budget(cls, workers: int, info: ValidationInfo) -> int:
        if workers > 1 and not info.data.get("redis"):
            raise ValueError(f"{workers} processes can share one budget only by Redis; give --redis too")
        return workers

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Put the TOML file after the environment, and the preset last; flags come first by themselves."""
        return (
            init_settings,
            env_settings,
            TomlSource(settings_cls),
            PresetSource(settings_cls),
        )


class CommandSettings(BaseSettings):
    """Settings of a command other than `serve`."""

    model_config = SettingsConfigDict(
        extra="forbid",
        frozen=True,
        cli_kebab_case=True,
        cli_implicit_flags=True,
        cli_hide_none_type=True,
        cli_exit_on_error=False,
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Read flags only: MLFLOW_PROXY_ variables are the settings of `serve`, which refuses others."""
        return (init_settings,)


def load(arguments: Sequence[str]) -> Settings:
    """Read the settings from flags, environment and the TOML file that either of them names.

    Raises InvalidSettingsError with one line that names the setting and the remedy; SystemExit(0) for --help.
    """
    _check_environment(os.environ)
    return parse(Settings, arguments)


AnySettings = TypeVar("AnySettings", bound=BaseSettings)


def parse(kind: type[AnySettings], arguments: Sequence[str]) -> AnySettings:
    """Build settings of one kind from their sources. Raises InvalidSettingsError; SystemExit for --help."""
    try:
        flags = CliSettingsSource[argparse.ArgumentParser](
            kind, cli_parse_args=list(arguments), formatter_class=_Help
        )
        return kind(_cli_settings_source=flags)
    except SettingsError as error:
        raise InvalidSettingsError(_explain_arguments(str(error), kind)) from None
    except ValidationError as error:
        raise InvalidSettingsError(_explain(error, kind)) from None


class _Help(argparse.HelpFormatter):
    """Shows defaults as an operator writes them: no Python tuples, and none where nothing is set."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        shown = super()._get_help_string(action)
        return shown and _TUPLE.sub(r"(default: \1)", _NOTHING.sub("", shown))


_NOTHING = re.compile(r" \(default: (?:|None|\(\))\)\Z")
_TUPLE = re.compile(r"\(default: \('([^']*)',\)\)\Z")


def _check_environment(environment: Mapping[str, str]) -> None:
    """Refuse misspelt variables, which pydantic-settings would pass over in silence."""
    known = {variable(path) for path, _ in names(Settings)}
    for given in sorted(environment):
        if given.startswith(PREFIX) and given not in known:
            name, names_known = given.removeprefix(PREFIX), {each.removeprefix(PREFIX) for each in known}
            raise InvalidSettingsError(f"{given}: no such setting{suggestion(name, names_known, PREFIX)}")


def _explain_arguments(message: str, kind: type[BaseSettings]) -> str:
    """Return one line for an error of the command line's parser.

    As the parser has it, a misspelt name is "unrecognized arguments: --upstrem http://w", without a remedy.
    """
    meanings = {flag(path): field.description for path, field in names(kind)}
    problem = message.removeprefix("error parsing CLI: ")
    unknown = problem.removeprefix("unrecognized arguments: ")
    if unknown == problem:
        problem = problem.removeprefix("argument ")
        meaning = meanings.get(problem.partition(":")[0])
        return one_line(f"{problem} ({meaning})" if meaning else problem)
    name = unknown.partition(" ")[0].partition("=")[0]
    return one_line(f"{name}: no such option{suggestion(name, meanings, listed='--help')}")


def _explain(error: ValidationError, kind: type[BaseSettings]) -> str:
    errors = error.errors(include_url=False)
    # A misspelt name explains why another is missing. The file's are refused before: this is a variable's.
    first = next((each for each in errors if each["type"] == "extra_forbidden"), errors[0])
    location = tuple(str(part) for part in first["loc"])
    name = ".".join(location)
    if first["type"] == "extra_forbidden":
        return f"{name}: no such setting{suggestion(name, ('.'.join(known) for known, _ in names(kind)))}"
    if first["type"] in {"model_type", "model_attributes_type"}:
        return f"{name}: a section with settings of its own; write [{name}] in the TOML file"
    remedy = flag(location)
    if issubclass(kind, Settings):
        remedy += f", {variable(location)} or {name} in the TOML file"
    if first["type"] == "missing":
        return f"{name}: not set; give {remedy}"
    message = first["msg"].removeprefix("Value error, ")
    shown = "" if first["type"] == "value_error" else f", got {short(first['input'])}"
    return one_line(f"{name}: {message}{shown}; set {remedy}")
