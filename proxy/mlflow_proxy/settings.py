"""Every setting: its name, meaning, default and bounds; and how flags, environment and TOML become one.

Precedence: flags, environment (``MLFLOW_PROXY_``, nested with ``__``), TOML file, preset, defaults.
Durations are seconds. ``config.example.toml`` documents every setting, and a test holds it to that.
"""

import argparse
import difflib
import os
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ByteSize,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)
from typing_extensions import TypeAliasType

from mlflow_proxy.addresses import literal
from mlflow_proxy.errors import InvalidSettingsError
from mlflow_proxy.mlflow_api.caller_fields import row_of
from mlflow_proxy.mlflow_api.headers import is_token
from mlflow_proxy.mlflow_api.routes import Group

PREFIX = "MLFLOW_PROXY_"

# Aliases with names of their own: --help shows them in the place of a type.
Seconds = TypeAliasType("Seconds", Annotated[float, Field(ge=0, allow_inf_nan=False)])
PositiveSeconds = TypeAliasType("PositiveSeconds", Annotated[float, Field(gt=0, allow_inf_nan=False)])


def _origin(value: str) -> str:
    """Check the URL of a workspace and return it without a trailing slash."""
    shown = repr(re.sub(r"(?<=//)[^/@]*@", "...@", value))
    try:
        parts = urlsplit(value)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise ValueError(f"{shown} is not a URL: {error}") from None
    if parts.scheme not in {"http", "https"} or not host:
        raise ValueError(f"{shown} is not a URL such as https://my-workspace.cloud.databricks.com")
    only = "only scheme, host, port and path belong here; clients send their own credentials"
    if parts.username is not None or any(c.isspace() for c in value):
        raise ValueError(only)
    if (surplus := _SURPLUS.search(value)) is not None:
        raise ValueError(f"leave out {_named(surplus)}: {only}")
    origin = value.rstrip("/")
    ending = api_ending(origin)
    if ending is not None and any(character.isdigit() for character in ending):
        raise ValueError(f"leave out {ending!r}, which clients add themselves")
    return origin


_SURPLUS = re.compile(r"(?P<shown>\?o=[0-9]+|[?#])(?P<rest>.*)", re.DOTALL)
"""What does not belong to an origin. A browser shows a workspace's own number, which may be repeated to the
operator; anything else may be a secret."""
_API_ENDING = re.compile(r"/(?:ajax-)?api(?:/[0-9][^/]*(?:/.*)?)?\Z")


def _named(surplus: re.Match[str]) -> str:
    shown = surplus["shown"]
    named = repr(shown) if len(shown) > 1 else f"the {shown!r}"
    return f"{named} and what follows" if surplus["rest"] else named


def api_ending(origin: str) -> str | None:
    """Return the end of an upstream's URL that is the beginning of the API's own paths, if any.

    With a version in it, it is certainly a mistake; without one, it may be a gateway's own path.
    """
    found = _API_ENDING.search(urlsplit(origin).path)
    return found[0] if found is not None else None


_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?", re.IGNORECASE)
_LONGEST_NAME = 253
"""Characters of a host name (RFC 1035 section 2.3.4, without the final dot)."""


def _listed(what: str, check: Callable[[str], None]) -> BeforeValidator:
    """Return a validator for names, listed or with commas between them, that makes a tuple of them."""

    def validate(value: object) -> tuple[str, ...]:
        found = value.split(",") if isinstance(value, str) else value
        if not isinstance(found, list | tuple) or not all(isinstance(each, str) for each in found):
            raise ValueError(f"must be a list of {what}, got {_short(value)}")
        names = tuple(each.strip() for each in found)
        for name in names:
            check(name)
        return names

    return BeforeValidator(validate)


def _check_address(host: str) -> None:
    every = "0.0.0.0 is every interface, :: is by IPv6"
    if not host:
        raise ValueError(f"an empty string is no address; {every}")
    if literal(host) is not None:
        return
    shown = _short(host)
    if "/" in host or "*" in host:
        raise ValueError(f"{shown} is no address to listen on; {every}")
    if ":" in host:
        raise ValueError(
            f"{shown} has a port, or is no address; give the address alone, and the port as port"
        )


def _check_host(host: str) -> None:
    if not host:
        raise ValueError("an empty string is no host name; leave allowed_hosts out to name none")
    if literal(host) is not None:
        return
    shown = _short(host)
    if "/" in host:
        raise ValueError(f"{shown} is a URL; give the name of its host only")
    if "*" in host:
        raise ValueError(f"{shown} has a wildcard, but names are compared whole; give each of them")
    if not host.isascii():
        raise ValueError(f"{shown} is not in ASCII; give the name as clients send it, xn--...")
    if ":" in host:
        raise ValueError(f"{shown} has a port, or is no address; give the host alone, whose ports all count")
    name = host.removesuffix(".")
    if len(name) > _LONGEST_NAME or not all(_LABEL.fullmatch(label) for label in name.split(".")):
        raise ValueError(f"{shown} is not a host name such as mlflow-proxy.internal")


def _check_token(name: str) -> None:
    if not is_token(name):
        raise ValueError(f"{_short(name)} is no name of a field or cookie; give one such as x-my-trace")
    if "*" in name:  # which a name may have by RFC 9110, and none has
        raise ValueError(f"{_short(name)} has a wildcard, but names are compared whole; give each of them")


def _check_neutral(name: str) -> None:
    _check_token(name)
    row = row_of(name)
    if row is not None and row.fixed:
        raise ValueError(f"{name} always counts ({row.why}); leave it out")


Size = TypeAliasType("Size", Annotated[ByteSize, Field(gt=0)])
File = TypeAliasType("File", str)
Addresses = TypeAliasType(
    "Addresses", Annotated[tuple[str, ...], Field(min_length=1), _listed("addresses", _check_address)]
)
OptionalAddresses = TypeAliasType(
    "OptionalAddresses",
    Annotated[
        tuple[str, ...],
        _listed("addresses", _check_address),
        BeforeValidator(lambda value: () if value == "" else value),
    ],
)
HostNames = TypeAliasType("HostNames", Annotated[tuple[str, ...], _listed("host names", _check_host)])
FieldNames = TypeAliasType("FieldNames", Annotated[tuple[str, ...], _listed("field names", _check_neutral)])
CookieNames = TypeAliasType("CookieNames", Annotated[tuple[str, ...], _listed("cookie names", _check_token)])


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def _key_of(certificate: str) -> Callable[[str, ValidationInfo], str]:
    """Return a validator for the setting of a private key, which belongs to that of a certificate."""

    def validate(key: str, info: ValidationInfo) -> str:
        given = info.data.get(certificate)
        if given and not key:
            raise ValueError(f"{certificate} needs its private key, a PEM file")
        if key and given == "":
            raise ValueError(f"a key is of no use without {certificate}, a PEM file")
        return key

    return validate


class CacheSettings(_Section):
    """What is stored and for how long."""

    max_bytes: Size = Field(ByteSize(256 * 2**20), description="memory for stored answers")
    max_entry_bytes: Size = Field(
        ByteSize(8 * 2**20), description="answers larger than this are streamed and not stored"
    )
    listing_ttl: Seconds = Field(3600, description="file listings of READY model versions")
    unverified_ttl: Seconds = Field(60, description="file listings of versions whose status is not known")
    pending_ttl: Seconds = Field(5, description="file listings of versions that are not READY")
    mutable_ttl: Seconds = Field(5, description="aliases, stages, latest versions, searches")
    not_found_ttl: Seconds = Field(5, description="404 answers")
    discovery_ttl: Seconds = Field(3600, description="/.well-known documents of the workspace")
    stale_if_error: Seconds = Field(
        0, description="how long expired listings of READY versions are served while the workspace is down"
    )
    signed_url_ttl: Seconds = Field(
        900, description="signed URLs at most, however late they say that they expire"
    )
    signed_url_margin: Seconds = Field(
        120, description="a signed URL is not given out in the last seconds before it expires"
    )


class BudgetSettings(_Section):
    """The workspace's limits; 0 for none."""

    registry_limit: int = Field(
        40, ge=0, description="calls per second to the Workspace Model Registry API, all clients together"
    )
    runs_search_limit: int = Field(7, ge=0, description="calls per second to runs/search")
    experiments_limit: int = Field(
        7, ge=0, description="calls per second that create, update, delete, restore or list experiments"
    )
    log_batch_limit: int = Field(47, ge=0, description="calls per second to runs/log-batch")
    tracking_limit: int = Field(127, ge=0, description="calls per second to the rest of the tracking API")
    floor: float = Field(
        1,
        gt=0,
        allow_inf_nan=False,
        description="calls per second kept up however often the workspace refuses",
    )
    background_share: float = Field(
        0.25, gt=0, le=1, description="of a limit, for calls that nobody waits for"
    )
    queue_per_client: int = Field(2_000, ge=1, description="calls that one client may have waiting")
    queue_total: int = Field(10_000, ge=1, description="calls that may wait for one limit")
    jitter_margin: float = Field(
        0.04,
        ge=0,
        le=1,
        description="how much calls may drift together on their way to the workspace, seconds",
    )
    patience: PositiveSeconds = Field(
        40, description="how long a request may wait in all; the clients' own time-out is 60 s"
    )

    @property
    def limits(self) -> dict[Group, int]:
        """The limit of each group that has one."""
        limits = {
            Group.REGISTRY: self.registry_limit,
            Group.RUNS_SEARCH: self.runs_search_limit,
            Group.EXPERIMENTS: self.experiments_limit,
            Group.LOG_BATCH: self.log_batch_limit,
            Group.TRACKING: self.tracking_limit,
        }
        return {group: limit for group, limit in limits.items() if limit}

    @field_validator("floor")
    @classmethod
    def _below_the_limits(cls, floor: float, info: ValidationInfo) -> float:
        for name, limit in info.data.items():
            if name.endswith("_limit") and 0 < limit < floor:
                raise ValueError(f"{floor:g} is above {name}, which is {limit}; choose less")
        return floor


class AccessSettings(_Section):
    """Whose credentials the workspace sees, and who may be served what."""

    sharing: Literal["auto", "credential", "proven", "service"] = Field(
        "auto",
        description="whose answers a client gets: those fetched with its own credential, or with any once it "
        "has proven that it may read the model, or with the one that the proxy holds as a service; auto is "
        "proven for a Databricks workspace and credential for other upstreams",
    )
    proof_ttl: PositiveSeconds = Field(300, description="proven: how long such a proof counts")
    refusal_ttl: Seconds = Field(5, description="proven: how long a refusal counts")
    neutral_fields: Annotated[FieldNames, NoDecode] = Field(
        (),
        description="request fields that tell nothing about the caller, with commas between them, beside the "
        "well-known ones",
    )
    neutral_cookies: Annotated[CookieNames, NoDecode] = Field(
        (),
        description="cookies that tell nothing about the caller, such as a load balancer's, with commas"
        " between them",
    )
    token_file: File = Field(
        "", description="service: file with the workspace's token, read again when it changes"
    )
    profile: str = Field(
        "", description="service: Databricks profile, when the environment does not say it all"
    )
    clients_file: File = Field(
        "", description="service: TOML file of the clients and the digests of their tokens"
    )
    reach: Literal["mlflow", "everything"] = Field(
        "mlflow", description="service: which APIs clients may call with the proxy's credential"
    )

    @field_validator("neutral_fields", "neutral_cookies")
    @classmethod
    def _of_callers(cls, names: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        if names and info.data.get("sharing") == "service":
            raise ValueError(
                "has no use with access.sharing service, where no field of a client separates answers; "
                "leave it out"
            )
        return names

    @field_validator("token_file", "profile", "clients_file", "reach")
    @classmethod
    def _of_service(cls, value: str, info: ValidationInfo) -> str:
        if value in {"", "mlflow"}:
            return value
        if info.data.get("sharing") != "service":
            raise ValueError(
                "is for access.sharing service, where the proxy holds the credential and knows its clients; "
                "otherwise the workspace does. Give --access.sharing service too, or do not"
            )
        if info.field_name == "profile" and info.data.get("token_file"):
            raise ValueError("access.token_file is set as well, and one credential is enough; do not")
        return value


class ConnectionSettings(_Section):
    """The connections to the workspace and its storage, and those of clients."""

    connect_timeout: PositiveSeconds = Field(10, description="to open a connection")
    read_timeout: PositiveSeconds = Field(300, description="between two reads of an answer that is streamed")
    max_connections: int = Field(256, ge=1, description="to the workspace, and as many to its storage")
    max_clients: int = Field(10_000, ge=1, description="connections of clients open at once")
    max_requests: int = Field(10_000, ge=1, description="requests of clients being answered at once")
    head_timeout: PositiveSeconds = Field(
        30, description="for a client to send a request's head, from when it connected or began with it"
    )
    client_timeout: PositiveSeconds = Field(
        60, description="for a client to send nothing of a body, or to take nothing of an answer"
    )
    idle_timeout: PositiveSeconds = Field(3630, description="for a client's connection between requests")
    forwarded_fields: Literal["auto", "always", "never"] = Field(
        "auto",
        description="whether the upstream hears clients' addresses, in X-Forwarded-For and its like; auto: "
        "unless it is known to be a Databricks workspace",
    )
    ca_file: File = Field("", description="PEM file of CAs to trust beside the system's")
    client_certificate: File = Field("", description="PEM file, for a workspace that wants one")
    client_key: Annotated[File, AfterValidator(_key_of("client_certificate"))] = Field(
        "", validate_default=True, description="PEM file of its private key"
    )


class TlsSettings(_Section):
    """https for clients, on the same port. The files are read again when they change."""

    certificate: File = Field("", description="PEM file: the certificate and those between it and its CA")
    key: Annotated[File, AfterValidator(_key_of("certificate"))] = Field(
        "", validate_default=True, description="PEM file of its private key"
    )


class ArtifactSettings(_Section):
    """Door A: plain http(s) tracking URIs."""

    rewrite_dbfs: bool = Field(True, description="serve registry models whose download URI is dbfs: as files")
    local_storage: bool = Field(
        False, description="follow signed URLs to this machine although the workspace is elsewhere"
    )


def _secret(value: SecretStr) -> SecretStr:
    length = len(value.get_secret_value())
    if 0 < length < _SHORTEST_SECRET:
        raise ValueError(
            f"{length} characters are too few to keep anything secret; "
            f"make {_SHORTEST_SECRET} or more with `openssl rand -hex 32`"
        )
    return value


_SHORTEST_SECRET = 16

Secret = TypeAliasType("Secret", Annotated[SecretStr, AfterValidator(_secret)])


class FleetSettings(_Section):
    """What proxies that share a Redis have in common beside their budgets."""

    secret: Secret = Field(
        SecretStr(""), description="the same on all proxies, so that they share answers as well"
    )


_ADMIN_PORT = 8081


class AdminSettings(_Section):
    """The proxy's own endpoints, under /-/."""

    host: Annotated[OptionalAddresses, NoDecode] = Field(
        (),
        description="address of a listener for them alone, or several with commas between them; empty: with "
        "everything else",
    )
    port: int = Field(_ADMIN_PORT, ge=0, le=65535, description="its port, 0 for any free one")
    token: Secret = Field(SecretStr(""), description="who may purge; without one, whoever is on this machine")

    @field_validator("port")
    @classmethod
    def _of_the_host(cls, port: int, info: ValidationInfo) -> int:
        if port != _ADMIN_PORT and info.data.get("host") == ():
            raise ValueError("a port is of no use without admin.host, such as 127.0.0.1")
        return port


PRESETS: Mapping[str, Mapping[str, Mapping[str, object]]] = {
    "databricks": {},
    # An MLflow server counts no calls, may have permissions that a proof does not cover, and lets clients on
    # its own machine do more, so that it has to be told whose calls a proxy there passes on.
    "open-source": {
        "budget": {
            "registry_limit": 0,
            "runs_search_limit": 0,
            "experiments_limit": 0,
            "log_batch_limit": 0,
            "tracking_limit": 0,
        },
        "access": {"sharing": "credential"},
        "connections": {"forwarded_fields": "always"},
    },
}
"""The defaults, by section, that differ with each value of ``preset`` from those of the settings."""


class _PresetSource(PydanticBaseSettingsSource):
    """The last source before the defaults: what the preset that the others chose sets."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """Find nothing for one field alone: a preset sets them together."""
        return None, field_name, False

    def __call__(self) -> dict[str, Any]:
        """Return the preset's sections; nothing for one that is not known, which is refused as a setting."""
        chosen = PRESETS.get(str(self.current_state.get("preset")), {})
        return {section: dict(values) for section, values in chosen.items()}


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

    upstream: Annotated[str, AfterValidator(_origin)] = Field(description="URL of the workspace")
    preset: Literal["databricks", "open-source"] = Field(
        "databricks",
        description="what kind of upstream the defaults are for; an MLflow server is given no limits, "
        "answers are shared by credential only, and it is told clients' addresses",
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
            TomlConfigSettingsSource(settings_cls),
            _PresetSource(settings_cls),
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
    path = _config_path(arguments, os.environ)
    if path is not None:
        _check_toml(path)
    _check_environment(os.environ)

    class Loaded(Settings):
        model_config = SettingsConfigDict(toml_file=path)

    Loaded.__doc__ = Settings.__doc__
    return parse(Loaded, arguments, path)


AnySettings = TypeVar("AnySettings", bound=BaseSettings)


def parse(kind: type[AnySettings], arguments: Sequence[str], path: Path | None = None) -> AnySettings:
    """Build settings of one kind from their sources. Raises InvalidSettingsError; SystemExit for --help."""
    try:
        return kind(_cli_parse_args=list(arguments))
    except SettingsError as error:
        raise InvalidSettingsError(_explain_arguments(str(error), kind)) from None
    except ValidationError as error:
        raise InvalidSettingsError(_explain(error, kind, path)) from None


def names(
    kind: type[BaseModel] = Settings, above: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], FieldInfo]]:
    """Yield the path and the description of every setting, nested ones after their section's name."""
    for name, field in kind.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from names(field.annotation, (*above, name))
        else:
            yield (*above, name), field


def _config_path(arguments: Sequence[str], environment: Mapping[str, str]) -> Path | None:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--config")
    try:
        known, _ = parser.parse_known_args(list(arguments))
    except argparse.ArgumentError:
        raise InvalidSettingsError("config: --config needs the path of a TOML file") from None
    value = known.config or environment.get(f"{PREFIX}CONFIG")
    return Path(value) if value else None


def _check_toml(path: Path) -> None:
    try:
        tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidSettingsError(
            f"config: {path} cannot be read ({error.strerror}); give --config a readable TOML file"
        ) from None
    except ValueError as error:
        raise InvalidSettingsError(f"config: {path} is not valid TOML: {_one_line(str(error))}") from None
    except RecursionError:
        raise InvalidSettingsError(f"config: {path} is not usable: lists are nested too deeply") from None


def _check_environment(environment: Mapping[str, str]) -> None:
    """Refuse misspelt variables, which pydantic-settings would pass over in silence."""
    known = {_variable(path) for path, _ in names()}
    for variable in sorted(environment):
        if variable.startswith(PREFIX) and variable not in known:
            name, names_known = variable.removeprefix(PREFIX), {each.removeprefix(PREFIX) for each in known}
            raise InvalidSettingsError(f"{variable}: no such setting{_suggest(name, names_known, PREFIX)}")


def _explain_arguments(message: str, kind: type[BaseSettings]) -> str:
    problem = message.removeprefix("error parsing CLI: ")
    unknown = problem.removeprefix("unrecognized arguments: ")
    if unknown == problem:
        return _one_line(problem.removeprefix("argument "))
    name = unknown.partition(" ")[0].partition("=")[0]
    close = difflib.get_close_matches(name, [_flag(path) for path, _ in names(kind)], n=1)
    remedy = f"did you mean {close[0]}?" if close else "--help lists them all"
    return _one_line(f"{name}: no such option; {remedy}")


def _explain(error: ValidationError, kind: type[BaseSettings], path: Path | None) -> str:
    errors = error.errors(include_url=False)
    # A misspelt name explains why another is missing.
    first = next((each for each in errors if each["type"] == "extra_forbidden"), errors[0])
    location = tuple(str(part) for part in first["loc"])
    name = ".".join(location)
    if first["type"] == "extra_forbidden":
        known = {".".join(known) for known, _ in names(kind)}
        source = f" in {path}" if path is not None else ""
        return f"{name}: no such setting{source}{_suggest(name, known)}"
    if first["type"] in {"model_type", "model_attributes_type"}:
        return f"{name}: a section with settings of its own; write [{name}] in the TOML file"
    remedy = _flag(location)
    if issubclass(kind, Settings):
        remedy += f", {_variable(location)} or {name} in the TOML file"
    if first["type"] == "missing":
        return f"{name}: not set; give {remedy}"
    message = first["msg"].removeprefix("Value error, ")
    shown = "" if first["type"] == "value_error" else f", got {_short(first['input'])}"
    return _one_line(f"{name}: {message}{shown}; set {remedy}")


def _flag(path: tuple[str, ...]) -> str:
    return "--" + ".".join(path).replace("_", "-")


def _variable(path: tuple[str, ...]) -> str:
    return PREFIX + "__".join(path).upper()


def _suggest(name: str, known: set[str], prefix: str = "") -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {prefix}{close[0]}?" if close else "; config.example.toml lists them all"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _one_line(text: str) -> str:
    return " ".join(text.split())
