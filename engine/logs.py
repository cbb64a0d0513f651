"""The log of the daemon: structlog over the standard library's logging, to one stream.

Every line goes one way, whether the engine wrote it, a service or a library: a record of
``logging``, rendered for people on a terminal and as one JSON object a line elsewhere. A line
that belongs to a job has its id under ``job``. What is logged of a job is what its dispatcher
tells: never its arguments or its environment, which may hold secrets.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, MutableMapping
from typing import IO, TYPE_CHECKING, Any

import structlog

from .status import Status

if TYPE_CHECKING:
    from .dispatch import Task

__all__ = ["configure", "set_level", "task_events"]

_LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}
#: Libraries that tell more than an operator of the daemon wants to know.
_QUIETED = ("urllib3", "requests", "asyncio")


def configure(*, level: str, format: str, stream: IO[str]) -> None:
    """Send every log line of the process to ``stream``.

    ``level`` is debug, info, warning or error; ``format`` is console, json, or auto, which is
    console where ``stream`` is a terminal. Meant to be called once, at the start.
    """
    if format == "auto":
        format = "console" if stream.isatty() else "json"
    shared: list[structlog.typing.Processor] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=format == "json"),
    ]
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *_rendering(format, colors=stream.isatty()),
            ],
        )
    )
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.PositionalArgumentsFormatter(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,  # a later call takes effect
    )
    root = logging.getLogger()
    root.handlers = [handler]
    logging.captureWarnings(True)
    set_level(level)


def set_level(level: str) -> None:
    """Change how much is logged, from now on."""
    logging.getLogger().setLevel(_LEVELS[level])
    for name in _QUIETED:
        logging.getLogger(name).setLevel(max(_LEVELS[level], logging.WARNING))


def task_events(task: Task, event: str, fields: Mapping[str, Any]) -> None:
    """Log what happens to a job: for `Dispatcher`'s ``on_event``."""
    log = structlog.stdlib.get_logger("engine.job").bind(job=task.id, name=task.name)
    told = {_free(key): value for key, value in fields.items() if value is not None}
    if event == "log":
        level = _LEVELS.get(str(told.pop("level", "info")), logging.INFO)
        log.log(level, str(told.pop("text", "")), **told)
    elif event == "ended" and told.get("status"):
        if told["status"] in _REPEATS:  # its words are mostly those of who asked
            told.pop("error", None)
        log.warning("ended", **told)
    elif event == "started" or _is_query(task):
        log.debug(event, **told)
    else:
        log.info(event, **told)


def _is_query(task: Task) -> bool:
    """The engine's own queries change nothing, and are asked often."""
    spec = task.job.spec
    return spec is not None and not spec.journalled


def _free(key: str) -> str:
    """A service's own field must not take the place of one that the log itself sets."""
    return f"{key}_" if key in _RESERVED else key


_REPEATS = frozenset({Status.USAGE, Status.UNKNOWN_JOB})
_RESERVED = frozenset(
    {"event", "job", "name", "logger", "timestamp", "exc_info", "stack_info", "extra"}
)


def _rendering(format: str, *, colors: bool) -> list[structlog.typing.Processor]:
    if format == "console":
        return [
            _printable,
            # the plain traceback: a richer one shows local variables, and so secrets
            structlog.dev.ConsoleRenderer(
                colors=colors, exception_formatter=structlog.dev.plain_traceback
            ),
        ]
    return [
        structlog.processors.StackInfoRenderer(),
        structlog.processors.format_exc_info,
        _message,
        structlog.processors.JSONRenderer(default=str, ensure_ascii=False),
    ]


def _printable(
    _logger: Any, _method: str, values: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    """What came from elsewhere must not steer the terminal."""
    for key, value in values.items():
        if isinstance(value, str) and not value.isprintable() and key != "exception":
            values[key] = "".join(
                char if char.isprintable() or char == "\n" else repr(char)[1:-1] for char in value
            ).rstrip("\n")
    return values


def _message(
    _logger: Any, _method: str, values: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    """The time, the level and the message first, under the names that log readers know."""
    ordered = {
        "time": values.pop("timestamp", None),
        "level": values.pop("level", None),
        "message": values.pop("event", ""),
    }
    return {**ordered, **values}
