"""The limits that registries.toml sets for a host hold for all the jobs of an engine together."""

from __future__ import annotations

import collections
import functools
import json
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest
from support_hosts import HERE, HostBench, section
from test_hosts_rules import Overlap, fill
from test_service import OTHER

from engine import Job, Status
from registry_service.operations import access
from registry_service.testing import Registry
from registry_service.testing.images import random_image
from registry_service.transport import Transport

NAMES = ("app0", "app1", "app2")
INDEX = "application/vnd.oci.image.index.v1+json"


class SharedClock:
    """A clock that waits turn, so that they take no time; several threads at once wait for the
    same time to pass, as with any clock."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._begun = self._time = 100.0

    @property
    def passed(self) -> float:
        return self.now() - self._begun

    def now(self) -> float:
        with self._lock:
            return self._time

    def wait(self, event: threading.Event, seconds: float) -> object:
        until = self.now() + seconds
        with self._lock:
            self._time = max(self._time, until)
        return event.is_set()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SharedClock:
    """The clock of the gates of every engine of the test."""
    made = SharedClock()
    monkeypatch.setattr(access, "Transport", functools.partial(Transport, clock=made))
    return made


def put_index(registry: Registry, repository: str, tag: str, order: Sequence[int]) -> None:
    """An index of two images that have the same three layers, each of them twice, in this order
    and in the opposite one."""
    image = random_image(1, layers=3, layer_size=30_000, platform=HERE)
    manifest, config = json.loads(image.manifest), json.loads(image.config)
    layers, ids = manifest["layers"], config["rootfs"]["diff_ids"]
    for data in image.layers:
        registry.put_blob(repository, data)
    entries = []
    for platform, places in ((HERE, [*order, *order]), (OTHER, [*order, *order][::-1])):
        system, architecture, *_ = platform.split("/")
        own = {**config, "os": system, "architecture": architecture}
        raw = json.dumps(
            {**own, "rootfs": {"type": "layers", "diff_ids": [ids[n] for n in places]}}
        )
        digest = registry.put_blob(repository, raw.encode())
        described = {**manifest["config"], "digest": digest, "size": len(raw)}
        part = json.dumps({**manifest, "config": described, "layers": [layers[n] for n in places]})
        named = registry.put_manifest(repository, None, part.encode(), image.media_type)
        entry = {"mediaType": image.media_type, "digest": named, "size": len(part)}
        entries.append({**entry, "platform": {"os": system, "architecture": architecture}})
    index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}
    registry.put_manifest(repository, tag, json.dumps(index).encode(), INDEX)


def at_once(jobs: Sequence[Job]) -> None:
    """Run jobs at the same time; all of them end well."""
    threads = [threading.Thread(target=job.run) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [job.status for job in jobs] == [Status.OK] * len(jobs), jobs[0].stderr.text()


@pytest.mark.parametrize("limit", [1, 2])
def test_jobs_that_want_the_same_layers_in_opposite_orders_get_through(
    tmp_path: Path, limit: int
) -> None:
    overlap = Overlap()
    with Registry(on_request=overlap, faults=["slow:rate=600000,path=/blobs/"]) as registry:
        overlap.registry = registry
        put_index(registry, "app", "forth", [0, 1, 2])
        put_index(registry, "app", "back", [2, 1, 0])
        with HostBench(tmp_path, section(registry.host, concurrent=limit), transfers=4) as bench:
            names = [f"{registry.host}/app:{tag}" for tag in ("forth", "back", "forth", "back")]
            at_once([bench.job("pull", name, platform="all") for name in names])
            assert sorted(bench.names) == sorted(set(names))
            assert bench.broken() == []
    assert 1 <= overlap.most <= limit
    fetched = collections.Counter(
        one.path for one in registry.requests if one.method == "GET" and "/blobs/" in one.path
    )
    assert set(fetched.values()) == {1}


def test_the_requests_of_all_jobs_go_no_faster_than_is_allowed(
    tmp_path: Path, clock: SharedClock
) -> None:
    with Registry() as registry:
        fill(registry, *NAMES, layers=10, size=1000)
        rules = section(registry.host, requests_per_second=4.0)
        with HostBench(tmp_path, rules) as bench:
            at_once([bench.job("pull", f"{registry.host}/{name}:1") for name in NAMES])
            sent = len(registry.requests)
    assert sent > 30
    assert sent <= 4 + 4.0 * clock.passed + 1e-6


def test_the_bytes_of_all_jobs_go_no_faster_than_is_allowed(
    tmp_path: Path, clock: SharedClock
) -> None:
    rate = 80_000
    with Registry() as registry:
        fill(registry, *NAMES, layers=3, size=50_000)
        rules = section(registry.host, bytes_per_second=rate)
        with HostBench(tmp_path, rules) as bench:
            at_once([bench.job("pull", f"{registry.host}/{name}:1") for name in NAMES])
            moved = sum(one.sent for one in registry.requests if "/blobs/" in one.path)
            assert bench.broken() == []
    assert moved > 3 * 3 * 50_000
    assert moved <= rate / 8 + rate * clock.passed + 1e-6
