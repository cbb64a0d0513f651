"""A job engine: named jobs with arguments, an environment, streams and an exit status.

This package's core needs nothing but the standard library::

    from engine import Engine

    engine = Engine()
    engine.register("greet", lambda job: job.write(f"hello {job.args[0]}"))
    job = engine.job("greet", "world")
    job.run()

`engine.client.Client` and `engine.aio.AsyncClient` reach an engine in a daemon.

The names below are loaded when they are first used: a client, ``enginectl`` above all, starts
without the engine that it only talks to.
"""

from typing import TYPE_CHECKING, Any

from .version import __version__

if TYPE_CHECKING:
    from .engine import Engine, Installer
    from .env import Env
    from .errors import EngineError
    from .job import Job
    from .spec import Argument, Column, ColumnType, JobSpec, Option, OptionType, RowMode
    from .status import State, Status
    from .table import Table
else:
    _HOMES = {
        "Argument": "spec",
        "Column": "spec",
        "ColumnType": "spec",
        "Engine": "engine",
        "EngineError": "errors",
        "Env": "env",
        "Installer": "engine",
        "Job": "job",
        "JobSpec": "spec",
        "Option": "spec",
        "OptionType": "spec",
        "RowMode": "spec",
        "State": "status",
        "Status": "status",
        "Table": "table",
    }

    def __getattr__(name: str) -> Any:
        from importlib import import_module

        home = _HOMES.get(name)
        if home is None:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(f"{__name__}.{home}"), name)
        globals()[name] = value  # from now on without this function
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *_HOMES})


__all__ = [
    "Argument",
    "Column",
    "ColumnType",
    "Engine",
    "EngineError",
    "Env",
    "Installer",
    "Job",
    "JobSpec",
    "Option",
    "OptionType",
    "RowMode",
    "State",
    "Status",
    "Table",
    "__version__",
]
