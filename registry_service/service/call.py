"""What a handler has: its job, what all jobs share, and the library's values made of both.

Options and columns that several jobs have stand here too, so that they are the same everywhere.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Final, TypeAlias

from engine import Argument, Column, ColumnType, Job, JobSpec, Option, OptionType, Status
from engine.errors import UsageError

from ..archive import Places
from ..cancel import Cancellation
from ..credentials import AuthConfig
from ..errors import SettingsError, StoreError
from ..headers import meta_headers
from ..hostrules import HostTable
from ..observe import Observer, Settled
from ..operations.access import Access, Registries
from ..operations.content import ALL, wishes
from ..operations.v1.placed import Placed
from ..operations.versions import Client, Reader, knowing
from ..reference import Reference
from ..store import LayerBook, MemoryLayerBook, Store

__all__ = [
    "ALL_TAGS",
    "AUTH",
    "DESCRIPTORS",
    "HEADERS",
    "IMAGE",
    "PLATFORM",
    "REFERRERS",
    "Call",
    "Entry",
    "Handler",
    "Shared",
    "flag",
    "run",
]

AUTH: Final = Option(
    name="authConfig",
    type=OptionType.JSON,
    secret=True,
    help="Credentials: a JSON map with username, password, serveraddress, identitytoken, "
    "registrytoken.",
)
HEADERS: Final = Option(
    name="metaHeaders",
    type=OptionType.JSON,
    secret=True,
    help="Headers to send: a JSON map of names to lists of values.",
)
PLATFORM: Final = Option(
    name="platform",
    help="OS/ARCH[/VARIANT], several with commas between them, or 'all'.",
)


def flag(name: str, help: str) -> Option:
    """An option that is false unless it is given."""
    return Option(name=name, type=OptionType.BOOLEAN, default="false", help=help)


ALL_TAGS: Final = flag("allTags", "Every tag of the repository.")
REFERRERS: Final = flag(
    "referrers", "Take along what belongs to the image: signatures, SBOMs, attestations."
)
IMAGE: Final = Argument(name="IMAGE[:TAG][@DIGEST]", help="the image")
#: One row for each descriptor when it is settled.
DESCRIPTORS: Final = (
    Column(name="reference"),
    Column(name="digest"),
    Column(name="media_type"),
    Column(name="size", type=ColumnType.INTEGER),
    Column(name="state"),
)


class Shared:
    """What the jobs of one engine share. Each is None on an engine that cannot have it."""

    def __init__(
        self,
        *,
        registries: Registries | None = None,
        store: Store | None = None,
        places: Places | None = None,
    ) -> None:
        self._registries = registries
        self._store = store
        #: Where the engine reads and writes archives.
        self.places = places or Places()
        #: What was learned of layers of V1.
        self.layers: LayerBook = MemoryLayerBook() if store is None else store.layers
        #: Where copies put such layers.
        self.placed = Placed()

    @property
    def store(self) -> Store:
        """Raises `StoreError` where there is none."""
        if self._store is None:
            raise StoreError("the engine has no state directory, and so there is no store")
        return self._store

    @property
    def registries(self) -> Registries:
        if self._registries is None:
            raise StoreError("the service is not installed on an engine")
        return self._registries

    def renewed(self, hosts: HostTable) -> Shared:
        """The same, but for what holds for single hosts."""
        made = Shared(
            registries=self.registries.renewed(hosts), store=self._store, places=self.places
        )
        made.layers, made.placed = self.layers, self.placed
        return made

    def close(self) -> None:
        if self._store is not None:
            self._store.close()
        if self._registries is not None:
            self._registries.close()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One run of a handler. ``cancel`` is the job's cancel as the library's, ``observer``
    turns what the library tells into the job's rows, progress and log lines."""

    job: Job
    shared: Shared
    cancel: Cancellation
    observer: Observer

    @property
    def store(self) -> Store:
        return self.shared.store

    @property
    def registries(self) -> Registries:
        return self.shared.registries

    @property
    def credentials(self) -> AuthConfig:
        return AuthConfig.from_json(self.job.env.get("authConfig"))

    @property
    def access(self) -> Access:
        headers = meta_headers(self.job.env.get_json("metaHeaders"))
        return Access(auth=self.credentials, headers=headers)

    @property
    def platform(self) -> str:
        """The wish as it was written; looked at before anything is asked of a registry."""
        wish = self.job.env.get("platform", "")
        if wish != ALL:
            wishes(wish)
        return wish

    def client(self, reference: Reference, cancel: Cancellation | None = None) -> Client:
        """The registry of that reference, for this caller."""
        client = self.registries.client(
            reference.host, self.access, cancel=cancel or self.cancel, observer=self.observer
        )
        return knowing(client, reference)

    def reader(self, reference: Reference) -> Reader:
        """What that reference is read from: its registry, or the mirrors of that."""
        reader = self.registries.reader(
            reference.host, self.access, cancel=self.cancel, observer=self.observer
        )
        return knowing(reader, reference)

    def repository(self, why: str = "") -> Reference:
        """The first argument as a repository. Raises `UsageError` for one with a tag or a
        digest."""
        text = self.job.args[0]
        reference = Reference.parse(text, default_tag=None)
        if reference.tag or reference.digest:
            usage = "" if self.job.spec is None else self.job.spec.usage
            raise UsageError(
                f"{text}: {why}a repository is named, without a tag or digest", usage=usage
            )
        return reference


Handler: TypeAlias = Callable[[Call], Status]


@dataclasses.dataclass(frozen=True, slots=True)
class Entry:
    """A job of the Service."""

    spec: JobSpec
    handler: Handler


def run(handler: Handler, job: Job, shared: Shared) -> Status:
    """Run a handler for ``job``, whose cancel ends whatever the library waits for.

    What a running job finds wrong in the configuration is no wrong usage of the job.
    """
    cancel = Cancellation()
    remove = job.on_cancel(cancel.cancel)
    try:
        return handler(Call(job=job, shared=shared, cancel=cancel, observer=_observer(job)))
    except SettingsError as error:
        error.status = Status.ERROR
        raise
    finally:
        remove()


def _observer(job: Job) -> Observer:
    def settled(one: Settled) -> None:
        job.row(one.reference, one.digest, one.media_type, one.size, one.state)

    def log(level: str, text: str, /, **fields: Any) -> None:
        job.log(level, text, **fields)

    return Observer(progress=job.progress, log=log, settled=settled)
