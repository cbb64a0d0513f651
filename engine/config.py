"""The daemon's configuration: one loader, frozen values, a default for every key.

What counts, the first that is set: the command line, the environment (``ENGINE_STATE_DIR``,
``ENGINE_LISTEN``), the file, the default. The file is the one that the command line or
``ENGINE_CONFIG`` names, else `DEFAULT_FILE` where that exists. ``conf/engined.toml`` shows
every key with its default and says what it is for.

Nothing here reads the process's environment: the edge hands it in.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, get_args, get_type_hints

import msgspec

from .endpoints import Endpoint
from .errors import ConfigError
from .paths import default_state_dir, endpoint_in
from .wire.peer import SHORTEST_HEARTBEAT

__all__ = [
    "DEFAULT_FILE",
    "Config",
    "EngineSection",
    "LimitsSection",
    "LogSection",
    "SecuritySection",
    "ShutdownSection",
    "WireSection",
    "load",
    "parse",
]

DEFAULT_FILE = Path("/etc/registry-engine/engined.toml")

_DAY = 86_400
_Seconds: TypeAlias = Annotated[float, msgspec.Meta(gt=0, le=_DAY)]
_Wait: TypeAlias = Annotated[float, msgspec.Meta(ge=0, le=_DAY)]
_Count: TypeAlias = Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]
_MOST_FRAME = 256 * 1024 * 1024


class _Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What all sections are: frozen, by keyword, and of known keys."""


class EngineSection(_Section, frozen=True, kw_only=True):
    """Where the state lies, where clients connect, how waiting counts against priority."""

    state_dir: str = ""
    listen: tuple[str, ...] = ()
    priority_ageing: _Seconds = 60.0


class LimitsSection(_Section, frozen=True, kw_only=True):
    """What one client may ask of the engine. Sizes are in bytes; the least ones are those of
    `wire.limits.Limits`, which says why."""

    header: Annotated[int, msgspec.Meta(ge=1024, le=1024 * 1024)] = 4096
    control: Annotated[int, msgspec.Meta(ge=64 * 1024, le=_MOST_FRAME)] = 64 * 1024
    submit: Annotated[int, msgspec.Meta(ge=4096, le=_MOST_FRAME)] = 1024 * 1024
    output: Annotated[int, msgspec.Meta(ge=512 * 1024, le=_MOST_FRAME)] = 1024 * 1024
    frames: Annotated[int, msgspec.Meta(ge=3, le=64)] = 4
    nesting: Annotated[int, msgspec.Meta(ge=8, le=256)] = 16
    elements: Annotated[int, msgspec.Meta(ge=256, le=16_777_216)] = 65_536
    output_quota: Annotated[int, msgspec.Meta(ge=65_536, le=2**40)] = 4 * 1024 * 1024
    jobs_per_principal: _Count = 10_000
    jobs_per_session: _Count = 256
    sessions: _Count = 1000
    outbox: Annotated[int, msgspec.Meta(ge=65_536, le=2**40)] = 8 * 1024 * 1024


class WireSection(_Section, frozen=True, kw_only=True):
    """The times of a connection, in seconds."""

    handshake_timeout: _Seconds = 3.0
    heartbeat_interval: Annotated[float, msgspec.Meta(ge=SHORTEST_HEARTBEAT, le=3600)] = 10.0
    heartbeat_misses: Annotated[int, msgspec.Meta(ge=1, le=100)] = 3
    linger: Annotated[float, msgspec.Meta(ge=0, le=60)] = 2.0
    send_queue: Annotated[int, msgspec.Meta(ge=1, le=100_000)] = 256


class LogSection(_Section, frozen=True, kw_only=True):
    """How much is logged, and in which form."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "console", "json"] = "auto"


class ShutdownSection(_Section, frozen=True, kw_only=True):
    """How long an orderly stop may take, in seconds."""

    grace: _Wait = 10.0
    stop: _Wait = 5.0


class SecuritySection(_Section, frozen=True, kw_only=True):
    """What is refused unless it is asked for."""

    open_tcp: bool = False


class Config(_Section, frozen=True, kw_only=True):
    """The whole configuration.

    ``queues`` maps a queue to how many of its jobs run at once; ``service`` maps the name of
    a service to its settings, which the service checks itself.
    """

    engine: EngineSection = EngineSection()
    limits: LimitsSection = LimitsSection()
    wire: WireSection = WireSection()
    queues: dict[str, int] = msgspec.field(default_factory=lambda: {"default": 8})
    log: LogSection = LogSection()
    shutdown: ShutdownSection = ShutdownSection()
    security: SecuritySection = SecuritySection()
    service: dict[str, dict[str, Any]] = msgspec.field(default_factory=dict)

    def state_dir(self, environ: Mapping[str, str], uid: int) -> Path:
        """The state directory in force."""
        if self.engine.state_dir:
            return Path(self.engine.state_dir)
        return default_state_dir(environ, uid)

    def listen(self, state_dir: Path) -> tuple[str, ...]:
        """The endpoints in force, for a daemon whose state is in ``state_dir``."""
        return self.engine.listen or (endpoint_in(state_dir),)


def load(
    *,
    file: str | None = None,
    state_dir: str | None = None,
    listen: Sequence[str] = (),
    environ: Mapping[str, str],
    default_file: Path = DEFAULT_FILE,
) -> tuple[Config, Path | None]:
    """The configuration in force, and the file it came from (None: there is none).

    ``file``, ``state_dir`` and ``listen`` are what the command line says. A default file that
    is missing is no error; one that was named is. Raises `ConfigError`, which names the file,
    the key, and what is allowed there.
    """
    named = file or environ.get("ENGINE_CONFIG", "")
    path = Path(named) if named else default_file
    try:
        config = parse(path.read_bytes(), source=str(path))
        found: Path | None = path
    except FileNotFoundError:
        if named:
            raise ConfigError(f"{path}: there is no such file") from None
        config, found = Config(), None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    config = _override(
        config,
        state_dir=state_dir or environ.get("ENGINE_STATE_DIR", ""),
        listen=tuple(listen) or tuple(environ.get("ENGINE_LISTEN", "").split()),
    )
    _check_once(config.engine.listen)
    return config, found


def parse(content: bytes, *, source: str) -> Config:
    """The configuration that TOML stands for; ``source`` names it in errors."""
    try:
        values = tomllib.loads(content.decode())
    except UnicodeDecodeError as error:
        raise ConfigError(f"{source}: not UTF-8 at byte {error.start}") from None
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigError(f"{source}: not TOML: {error}") from None
    try:
        _check_tables(values)
        config = msgspec.convert(values, Config, strict=True)
        _check_words(config)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{source}: {_explain(str(error))}") from None
    except ValueError as error:
        raise ConfigError(f"{source}: {error}") from None
    return _with_default_queue(config)


def _override(config: Config, *, state_dir: str, listen: tuple[str, ...]) -> Config:
    engine = config.engine
    if state_dir:
        engine = msgspec.structs.replace(engine, state_dir=state_dir)
    if listen:
        engine = msgspec.structs.replace(engine, listen=listen)
    return msgspec.structs.replace(config, engine=engine)


def _with_default_queue(config: Config) -> Config:
    queues = {**Config().queues, **config.queues}
    return msgspec.structs.replace(config, queues=queues)


def _check_tables(values: Mapping[str, Any]) -> None:
    """The tables with keys of the user's own, where msgspec could not name the key."""
    for section, kind, wanted in (("queues", int, "an integer"), ("service", dict, "a table")):
        table = values.get(section, {})
        for name, value in table.items() if isinstance(table, dict) else ():
            if not isinstance(value, kind) or isinstance(value, bool):
                raise ValueError(f"{section}.{name}: {wanted} is expected")


def _check_words(config: Config) -> None:
    """What the types cannot say."""
    for name, limit in config.queues.items():
        if not 1 <= limit <= 10_000:
            raise ValueError(f"queues.{name}: {limit} is not between 1 and 10000")
    if "\0" in config.engine.state_dir:
        raise ValueError("engine.state_dir: a path has no NUL")
    for place, endpoint in enumerate(config.engine.listen):
        try:
            Endpoint.parse(endpoint)
        except ConfigError as error:
            raise ValueError(f"engine.listen[{place}]: {error}") from None


def _check_once(endpoints: Sequence[str]) -> None:
    """Raise `ConfigError` where an endpoint stands twice; any free port is another each time."""
    for place, text in enumerate(endpoints):
        endpoint = Endpoint.parse(text)
        if text in endpoints[:place] and (endpoint.scheme != "tcp" or endpoint.port):
            raise ConfigError(f"the endpoint {text} is named twice")


_AT = re.compile(r"(?P<what>.*?)(?: - at `\$\.?(?P<path>[^`]*)`)?", re.DOTALL)
_UNKNOWN = re.compile(r"Object contains unknown field `(?P<name>.*)`", re.DOTALL)


_KINDS = {
    "`array`": "a list",
    "`bool`": "true or false",
    "`float`": "a number",
    "`int`": "an integer",
    "`object`": "a table",
    "`str`": "a string",
}


def _explain(message: str) -> str:
    """The message of msgspec with the key first, in the words of the configuration file."""
    match = _AT.fullmatch(message)
    assert match is not None  # the pattern takes any text
    path, what = match["path"] or "", match["what"]
    unknown = _UNKNOWN.fullmatch(what)
    if unknown is not None:
        key = f"{path}.{unknown['name']}" if path else unknown["name"]
        known = ", ".join(_section(path).__struct_fields__)
        return f"{key}: no such {'key' if path else 'section'}; there are {known}"
    for kind, words in _KINDS.items():
        what = what.replace(kind, words)
    section, _, key = path.partition(".")
    choices = get_args(get_type_hints(type(_section(section))).get(key)) if key else ()
    if what.startswith("Invalid enum value"):
        what = f"{what.removeprefix('Invalid enum value ')} is none of {', '.join(choices)}"
    return f"{path}: {what[:1].lower()}{what[1:]}"


def _section(name: str) -> Any:
    return getattr(Config(), name) if name else Config()
