"""Sweeps, a blob at a time, among those who bring, name and forget images: whatever the order, each
name leads to all of its image."""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule
from support_store import make_store

from registry_service.descriptor import Descriptor
from registry_service.digest import Digest
from registry_service.errors import DoesNotExistError, GoneError
from registry_service.manifest import OCI_MANIFEST
from registry_service.store import Lease, MemorySource, Store, Swept, sweep

IMAGES = st.integers(0, 3)
NAMES = st.sampled_from(["h.io/a:1", "h.io/b:1", "h.io/c:1"])
STORES = st.integers(0, 1)


@pytest.fixture(autouse=True)
def _short_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """A turn of the sweep takes one blob."""
    monkeypatch.setattr(sweep, "_TURN", 0.0)
    monkeypatch.setattr(sweep, "_PAUSE", 0.0)


class Bringer:
    """A pull in the middle: it found or fetched its blobs, and named nothing yet."""

    def __init__(self, store: Store, source: MemorySource, number: int, pins: bool) -> None:
        self._store = store
        self._source = source
        shared, own = b"shared %d" % (number // 2), b"own %d" % number
        self.blobs = [source.add(shared), source.add(own)]
        document = {"config": self.blobs[0].to_json(), "layers": [self.blobs[1].to_json()]}
        self._raw = json.dumps(document).encode()
        self.top = Descriptor(
            media_type=OCI_MANIFEST, digest=Digest.of(self._raw), size=len(self._raw)
        )
        self.lease = Lease(store._layout) if pins else None
        self.bring()

    @property
    def digests(self) -> list[Digest]:
        return [one.digest for one in (*self.blobs, self.top)]

    def bring(self) -> None:
        if self.lease is not None:
            self.lease.pin(self.digests)
        for ticket in [self._store.ensure(one, self._source) for one in self.blobs]:
            ticket.wait()
        self._store.put(self._raw, OCI_MANIFEST)

    def name(self, name: str) -> None:
        while True:
            with contextlib.suppress(GoneError, DoesNotExistError):
                self._store.tag(name, self.top, self.digests)
                return
            self.bring()


class Sweeps(RuleBasedStateMachine):
    bringers = Bundle("bringers")
    sweeps = Bundle("sweeps")

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp())
        self.stores = [make_store(self.root), make_store(self.root)]
        self.source = MemorySource()
        self.names: dict[str, Bringer] = {}
        self.leases: list[Lease] = []

    def teardown(self) -> None:
        for lease in self.leases:
            lease.close()
        for store in self.stores:
            store.close()
        shutil.rmtree(self.root)

    @rule(target=bringers, number=IMAGES, store=STORES, pins=st.booleans())
    def bring(self, number: int, store: int, pins: bool) -> Bringer:
        bringer = Bringer(self.stores[store], self.source, number, pins)
        if bringer.lease is not None:
            self.leases.append(bringer.lease)
        return bringer

    @rule(bringer=bringers, name=NAMES)
    def give_a_name(self, bringer: Bringer, name: str) -> None:
        bringer.name(name)
        self.names[name] = bringer

    @rule(bringer=bringers)
    def end(self, bringer: Bringer) -> None:
        if bringer.lease is not None:
            bringer.lease.close()
            bringer.lease = None

    @rule(name=NAMES, store=STORES)
    def forget(self, name: str, store: int) -> None:
        assert self.stores[store].untag(name) == (self.names.pop(name, None) is not None)

    @rule(target=sweeps, store=STORES)
    def begin_a_sweep(self, store: int) -> Iterator[Swept]:
        """It has looked at what the names lead to, and removed one blob if there was one."""
        sweeping = self.stores[store].upkeep.collect()
        next(sweeping, None)
        return sweeping

    @rule(sweeping=sweeps, steps=st.integers(1, 5))
    def go_on(self, sweeping: Iterator[Swept], steps: int) -> None:
        for _ in range(steps):
            next(sweeping, None)

    @rule()
    def sweep_whole(self) -> None:
        for _ in self.stores[0].upkeep.collect():
            pass
        pinned = {digest for lease in self.leases for digest in lease.pins}
        named = {digest for one in self.names.values() for digest in one.digests}
        here = {digest for digest, _ in self.stores[0].upkeep.blobs()}
        assert here <= named | pinned

    @invariant()
    def each_name_leads_to_all_of_its_image(self) -> None:
        for name, bringer in self.names.items():
            assert self.stores[0].resolve(name) == bringer.top
            for digest in bringer.digests:
                assert self.stores[0].has(digest), f"{name} lost {digest}"

    @invariant()
    def what_is_pinned_stays(self) -> None:
        for lease in self.leases:
            for digest in lease.pins:
                assert self.stores[1].has(digest)


TestSweeps = Sweeps.TestCase
TestSweeps.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
