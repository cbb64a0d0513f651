"""The Service: installs the registry jobs on an engine.

Handlers translate and no more: from arguments and environment to values, from the library's
callbacks to rows, progress and log lines. What they share (the store, the connections) belongs
to the Service and is closed when the engine shuts down.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from engine import Argument, Column, ColumnType, Engine, Job, JobSpec, Option, OptionType, Status
from engine.errors import UsageError
from engine.spec import RowMode

from .cancel import Cancellation
from .credentials import AuthConfig
from .errors import SettingsError, StoreError
from .headers import meta_headers
from .observe import Observer, Settled
from .operations.access import Access, Registries
from .operations.content import ALL
from .operations.listing import images, inspect, tag
from .operations.login import login
from .operations.pull import pull, pull_all_tags
from .operations.push import push
from .operations.search import Query, search
from .platform import Platform
from .reference import Reference
from .session.v2 import V2Client
from .settings import DEFAULT_CERTS_DIRS, RegistrySettings
from .store import Store

__all__ = ["CERTS_DIRS", "Service"]

#: Where certificates lie unless the settings say otherwise: first beside the configuration.
CERTS_DIRS = ("certs.d", *map(str, DEFAULT_CERTS_DIRS))

_AUTH = Option(
    name="authConfig",
    type=OptionType.JSON,
    secret=True,
    help="Credentials: a JSON map with username, password, serveraddress, identitytoken, "
    "registrytoken.",
)
_HEADERS = Option(
    name="metaHeaders",
    type=OptionType.JSON,
    secret=True,
    help="Headers to send: a JSON map of names to lists of values.",
)
_PLATFORM = Option(
    name="platform",
    help="OS/ARCH[/VARIANT], or 'all'.",
)
_IMAGE = Argument(name="IMAGE[:TAG][@DIGEST]", help="the image")
_DESCRIPTORS = (
    Column(name="reference"),
    Column(name="digest"),
    Column(name="media_type"),
    Column(name="size", type=ColumnType.INTEGER),
    Column(name="state"),
)

SPECS = {
    spec.name: spec
    for spec in (
        JobSpec(
            name="auth",
            help="Check credentials against a registry. Nothing is stored.",
            options=(_AUTH,),
            queue="registry",
        ),
        JobSpec(
            name="search",
            help="Search an index, or a registry: HOST/TERM.",
            arguments=(Argument(name="TERM", help="free text, or HOST/TEXT"),),
            options=(
                _AUTH,
                _HEADERS,
                Option(
                    name="limit",
                    type=OptionType.INTEGER,
                    default="25",
                    help="The most results, from 1 to 10000.",
                ),
                Option(
                    name="filters",
                    type=OptionType.JSON,
                    help="A JSON map with stars (at least), is-official, is-trusted.",
                ),
            ),
            columns=(
                Column(name="name"),
                Column(name="description"),
                Column(name="star_count", type=ColumnType.INTEGER),
                Column(name="is_official", type=ColumnType.BOOLEAN),
                Column(name="is_trusted", type=ColumnType.BOOLEAN),
            ),
            row_mode=RowMode.SINGLE,
            queue="registry",
        ),
        JobSpec(
            name="pull",
            help="Fetch an image from its registry into the store.",
            arguments=(_IMAGE,),
            options=(
                _AUTH,
                _HEADERS,
                _PLATFORM,
                Option(
                    name="allTags",
                    type=OptionType.BOOLEAN,
                    default="false",
                    help="Every tag of the repository.",
                ),
            ),
            columns=_DESCRIPTORS,
            queue="transfer",
            resumable=True,
        ),
        JobSpec(
            name="push",
            help="Send an image of the store to the registry that its name says.",
            arguments=(Argument(name="IMAGE[:TAG]", help="the image"),),
            options=(_AUTH, _HEADERS, _PLATFORM),
            columns=_DESCRIPTORS,
            queue="transfer",
            resumable=True,
        ),
        JobSpec(
            name="tags",
            help="List the tags of a repository of a registry.",
            arguments=(Argument(name="REPOSITORY", help="a repository, without a tag"),),
            options=(_AUTH, _HEADERS),
            columns=(Column(name="repository"), Column(name="tag")),
            queue="registry",
        ),
        JobSpec(
            name="images",
            help="List the images of the store.",
            columns=(
                Column(name="reference"),
                Column(name="digest"),
                Column(name="media_type"),
                Column(name="size", type=ColumnType.INTEGER),
                Column(name="platforms", type=ColumnType.JSON),
                Column(name="complete", type=ColumnType.BOOLEAN),
            ),
            queue="registry",
            journalled=False,
        ),
        JobSpec(
            name="inspect",
            help="Show the manifests and configurations of an image.",
            arguments=(_IMAGE,),
            options=(
                _AUTH,
                _HEADERS,
                _PLATFORM,
                Option(
                    name="remote",
                    type=OptionType.BOOLEAN,
                    default="false",
                    help="Ask the registry even where the store has the image.",
                ),
            ),
            columns=(
                Column(name="reference"),
                Column(name="digest"),
                Column(name="media_type"),
                Column(name="size", type=ColumnType.INTEGER),
                Column(name="platform"),
                Column(name="created"),
                Column(name="layers", type=ColumnType.JSON),
                Column(name="annotations", type=ColumnType.JSON),
                Column(name="config", type=ColumnType.JSON),
                Column(name="source"),
            ),
            queue="registry",
        ),
        JobSpec(
            name="tag",
            help="Give an image of the store another name.",
            arguments=(
                Argument(name="SOURCE", help="an image of the store"),
                Argument(name="TARGET", help="its new name"),
            ),
            columns=_DESCRIPTORS,
            queue="registry",
        ),
    )
}


class Service:
    """Installs ``auth``, ``search``, ``pull``, ``push``, ``tags``, ``images``, ``inspect`` and
    ``tag``. It keeps its store in the engine's state directory: ``images/`` is the OCI image
    layout, ``ingest/`` what is under way.
    """

    def __init__(self) -> None:
        self._registries: Registries | None = None
        self._store: Store | None = None

    def install(self, engine: Engine) -> None:
        """Register the jobs. Raises for settings that cannot be used, and a store likewise."""
        settings = dict(engine.settings)
        transfers = _transfers(settings.pop("transfers", 4))
        self._registries = Registries(_registry_settings(settings, engine.config_dir))
        if engine.state_dir is not None:
            self._store = Store(
                engine.state_dir / "images",
                engine.state_dir / "ingest",
                workers=transfers,
            )
        handlers: Mapping[str, Callable[[Job], Status | None]] = {
            "auth": self.auth,
            "search": self.search,
            "pull": self.pull,
            "push": self.push,
            "tags": self.tags,
            "images": self.images,
            "inspect": self.inspect,
            "tag": self.tag,
        }
        for name, handler in handlers.items():
            engine.register(name, handler, SPECS[name])
        engine.on_shutdown(self.close)
        self._registries.prepare()

    def close(self) -> None:
        """End the transfers and the connections."""
        if self._store is not None:
            self._store.close()
        if self._registries is not None:
            self._registries.close()

    # the handlers

    def auth(self, job: Job) -> Status:
        """Text: the status line. OK only when the registry accepts the credentials."""
        with _cancellation(job) as cancel:
            result = login(
                _credentials(job),
                registries=self._reach(),
                headers={},
                cancel=cancel,
                observer=_observer(job),
            )
        job.write(f"{result.status}\n")
        return Status.OK

    def search(self, job: Job) -> Status:
        """One row for each repository that was found, most stars first."""
        query = Query.parse(
            job.args[0], limit=job.env.get_int("limit", 25), filters=job.env.get_json("filters")
        )
        with _cancellation(job) as cancel:
            found = search(
                query,
                registries=self._reach(),
                access=self._access(job),
                cancel=cancel,
                observer=_observer(job),
            )
            for one in found:
                job.row(one.name, one.description, one.star_count, one.is_official, one.is_trusted)
        return Status.OK

    def pull(self, job: Job) -> Status:
        """One row for each descriptor when it is settled, the image's own last."""
        every = job.env.get_bool("allTags")
        reference = Reference.parse(job.args[0], default_tag=None if every else "latest")
        if every and (reference.tag or reference.digest):
            raise UsageError(
                f"{job.args[0]}: with allTags a repository is named, without a tag or digest",
                usage=SPECS["pull"].usage,
            )
        with _cancellation(job) as cancel:
            observer = _observer(job)
            run = pull_all_tags if every else pull
            run(
                reference,
                client=self._client(job, reference, cancel, observer),
                store=self._kept(),
                platform=_platform(job),
                cancel=cancel,
                observer=observer,
            )
        return Status.OK

    def push(self, job: Job) -> Status:
        """One row for each descriptor when it is settled, the image's own last."""
        reference = Reference.parse(job.args[0])
        with _cancellation(job) as cancel:
            observer = _observer(job)
            push(
                reference,
                connect=lambda inner: self._client(job, reference, inner, observer),
                store=self._kept(),
                platform=_platform(job),
                cancel=cancel,
                observer=observer,
            )
        return Status.OK

    def tags(self, job: Job) -> Status:
        """One row for each tag, in the registry's order."""
        reference = Reference.parse(job.args[0], default_tag=None)
        if reference.tag or reference.digest:
            raise UsageError(
                f"{job.args[0]}: a repository is named, without a tag or digest",
                usage=SPECS["tags"].usage,
            )
        with _cancellation(job) as cancel:
            client = self._client(job, reference, cancel, _observer(job))
            for name in client.tags(reference.repository):
                job.row(reference.name, name)
        return Status.OK

    def images(self, job: Job) -> Status:
        """One row for each image of the store, by name."""
        for one in images(self._kept(), _observer(job)):
            job.check_cancelled()
            job.row(
                one.reference,
                one.digest,
                one.media_type,
                one.size,
                list(one.platforms),
                one.complete,
            )
        return Status.OK

    def inspect(self, job: Job) -> Status:
        """One row for each manifest: the image's own, then those of an index."""
        reference = Reference.parse(job.args[0])
        with _cancellation(job) as cancel:
            for one in inspect(
                reference,
                store=self._kept(),
                connect=lambda: self._client(job, reference, cancel, _observer(job)),
                remote=job.env.get_bool("remote"),
                platform=_platform(job) or ALL,
            ):
                job.row(
                    one.reference,
                    one.digest,
                    one.media_type,
                    one.size,
                    one.platform,
                    one.created,
                    list(one.layers),
                    dict(one.annotations),
                    one.config,
                    one.source,
                )
        return Status.OK

    def tag(self, job: Job) -> Status:
        """One row: the new name and what it stands for."""
        source, target = map(Reference.parse, job.args)
        descriptor = tag(self._kept(), source, target)
        job.row(
            str(target), str(descriptor.digest), descriptor.media_type, descriptor.size, "tagged"
        )
        return Status.OK

    # what they share

    def _kept(self) -> Store:
        if self._store is None:
            raise StoreError("the engine has no state directory, and so there is no store")
        return self._store

    def _reach(self) -> Registries:
        if self._registries is None:
            raise StoreError("the service is not installed on an engine")
        return self._registries

    def _access(self, job: Job) -> Access:
        return Access(auth=_credentials(job), headers=meta_headers(job.env.get_json("metaHeaders")))

    def _client(
        self, job: Job, reference: Reference, cancel: Cancellation, observer: Observer
    ) -> V2Client:
        return self._reach().client(
            reference.host, self._access(job), cancel=cancel, observer=observer
        )


def _registry_settings(values: Mapping[str, Any], config_dir: Path | None) -> RegistrySettings:
    """The library's settings. Relative directories of certificates lie beside the
    configuration; where there is none, they are nowhere."""
    settings = RegistrySettings.from_mapping(
        {"certs_dirs": CERTS_DIRS, **values}, others=("transfers",)
    )
    base = None if config_dir is None else config_dir.absolute()
    placed = (path if base is None else base / path for path in settings.certs_dirs)
    return dataclasses.replace(
        settings, certs_dirs=tuple(path for path in placed if path.is_absolute())
    )


def _transfers(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 64:
        raise SettingsError("transfers", "an integer from 1 to 64 is expected")
    return value


def _credentials(job: Job) -> AuthConfig:
    return AuthConfig.from_json(job.env.get("authConfig"))


def _platform(job: Job) -> str:
    """The wish as it was written; looked at before anything is asked of a registry."""
    wish = job.env.get("platform", "")
    if wish and wish != ALL:
        Platform.parse(wish)
    return wish


@contextlib.contextmanager
def _cancellation(job: Job) -> Iterator[Cancellation]:
    """The job's cancel as the library's, for as long as the block runs."""
    cancel = Cancellation()
    remove = job.on_cancel(cancel.cancel)
    try:
        yield cancel
    finally:
        remove()


def _observer(job: Job) -> Observer:
    def settled(one: Settled) -> None:
        job.row(one.reference, one.digest, one.media_type, one.size, one.state)

    def log(level: str, text: str, /, **fields: Any) -> None:
        job.log(level, text, **fields)

    return Observer(progress=job.progress, log=log, settled=settled)
