"""Pushes to a V1 registry: what arrives there, in which order, and what does not travel twice."""

from __future__ import annotations

import gzip
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support_archives import COMPRESS, docker_plain, oci, write_tar
from support_manifests import document
from support_service import Bench
from support_store import damage, make_store
from support_v1_push import Answering, Made, keep, made_image, puts, rich_archives

from engine import Status
from registry_service.digest import Digest
from registry_service.media import OCI_INDEX, OCI_MANIFEST
from registry_service.testing import LoggedRequest, Registry
from registry_service.testing.exchange import Exchange
from registry_service.testing.images import random_image
from registry_service.testing.message import Response
from registry_service.testing.v1 import Account, StoredImage, V1Index, V1Registry
from registry_service.testing.v1.message import V1Error
from registry_service.v1.chain import EMPTY_LAYER, Link, chain_of

HISTORY: list[dict[str, Any]] = [
    {"created": "2024-01-01T00:00:00Z", "created_by": "ADD base"},
    {"created": "2024-01-01T00:00:00Z", "created_by": "ENV A=1", "empty_layer": True},
    {"created": "2024-01-01T00:00:00Z", "created_by": "RUN more"},
]
IMAGE = made_image(rich_archives(1, 2), history=HISTORY)


@pytest.fixture
def registry() -> Iterator[V1Registry]:
    with V1Registry() as one:
        yield one


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path / "state")
    yield bench
    bench.engine.shutdown(grace=0)


def chain(image: Made) -> tuple[Link, ...]:
    return chain_of(image.config, image.manifest)


def ids(image: Made) -> list[str]:
    return [link.image.id for link in chain(image)]


def stored(registry: V1Registry, image_id: str) -> StoredImage:
    found = registry.image(image_id)
    assert found is not None
    return found


def whole(registry: V1Registry, image: Made, name: str = "test/app", tag: str = "1") -> None:
    """The registry has all of the image, under its tag."""
    layers = iter(image.archives)
    for link in chain(image):
        found = stored(registry, link.image.id)
        assert found.complete
        assert found.raw == link.image.raw
        assert found.layer_bytes is not None
        expected = bytes(1024) if link.layer is None else next(layers)
        assert gzip.decompress(found.layer_bytes) == expected
    assert stored(registry, ids(image)[-1]).chain == ids(image)[::-1]
    assert registry.tags(name)[tag] == ids(image)[-1]
    listed = registry.index_images(name)
    assert listed is not None
    assert {one["id"] for one in listed} >= set(ids(image))


def states(rows: list[dict[str, Any]]) -> list[str]:
    return [row["state"] for row in rows]


# what arrives


def test_an_image_becomes_a_chain(registry: V1Registry, bench: Bench) -> None:
    name = f"{registry.host}/test/app:1"
    digest = keep(bench.state, name, IMAGE)
    rows = bench.run("push", name)
    whole(registry, IMAGE)
    for link, blob in zip(chain(IMAGE)[::2], IMAGE.layers, strict=True):
        assert stored(registry, link.image.id).layer_bytes == blob  # gzip goes as it is
    assert stored(registry, ids(IMAGE)[1]).layer_bytes == EMPTY_LAYER
    manifest = IMAGE.manifest
    assert manifest.config is not None
    assert rows == [
        {
            "reference": name,
            "digest": str(one.digest),
            "media_type": one.media_type,
            "size": one.size,
            "state": "pushed",
        }
        for one in (*manifest.layers, manifest.config, manifest.descriptor)
    ]
    assert manifest.digest == digest


def test_the_order_is_the_one_of_the_protocol(registry: V1Registry, bench: Bench) -> None:
    name = f"{registry.host}/test/app:1"
    keep(bench.state, name, IMAGE)
    bench.run("push", name)
    seen = [f"{one.method} {one.path}" for one in registry.requests if "_ping" not in one.path]
    seen = [one for one in seen if "/v1/" in one]
    expected = ["PUT /v1/repositories/test/app/"]
    for image_id in ids(IMAGE):
        at = f"/v1/images/{image_id}"
        expected += [
            f"GET {at}/json",
            *(f"PUT {at}/{one}" for one in ("json", "layer", "checksum")),
        ]
    expected += [
        "GET /v1/repositories/test/app/tags",
        "PUT /v1/repositories/test/app/tags/1",
        "PUT /v1/repositories/test/app/images",
    ]
    assert seen == expected
    checked = [one for one in registry.requests if one.path.endswith("/checksum")]
    for one, image_id in zip(checked, ids(IMAGE), strict=True):
        (payload,) = stored(registry, image_id).checksums
        assert one.headers["x-docker-checksum-payload"] == payload
        assert one.headers["x-docker-checksum"].startswith("tarsum+sha256:")


def test_the_index_is_told_the_checksums(registry: V1Registry, bench: Bench) -> None:
    name = f"{registry.host}/app:1"
    keep(bench.state, name, IMAGE)
    bench.run("push", name)
    whole(registry, IMAGE, "library/app")
    listed = registry.index_images("library/app")
    assert listed is not None
    assert all(one["checksum"].startswith("tarsum+sha256:") for one in listed)


@pytest.mark.parametrize("pack", [bytes, *COMPRESS.values()], ids=["plain", *COMPRESS])
def test_a_layer_that_is_not_gzip_is_compressed_on_the_way(
    registry: V1Registry, bench: Bench, pack: Callable[[bytes], bytes]
) -> None:
    image = made_image(IMAGE.archives, pack=pack, history=HISTORY)
    assert ids(image) == ids(IMAGE)  # it is the same image
    name = f"{registry.host}/test/app:1"
    keep(bench.state, name, image)
    assert set(states(bench.run("push", name))) == {"pushed"}
    whole(registry, IMAGE)
    first = stored(registry, ids(image)[0]).layer_bytes
    with V1Registry() as other:
        name = f"{other.host}/test/app:1"
        keep(bench.state, name, image)
        bench.run("push", name)
        assert stored(other, ids(image)[0]).layer_bytes == first  # the same bytes each time


@pytest.mark.parametrize("form", ["oci", "docker"])
def test_an_archive_is_pushed_without_the_store(
    registry: V1Registry, bench: Bench, tmp_path: Path, form: str
) -> None:
    image = random_image(1, layers=2)
    members = oci([("x", image)]) if form == "oci" else docker_plain(image)
    path = write_tar(tmp_path / "x.tar", members)
    name = f"{registry.host}/test/app:1"
    rows = bench.run("push", name, **{"from": f"{form}-archive:{path}"})
    assert states(rows) == ["pushed"] * 4
    top = registry.tags("test/app")["1"]
    layers = [stored(registry, one).layer_bytes or b"" for one in stored(registry, top).chain]
    assert list(map(gzip.decompress, layers)) == [
        gzip.decompress(one) for one in reversed(image.layers)
    ]
    assert bench.names == []


# what does not travel twice


def test_a_second_push_sends_nothing(registry: V1Registry, bench: Bench) -> None:
    name = f"{registry.host}/test/app:1"
    keep(bench.state, name, IMAGE)
    bench.run("push", name)
    registry.clear_requests()
    rows = bench.run("push", name)
    assert set(states(rows)) == {"exists"}
    assert puts(registry) == []
    assert not [one for one in registry.requests if one.method == "PUT" and "/tags/" in one.path]
    whole(registry, IMAGE)


def test_what_was_sent_is_not_fetched_to_find_out_what_it_is(
    registry: V1Registry, bench: Bench
) -> None:
    """By a pull, or a copy to where it is, as long as the registry says the same of it."""
    name = f"{registry.host}/test/app:1"
    keep(bench.state, name, IMAGE)
    bench.run("push", name)
    registry.clear_requests()
    with Registry() as v2:
        keep(bench.state, f"{v2.host}/test/app:2", IMAGE)
        bench.run("push", f"{v2.host}/test/app:2")
        rows = bench.run("copy", name, f"{v2.host}/test/app:1")
        assert states(rows)[:2] == ["exists", "exists"]
    rows = bench.run("pull", name, platform="all")
    assert states(rows)[:2] == ["exists", "exists"]
    assert not [one for one in registry.requests if one.path.endswith("/layer")]
    other = gzip.compress(IMAGE.archives[0], 9)
    registry.put_image(chain(IMAGE)[0].image.raw, other)  # in another gzip
    registry.put_tag("test/app", "2", ids(IMAGE)[-1])
    rows = bench.run("pull", f"{registry.host}/test/app:2", platform="all")
    assert {row["digest"]: row["state"] for row in rows[:2]} == {
        str(Digest.of(other)): "fetched",
        str(Digest.of(IMAGE.layers[1])): "exists",
    }


def test_what_was_compressed_on_the_way_is_fetched(registry: V1Registry, bench: Bench) -> None:
    name = f"{registry.host}/test/app:1"
    keep(bench.state, name, made_image(IMAGE.archives, pack=bytes, history=HISTORY))
    bench.run("push", name)
    assert states(bench.run("pull", name, platform="all"))[:2] == ["fetched", "fetched"]


def test_another_tag_sends_the_tag_alone(registry: V1Registry, bench: Bench) -> None:
    keep(bench.state, f"{registry.host}/test/app:1", IMAGE)
    keep(bench.state, f"{registry.host}/test/app:2", IMAGE)
    bench.run("push", f"{registry.host}/test/app:1")
    registry.clear_requests()
    rows = bench.run("push", f"{registry.host}/test/app:2")
    assert states(rows) == ["exists", "exists", "exists", "pushed"]
    assert puts(registry) == []
    assert registry.tags("test/app") == {"1": ids(IMAGE)[-1], "2": ids(IMAGE)[-1]}


def test_images_that_share_what_is_below_send_it_once(registry: V1Registry, bench: Bench) -> None:
    other = made_image(IMAGE.archives, history=HISTORY, config={"Cmd": ["other"]})
    keep(bench.state, f"{registry.host}/test/app:1", IMAGE)
    keep(bench.state, f"{registry.host}/team/other:1", other)
    bench.run("push", f"{registry.host}/test/app:1")
    registry.clear_requests()
    rows = bench.run("push", f"{registry.host}/team/other:1")
    assert states(rows) == ["exists", "pushed", "pushed", "pushed"]
    assert puts(registry) == [
        f"/v1/images/{ids(other)[-1]}/{one}" for one in ("json", "layer", "checksum")
    ]
    whole(registry, other, "team/other")


def test_a_layer_that_is_there_twice_is_told_once(registry: V1Registry, bench: Bench) -> None:
    archives = [IMAGE.archives[0]] * 2
    image = made_image(archives)
    name = f"{registry.host}/test/app:1"
    keep(bench.state, name, image)
    rows = bench.run("push", name)
    assert [row["digest"] for row in rows] == [
        str(one.digest)
        for one in (image.manifest.layers[0], image.manifest.config, image.manifest)
        if one is not None
    ]
    whole(registry, image)


def test_an_image_that_is_half_pushed_is_pushed_again(registry: V1Registry, bench: Bench) -> None:
    low, middle, top = chain(IMAGE)
    registry.put_image(low.image.raw, IMAGE.layers[0])
    registry.put_image(middle.image.raw, b"the start of a lay", complete=False)
    registry.put_image(top.image.raw, None, complete=False)
    name = f"{registry.host}/test/app:1"
    keep(bench.state, name, IMAGE)
    rows = bench.run("push", name)
    assert states(rows) == ["exists", "pushed", "pushed", "pushed"]
    assert {one.split("/")[3] for one in puts(registry)} == {middle.image.id, top.image.id}
    whole(registry, IMAGE)


def test_jobs_at_once_send_each_image_once(registry: V1Registry, bench: Bench) -> None:
    others = [
        made_image(IMAGE.archives, history=HISTORY, config={"Cmd": [f"other {number}"]})
        for number in range(3)
    ]
    jobs = []
    registry.add_fault("slow:rate=20000,path=/layer,method=PUT,after=1")
    for number, image in enumerate([*others, others[0]]):
        name = f"{registry.host}/test/app:{number}"
        keep(bench.state, name, image)
        jobs.append(bench.job("push", name))
    threads = [threading.Thread(target=job.run) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [job.end and job.end.status for job in jobs] == [Status.OK] * 4
    sent = puts(registry)
    assert len(sent) == len(set(sent)) == 3 * len({one for image in others for one in ids(image)})
    for number, image in enumerate([*others, others[0]]):
        whole(registry, image, tag=str(number))


# several registries


def test_each_registry_that_the_index_names_gets_it(bench: Bench) -> None:
    with (
        V1Registry() as one,
        V1Registry() as two,
        V1Registry(endpoints=[one.host, two.host]) as index,
    ):
        two.put_image(chain(IMAGE)[0].image.raw, IMAGE.layers[0])
        name = f"{index.host}/test/app:1"
        keep(bench.state, name, IMAGE)
        rows = bench.run("push", name)
        assert set(states(rows)) == {"pushed"}
        assert index.image_ids() == []
        for registry in (one, two):
            assert registry.tags("test/app") == {"1": ids(IMAGE)[-1]}
            assert sorted(registry.image_ids()) == sorted(ids(IMAGE))
        last = [one for one in index.requests if one.method == "PUT"][-1]
        assert last.path == "/v1/repositories/test/app/images"
        assert last.headers["x-docker-endpoints"].count("/v1/") == 2
        two.clear_requests()
        assert set(states(bench.run("push", name))) == {"exists"}
        assert puts(two) == []


# an index with accounts

ANNA = {"username": "anna", "password": "secret"}


@pytest.fixture
def registered() -> Iterator[tuple[V1Index, V1Registry]]:
    accounts = [
        Account(name="anna", password="secret"),
        Account(name="carl", password="secret", grants=("pull:anna/*",)),
    ]
    with V1Registry(role="registry") as own, V1Index(registries=[own], accounts=accounts) as index:
        yield index, own


def test_an_index_gives_the_token_for_the_registry(
    registered: tuple[V1Index, V1Registry], bench: Bench
) -> None:
    index, registry = registered
    name = f"{index.host}/anna/app:1"
    keep(bench.state, name, IMAGE)
    bench.run("push", name, authConfig=ANNA)
    assert registry.tags("anna/app") == {"1": ids(IMAGE)[-1]}
    assert sorted(registry.image_ids()) == sorted(ids(IMAGE))
    listed = index.images("anna/app")
    assert listed is not None
    assert {one["id"] for one in listed} == set(ids(IMAGE))
    assert all(one["checksum"].startswith("tarsum+sha256:") for one in listed)
    assert all(one.scheme != "Basic" for one in registry.requests)
    registry.clear_requests()
    assert set(states(bench.run("push", name, authConfig=ANNA))) == {"exists"}
    assert puts(registry) == []


def test_who_may_not_push_is_told_so(registered: tuple[V1Index, V1Registry], bench: Bench) -> None:
    index, registry = registered
    name = f"{index.host}/anna/app:1"
    keep(bench.state, name, IMAGE)
    for auth in ({}, {**ANNA, "password": "wrong"}, {**ANNA, "username": "carl"}):
        _, said = bench.fail("push", name, authConfig=auth)
        assert index.host in said
        assert "secret" not in said
    assert registry.image_ids() == []


@pytest.mark.parametrize("part", ["json", "layer", "checksum"])
def test_a_token_that_runs_out_on_the_way_is_asked_for_again(bench: Bench, part: str) -> None:
    """However often, and wherever: each image here takes longer than a token lasts."""
    now = [1000.0]
    late: set[str] = set()

    def later(request: LoggedRequest) -> None:
        if request.method == "PUT" and request.path.endswith(f"/{part}"):
            if request.path not in late:
                now[0] += 100
            late.add(request.path)

    registry = V1Registry(role="registry", on_request=later, cookies=False)
    index = V1Index(
        registries=[registry], accounts={"anna": "secret"}, token_lifetime=60, clock=lambda: now[0]
    )
    with registry, index:
        name = f"{index.host}/anna/app:1"
        keep(bench.state, name, IMAGE)
        bench.run("push", name, authConfig=ANNA)
        assert registry.tags("anna/app") == {"1": ids(IMAGE)[-1]}
        assert all(stored(registry, one).complete for one in ids(IMAGE))
        asked = [one for one in index.requests if one.path == "/v1/repositories/anna/app/"]
        assert len(asked) == 1 + len(ids(IMAGE))
        layers = [one.path for one in registry.requests if one.path.endswith("/layer")]
        assert len(layers) == len(ids(IMAGE)) * (1 + (part == "json"))  # refused before it was sent


# what a registry answers


def answering(answer: Callable[[Exchange], Response | None]) -> Answering:
    registry = Answering()
    registry.answers = answer
    return registry


@pytest.mark.parametrize("part", ["json", "layer", "checksum"])
def test_what_somebody_else_has_completed_meanwhile_is_there(bench: Bench, part: str) -> None:
    """'Image already exists' is no failure, whenever it comes."""

    def complete(exchange: Exchange) -> None:
        path = exchange.request.path
        if exchange.request.method != "PUT" or not path.endswith(f"/{part}"):
            return
        blobs = dict(zip(IMAGE.manifest.layers, IMAGE.layers, strict=True))
        for link in chain(IMAGE):
            if link.image.id in path:
                layer = EMPTY_LAYER if link.layer is None else blobs[link.layer]
                served.put_image(link.image.raw, layer)

    served = answering(complete)
    with served:
        name = f"{served.host}/test/app:1"
        keep(bench.state, name, IMAGE)
        assert states(bench.run("push", name)) == ["exists"] * 3 + ["pushed"]
        whole(served, IMAGE)


@pytest.mark.parametrize("times", [1, 2, 3])
def test_bytes_that_did_not_arrive_as_they_were_sent_are_sent_again(
    bench: Bench, times: int
) -> None:
    refused: list[str] = []

    def refuse(exchange: Exchange) -> Response | None:
        path = exchange.request.path
        if not path.endswith("/checksum") or refused.count(path) >= times:
            return None
        refused.append(path)
        return V1Error("Checksum mismatch").response()

    with answering(refuse) as registry:
        name = f"{registry.host}/test/app:1"
        keep(bench.state, name, IMAGE)
        if times < 3:
            assert set(states(bench.run("push", name))) == {"pushed"}
            whole(registry, IMAGE)
            return
        job = bench.job("push", name)
        assert job.run() is Status.ERROR
        assert job.end is not None
        assert job.end.code == "checksum-mismatch"
        assert f"image {ids(IMAGE)[0]}: the registry got other bytes than were sent, 3 times" in (
            job.end.message
        )
        assert registry.tags("test/app") == {}


@pytest.mark.parametrize("reads", [True, False])
def test_a_conflict_at_the_checksum_means_that_somebody_else_was_faster(
    bench: Bench, reads: bool
) -> None:
    """Whether the token lets us look or not."""

    def conflict(exchange: Exchange) -> Response | None:
        path, method = exchange.request.path, exchange.request.method
        if method == "GET" and "/images/" in path and not reads:
            return V1Error("Requires authorization", 401).response()
        if method == "PUT" and path.endswith("/checksum"):
            for link, blob in zip(chain(image), image.layers, strict=True):
                if link.image.id in path:
                    served.put_image(link.image.raw, blob)
        return None

    image = made_image(IMAGE.archives)
    served = answering(conflict)
    with served:
        name = f"{served.host}/test/app:1"
        keep(bench.state, name, image)
        assert states(bench.run("push", name)) == ["exists"] * 3 + ["pushed"]
        whole(served, image)


def test_another_conflict_is_told(bench: Bench) -> None:
    """Unless the image is there, however that is said."""

    def conflict(exchange: Exchange) -> Response | None:
        if exchange.request.method == "PUT" and exchange.request.path.endswith("/json"):
            if there:
                served.put_image(chain(image)[0].image.raw, image.layers[0])
            return V1Error("Not now", 409).response()
        return None

    image = made_image(IMAGE.archives[:1])
    served = answering(conflict)
    there = False
    with served:
        name = f"{served.host}/test/app:1"
        keep(bench.state, name, image)
        _, said = bench.fail("push", name)
        assert "409 Conflict: Not now" in said
        there = True
        assert states(bench.run("push", name)) == ["exists", "exists", "pushed"]


def test_a_question_that_fails_is_told(registry: V1Registry, bench: Bench) -> None:
    """It is no 'no'."""
    name = f"{registry.host}/test/app:1"
    keep(bench.state, name, IMAGE)
    registry.add_fault("status:code=500,path=/json,method=GET")
    _, said = bench.fail("push", name)
    assert f"images/{ids(IMAGE)[0]}/json" in said
    assert "500" in said
    assert puts(registry) == []


def test_a_registry_of_several_that_fails_fails_the_push(bench: Bench) -> None:
    with V1Registry() as one, V1Registry() as two:
        index = V1Registry(endpoints=[one.host, two.host])
        with index:
            name = f"{index.host}/test/app:1"
            keep(bench.state, name, IMAGE)
            fault = two.add_fault("status:code=500,path=/layer")
            _, said = bench.fail("push", name)
            assert two.host in said
            assert one.tags("test/app") == {"1": ids(IMAGE)[-1]}
            assert two.tags("test/app") == {}
            fault.remove()
            one.clear_requests()
            assert states(bench.run("push", name)) == ["pushed"] * 4
            assert puts(one) == []
            assert two.tags("test/app") == {"1": ids(IMAGE)[-1]}


def test_a_book_that_cannot_be_written_keeps_no_image_back(
    registry: V1Registry, bench: Bench
) -> None:
    name = f"{registry.host}/test/app:1"
    keep(bench.state, name, IMAGE)
    (bench.state / "ingest" / "layers").write_text("in the way")
    job = bench.job("push", name)
    assert job.run() is Status.OK
    assert "warning" in job.stderr.text()
    whole(registry, IMAGE)


@pytest.mark.parametrize(
    ("part", "status"), [("json", 500), ("layer", 500), ("checksum", 500), ("json", 403)]
)
def test_a_registry_that_fails_leaves_what_a_next_push_completes(
    registry: V1Registry, bench: Bench, part: str, status: int
) -> None:
    name = f"{registry.host}/test/app:1"
    keep(bench.state, name, IMAGE)
    path = f"/images/{ids(IMAGE)[1]}/{part}"
    fault = registry.add_fault(f"status:code={status},path={path},method=PUT")
    end, said = bench.fail("push", name)
    assert end is Status.ERROR
    assert path in said
    assert str(status) in said
    assert registry.tags("test/app") == {}
    fault.remove()
    registry.clear_requests()
    bench.run("push", name)
    assert f"/v1/images/{ids(IMAGE)[0]}/json" not in puts(registry)
    whole(registry, IMAGE)


@pytest.mark.parametrize(
    "fault",
    [
        "drop:path=/layer,method=PUT,after=100,times=1",
        "drop:path=/layer,method=PUT,after=100,reset=yes,times=1",
        "drop:path=/json,method=PUT,times=1",
        "drop:path=/json,method=GET,times=1",
        "lost-answer:path=/json,method=PUT,times=1",
        "lost-answer:path=/layer,method=PUT,times=1",
        "lost-answer:path=/checksum,method=PUT,times=1",
        "lost-answer:path=/tags/,method=PUT,times=1",
        "lost-answer:path=/repositories/test/app/,method=PUT,times=1",
        "lost-answer:path=/repositories/test/app/images,method=PUT,times=1",
        "status:code=503,path=/images/,times=2",
        "status:code=503,path=/layer,method=PUT,times=2",
        "status:code=429,retry-after=0,path=/images/,times=3",
        "status:code=503,path=/repositories/test/app,times=2",
        "stall:seconds=0.2,path=/images/,times=3",
        "slow:rate=100000,path=/layer,method=PUT",
        "short:path=/tags,method=GET,times=1",
        "status:code=500,path=/tags,times=1",
        "corrupt:path=/layer,method=PUT,offset=20,times=1",
    ],
)
def test_a_fault_that_passes_is_gone_on_from(tmp_path: Path, fault: str) -> None:
    bench = Bench(tmp_path / "state", retries=3, retry_wait_max=0.1)
    with V1Registry(faults=[fault]) as registry:
        name = f"{registry.host}/test/app:1"
        keep(bench.state, name, IMAGE)
        bench.run("push", name)
        whole(registry, IMAGE)
        assert [one for one in registry.requests if one.faults]
    bench.engine.shutdown(grace=0)


# what is said before anything is sent


def no_put(registry: V1Registry) -> None:
    assert [one for one in registry.requests if one.method != "GET"] == []


def index_of(*images: tuple[Made, str]) -> dict[str, Any]:
    entries = []
    for image, platform in images:
        os, _, architecture = platform.partition("/")
        entry = image.manifest.descriptor.to_json()
        if platform:
            entry["platform"] = {"os": os, "architecture": architecture}
        entries.append(entry)
    return {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}


ARM = made_image(IMAGE.archives[:1], architecture="arm64")


def test_of_an_index_one_platform_is_pushed(registry: V1Registry, bench: Bench) -> None:
    name = f"{registry.host}/test/app:1"
    index = index_of((IMAGE, "linux/amd64"), (ARM, "linux/arm64"))
    keep(bench.state, name, IMAGE, ARM, index=index)
    _, said = bench.fail("push", name)
    assert "is an index of 2 images, and V1 has images of one platform each" in said
    assert "(linux/amd64, linux/arm64)" in said
    no_put(registry)
    bench.run("push", name, platform="linux/arm64")
    whole(registry, ARM)


def test_of_an_index_that_is_not_all_here_the_platform_that_is_here_is_pushed(
    registry: V1Registry, bench: Bench
) -> None:
    name = f"{registry.host}/test/app:1"
    index = index_of((IMAGE, "linux/amd64"), (ARM, "linux/arm64"))
    keep(bench.state, name, ARM, index=index)
    _, said = bench.fail("push", name)
    assert "or push one of linux/arm64" in said
    no_put(registry)
    bench.run("push", name, platform="linux/arm64")
    whole(registry, ARM)


def test_an_index_of_one_image_needs_no_platform(registry: V1Registry, bench: Bench) -> None:
    name = f"{registry.host}/test/app:1"
    index = index_of((IMAGE, "linux/amd64"), (ARM, "unknown/unknown"))
    keep(bench.state, name, IMAGE, ARM, index=index)
    rows = bench.run("push", name)
    assert rows[-1]["digest"] == str(IMAGE.manifest.digest)
    whole(registry, IMAGE)


def test_what_is_no_image_is_refused(registry: V1Registry, bench: Bench) -> None:
    name = f"{registry.host}/test/app:1"
    with make_store(bench.state) as store:
        parts = [store.put(one, "text/plain").to_json() for one in (b"{}", b"model")]
        value = {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "artifactType": "application/x-model",
            "config": parts[0],
            "layers": parts[1:],
        }
        store.tag(name, store.put(document(value), OCI_MANIFEST))
    _, said = bench.fail("push", name)
    assert f"{name}: application/x-model is no image, and V1 has images only" in said
    no_put(registry)


def test_a_blob_is_no_image(registry: V1Registry, bench: Bench) -> None:
    name = f"{registry.host}/test/app:1"
    with make_store(bench.state) as store:
        store.tag(name, store.put(b"some text", "text/plain"))
    _, said = bench.fail("push", name)
    assert f"{name} is text/plain, and V1 has images only" in said
    no_put(registry)


def test_indexes_within_an_index_are_looked_into(registry: V1Registry, bench: Bench) -> None:
    name = f"{registry.host}/test/app:1"
    inner = document(index_of((IMAGE, "linux/amd64")))
    with make_store(bench.state) as store:
        found = store.put(inner, OCI_INDEX)
    outer = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [found.to_json()]}
    keep(bench.state, name, IMAGE, index=outer)
    bench.run("push", name)
    whole(registry, IMAGE)


def test_a_digest_beside_the_tag_has_to_be_that_of_the_image(
    registry: V1Registry, bench: Bench
) -> None:
    right = f"{registry.host}/test/app:1@{IMAGE.manifest.digest}"
    wrong = f"{registry.host}/test/app:1@{Digest.of(b'another')}"
    for name in (right, wrong):
        keep(bench.state, name, IMAGE)
    _, said = bench.fail("push", wrong)
    assert f"asks for another digest than the image has ({IMAGE.manifest.digest})" in said
    no_put(registry)
    bench.run("push", right, format="docker")  # which changes nothing here
    whole(registry, IMAGE)


def foreign(image: Made) -> Made:
    """The image with its first layer elsewhere."""
    value = json.loads(image.manifest.raw)
    value["layers"][0]["mediaType"] = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
    value["layers"][0]["urls"] = ["https://elsewhere.example/layer"]
    manifest = type(image.manifest).parse(document(value))
    return Made(
        config=image.config, manifest=manifest, layers=image.layers, archives=image.archives
    )


def test_a_layer_from_elsewhere_goes_only_where_it_is_here(
    registry: V1Registry, bench: Bench
) -> None:
    image = foreign(IMAGE)
    absent = Made(
        config=image.config,
        manifest=image.manifest,
        layers=image.layers[1:],
        archives=image.archives,
    )
    name = f"{registry.host}/test/app:1"
    keep(bench.state, name, absent)
    _, said = bench.fail("push", name)
    assert f"the layer {Digest.of(image.layers[0])} is not in the store; it comes from" in said
    no_put(registry)
    keep(bench.state, name, image)
    bench.run("push", name)
    whole(registry, image)


def test_what_is_not_complete_is_not_begun(registry: V1Registry, bench: Bench) -> None:
    name = f"{registry.host}/test/app:1"
    part = Made(
        config=IMAGE.config,
        manifest=IMAGE.manifest,
        layers=IMAGE.layers[:1],
        archives=IMAGE.archives,
    )
    keep(bench.state, name, part)
    _, said = bench.fail("push", name)
    assert f"{Digest.of(IMAGE.layers[1])} missing" in said
    no_put(registry)


def test_v1_knows_no_digests(registry: V1Registry, bench: Bench) -> None:
    digest = keep(bench.state, f"{registry.host}/test/app:1", IMAGE)
    _, said = bench.fail("push", f"{registry.host}/test/app@{digest}")
    assert "V1 knows images by tags; give it one" in said
    no_put(registry)


def test_names_are_those_of_v1(registry: V1Registry, bench: Bench) -> None:
    keep(bench.state, f"{registry.host}/a/b/c:1", IMAGE)
    status, said = bench.fail("push", f"{registry.host}/a/b/c:1")
    assert "speaks V1, which has no such repository" in said
    assert status is Status.USAGE
    no_put(registry)


def test_what_v1_has_no_form_of_is_said(registry: V1Registry, bench: Bench) -> None:
    name = f"{registry.host}/test/app:1"
    keep(bench.state, name, IMAGE)
    _, said = bench.fail("push", name, referrers=True)
    assert "speaks V1, where nothing belongs to an image; push the image alone" in said
    no_put(registry)
    job = bench.job("push", name, format="docker")
    assert job.run() is Status.OK
    assert "speaks V1, which has neither format: 'docker' changes nothing" in job.stderr.text()
    whole(registry, IMAGE)


# what must not go on


def test_a_blob_that_is_damaged_is_not_pushed(registry: V1Registry, bench: Bench) -> None:
    name = f"{registry.host}/test/app:1"
    keep(bench.state, name, IMAGE)
    with make_store(bench.state) as store:
        damage(store, Digest.of(IMAGE.layers[1]))
    _, said = bench.fail("push", name)
    assert f"layer {Digest.of(IMAGE.layers[1])}" in said
    assert not stored(registry, ids(IMAGE)[2]).complete
    assert registry.tags("test/app") == {}


def test_a_layer_that_is_not_the_one_of_the_configuration_is_not_pushed(
    registry: V1Registry, bench: Bench
) -> None:
    """It would be taken for the other one by everybody who shares the id."""
    diff_ids = [str(Digest.of(IMAGE.archives[0])), str(Digest.of(b"another"))]
    image = made_image(IMAGE.archives, diff_ids=diff_ids, history=HISTORY)
    name = f"{registry.host}/test/app:1"
    keep(bench.state, name, image)
    _, said = bench.fail("push", name)
    assert f"its diff id is {Digest.of(IMAGE.archives[1])}, the image's configuration says" in said
    assert not stored(registry, ids(image)[2]).complete
    assert registry.tags("test/app") == {}


def test_a_registry_that_wants_a_login_says_so(bench: Bench) -> None:
    with V1Registry(users={"ann": "secret"}) as registry:
        name = f"{registry.host}/test/app:1"
        keep(bench.state, name, IMAGE)
        _, said = bench.fail("push", name)
        assert "login" in said
        auth = {"username": "ann", "password": "secret"}
        _, said = bench.fail("push", name, authConfig=auth)
        assert "credentials do not travel over http" in said
        assert "secret" not in said
