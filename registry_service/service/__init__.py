"""The Service: installs the registry jobs on an engine.

call          what a handler has: its job, and what all jobs share
registry      auth, search, tags
transfer      pull, push
images        images, inspect, raw, tag
repositories  catalog, referrers, delete, copy
convert       convert
archives      save, load
upkeep        remove, gc, verify
generations   configurations that follow each other, when the engine reloads

Handlers translate and no more: from arguments and environment to values, from the library's
callbacks to rows, progress and log lines. A module names its jobs in ``JOBS``. What they share
(the store, the connections) belongs to the Service and is closed when the engine shuts down.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

from engine import Engine, Job, Status

from ..archive import Places
from ..errors import SettingsError
from ..hostfile import FILE_NAME, load_hosts
from ..hostrules import HostTable
from ..ledger import DiskLedger
from ..operations.access import Registries
from ..proxies import Proxies
from ..settings import DEFAULT_CERTS_DIRS, RegistrySettings
from ..store import Store
from . import archives, convert, images, registry, repositories, transfer, upkeep
from .call import Entry, Handler, Shared, run
from .generations import Generations

__all__ = ["CERTS_DIRS", "JOBS", "Service"]

#: Where certificates lie unless the settings say otherwise: first beside the configuration.
CERTS_DIRS = ("certs.d", *map(str, DEFAULT_CERTS_DIRS))

#: Every job that the Service installs.
JOBS: Final[tuple[Entry, ...]] = (
    *registry.JOBS,
    *transfer.JOBS,
    *images.JOBS,
    *convert.JOBS,
    *repositories.JOBS,
    *archives.JOBS,
    *upkeep.JOBS,
)


class Service:
    """Installs the jobs of `JOBS`. It keeps its store in the engine's state directory:
    ``images/`` is the OCI image layout, ``ingest/`` what is under way.
    """

    def __init__(self) -> None:
        self._generations = Generations(Shared())
        self._config_dir: Path | None = None

    def install(self, engine: Engine) -> None:
        """Register the jobs. Raises for settings that cannot be used, and a store likewise."""
        settings = dict(engine.settings)
        transfers = _transfers(settings.pop("transfers", 4))
        places = _places(settings)
        registry_settings = dataclasses.replace(
            _registry_settings(settings, engine.config_dir),
            hosts=_hosts(engine.config_dir),
            proxies=Proxies.from_environ(engine.environ),
        )
        store = ledger = None
        if engine.state_dir is not None:
            ingest = engine.state_dir / "ingest"
            store = Store(engine.state_dir / "images", ingest, workers=transfers)
            ledger = DiskLedger(ingest / "uploads")
        registries = Registries(registry_settings, ledger=ledger)
        self._config_dir = engine.config_dir
        self._generations = Generations(Shared(registries=registries, store=store, places=places))
        for entry in JOBS:
            engine.register(entry.spec.name, partial(self._run, entry.handler), entry.spec)
        engine.on_shutdown(self.close)
        engine.on_reload(self.reload)
        registries.prepare()

    def reload(self) -> None:
        """Read ``registries.toml`` anew, for the jobs that begin from now on. Raises
        `SettingsError` for a file that cannot be used; then the old one stays in force."""
        self._generations.renew(_hosts(self._config_dir))

    def close(self) -> None:
        """End the transfers and the connections."""
        self._generations.close()

    def auth(self, job: Job) -> Status:
        """Text: the status line. OK only when the registry accepts the credentials."""
        return self._run(registry.auth, job)

    def search(self, job: Job) -> Status:
        """One row for each repository that was found, most stars first."""
        return self._run(registry.search, job)

    def pull(self, job: Job) -> Status:
        """One row for each descriptor when it is settled, the image's own last."""
        return self._run(transfer.pull, job)

    def push(self, job: Job) -> Status:
        """One row for each descriptor when it is settled, the image's own last."""
        return self._run(transfer.push, job)

    def _run(self, handler: Handler, job: Job) -> Status:
        with self._generations.use() as shared:
            return run(handler, job, shared)


def _registry_settings(values: Mapping[str, Any], config_dir: Path | None) -> RegistrySettings:
    """The library's settings. Relative directories of certificates lie beside the
    configuration; where there is none, they are nowhere."""
    settings = RegistrySettings.from_mapping(
        {"certs_dirs": CERTS_DIRS, **values}, others=("transfers", "load_dirs", "save_dirs")
    )
    base = None if config_dir is None else config_dir.absolute()
    placed = (path if base is None else base / path for path in settings.certs_dirs)
    return dataclasses.replace(
        settings, certs_dirs=tuple(path for path in placed if path.is_absolute())
    )


def _hosts(config_dir: Path | None) -> HostTable:
    """What ``registries.toml`` beside the configuration says, if there is one."""
    return HostTable() if config_dir is None else load_hosts(config_dir.absolute() / FILE_NAME)


def _transfers(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 64:
        raise SettingsError("transfers", "an integer from 1 to 64 is expected")
    return value


def _places(settings: dict[str, Any]) -> Places:
    """Where archives may be read and written; the keys are taken out of ``settings``.

    Nowhere may one be written unless it is said where: to write a file wherever the engine can
    is more than most who may submit a job should be able to do.
    """
    found = {}
    for key, default in (("load_dirs", ["/"]), ("save_dirs", [])):
        value = settings.pop(key, default)
        if not isinstance(value, (list, tuple)) or not all(isinstance(one, str) for one in value):
            raise SettingsError(key, "a list of directories is expected")
        found[key] = tuple(map(Path, value))
        if not all(path.is_absolute() for path in found[key]):
            raise SettingsError(key, "absolute paths are expected")
    return Places(readable=found["load_dirs"], writable=found["save_dirs"])
