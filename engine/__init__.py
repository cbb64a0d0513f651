"""A job engine: named jobs with arguments, an environment, streams and an exit status.

This package's core needs nothing but the standard library::

    from engine import Engine

    engine = Engine()
    engine.register("greet", lambda job: job.write(f"hello {job.args[0]}"))
    job = engine.job("greet", "world")
    job.run()

`engine.client.Client` and `engine.aio.AsyncClient` reach an engine in a daemon.
"""

from .engine import Engine, Installer
from .env import Env
from .errors import EngineError
from .job import Job
from .spec import Argument, Column, ColumnType, JobSpec, Option, OptionType, RowMode
from .status import State, Status
from .table import Table
from .version import __version__

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
