"""Pulls from V1 registries: one caller, a store, and what came of it."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from typing import Any

from registry_service.cancel import Cancellation
from registry_service.credentials import AuthConfig
from registry_service.descriptor import Descriptor
from registry_service.digest import Digest
from registry_service.manifest import Manifest
from registry_service.observe import Observer, Settled
from registry_service.operations.access import Access, Registries
from registry_service.operations.pull import pull, pull_all_tags
from registry_service.reference import Reference
from registry_service.settings import RegistrySettings
from registry_service.store import Store
from registry_service.testing.v1 import V1Registry, images
from registry_service.testing.v1.images import Chain

__all__ = ["Caller", "check_image", "layer_requests", "small_chain"]

#: Quick to give up, and to try again.
SETTINGS: dict[str, Any] = {"retries": 2, "retry_wait_max": 0.01}


class Caller:
    """Somebody who pulls into a store; ``rows``, ``log`` and ``moved`` are what he is told."""

    def __init__(self, store: Store, user: str = "", password: str = "", **settings: Any) -> None:
        self.store = store
        self.access = Access(auth=AuthConfig(username=user, password=password))
        self.cancel = Cancellation()
        self.registries = Registries(RegistrySettings(**{**SETTINGS, **settings}))
        self.rows: list[Settled] = []
        self.on_row: Callable[[Settled], object] = lambda row: None
        self.log: list[str] = []
        self.moved: list[tuple[str, str, int, int]] = []

    def __enter__(self) -> Caller:
        return self

    def __exit__(self, *_: object) -> None:
        self.registries.close()

    @property
    def observer(self) -> Observer:
        return Observer(
            progress=lambda *step: self.moved.append(step),
            log=lambda level, text, /, **fields: self.log.append(f"{level}: {text}"),
            settled=self._settled,
        )

    def _settled(self, row: Settled) -> None:
        self.rows.append(row)
        self.on_row(row)

    def pull(self, name: str, **options: Any) -> Descriptor:
        """Returns what the name stands for. The rows are those of this pull."""
        reference = Reference.parse(name)
        self.rows.clear()
        return pull(reference, client=self.reader(reference), store=self.store, **self.own(options))

    def pull_all(self, name: str, **options: Any) -> list[str]:
        reference = Reference.parse(name, default_tag=None)
        return pull_all_tags(
            reference, client=self.reader(reference), store=self.store, **self.own(options)
        )

    def own(self, options: dict[str, Any]) -> dict[str, Any]:
        return {"cancel": self.cancel, "observer": self.observer, **options}

    def reader(self, reference: Reference) -> Any:
        return self.registries.reader(
            reference.host, self.access, cancel=self.cancel, observer=self.observer
        )

    @property
    def states(self) -> list[str]:
        return [row.state for row in self.rows]


def small_chain(seed: int = 1, length: int = 3, **options: Any) -> Chain:
    return images.random_chain(seed, length, **options)


def check_image(store: Store, named: Descriptor, chain: Chain) -> None:
    """The image in the store is what the chain stands for: its layers with all they have, in their
    order, its configuration, its history."""
    manifest = Manifest.parse(store.read(named.digest), named.media_type, named.digest)
    assert manifest.config is not None
    config = json.loads(store.read(manifest.config.digest))
    full = [one for one in chain.images if one.archive != bytes(1024)]
    assert config["rootfs"]["diff_ids"] == [str(Digest.of(one.archive)) for one in full]
    for layer, one in zip(manifest.layers, full, strict=True):
        with store.open(layer.digest) as file:
            data = file.read()
        assert Digest.of(data) == layer.digest
        assert gzip.decompress(data) == one.archive
        if one.layer[:2] == b"\x1f\x8b":
            assert data == one.layer
    top = chain.images[-1].json
    assert config["config"] == top["config"]
    assert (config["architecture"], config["os"]) == (top["architecture"], top["os"])
    assert len(config["history"]) == len(chain.images)
    assert [one["created"] for one in config["history"]] == [
        one.json["created"] for one in chain.images
    ]


def layer_requests(registry: V1Registry, image_id: str = "") -> list[Any]:
    """What was asked for of the layers, or of one."""
    return [
        one
        for one in registry.requests
        if one.method == "GET" and one.path.endswith(f"{image_id}/layer")
    ]
