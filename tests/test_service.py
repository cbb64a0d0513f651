"""The registry jobs, in the process, against the shipped registry."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support_service import Bench

from engine import Engine, State, Status
from engine.errors import InstallError
from engine.records import Log
from registry_service.digest import Digest
from registry_service.platform import Platform
from registry_service.service import Service
from registry_service.store import Store
from registry_service.testing import Registry
from registry_service.testing.images import Image, push_image, random_image, random_index

HERE = str(Platform.here())
OTHER = "linux/s390x"


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path / "state")
    yield made
    made.engine.shutdown(grace=0)
    assert not [t for t in threading.enumerate() if t.name.startswith(("transfer", "push"))]


@pytest.fixture
def registry() -> Iterator[Registry]:
    with Registry() as made:
        yield made


def digests(image: Image) -> set[str]:
    return {*image.blobs, image.digest}


# pull


def test_pull_gives_a_row_for_each_descriptor_the_image_s_own_last(
    bench: Bench, registry: Registry
) -> None:
    image = random_image(1, platform=HERE)
    push_image(registry, "test/app", "1.0", image)
    reference = f"{registry.host}/test/app:1.0"
    rows = bench.run("pull", reference)
    assert {row["digest"] for row in rows} == digests(image)
    assert rows[-1]["digest"] == image.digest
    assert {row["state"] for row in rows} == {"fetched"}
    assert {row["reference"] for row in rows} == {reference}
    again = bench.run("pull", reference)
    assert {row["state"] for row in again} == {"exists"}
    assert bench.names == [reference]


def test_a_pull_again_asks_for_the_digest_only(bench: Bench, registry: Registry) -> None:
    push_image(registry, "test/app", "1", random_image(1, platform=HERE))
    bench.run("pull", f"{registry.host}/test/app:1")
    registry.clear_requests()
    bench.run("pull", f"{registry.host}/test/app:1")
    assert [(one.method, one.path) for one in registry.requests] == [
        ("HEAD", "/v2/test/app/manifests/1")
    ]


def test_a_tag_that_moved_is_pulled_anew(bench: Bench, registry: Registry) -> None:
    push_image(registry, "test/app", "1", random_image(1, platform=HERE))
    bench.run("pull", f"{registry.host}/test/app:1")
    moved = random_image(2, platform=HERE)
    push_image(registry, "test/app", "1", moved)
    assert bench.run("pull", f"{registry.host}/test/app:1")[-1]["digest"] == moved.digest
    assert [row["digest"] for row in bench.run("images")] == [moved.digest]


def test_a_pull_by_digest_is_verified_and_named_so(bench: Bench, registry: Registry) -> None:
    image = random_image(1, platform=HERE)
    push_image(registry, "test/app", "1", image)
    reference = f"{registry.host}/test/app@{image.digest}"
    bench.run("pull", reference)
    assert bench.names == [reference]


@pytest.mark.parametrize(
    ("platform", "wanted"),
    [("", [0]), (OTHER, [1]), ("all", [0, 1])],
)
def test_of_an_index_the_platform_chooses_and_the_index_is_kept(
    bench: Bench, registry: Registry, platform: str, wanted: list[int]
) -> None:
    index = random_index(3, platforms=[HERE, OTHER])
    push_image(registry, "test/multi", "1", index)
    rows = bench.run("pull", f"{registry.host}/test/multi:1", platform=platform)
    expected = {index.digest}.union(*(digests(index.images[place]) for place in wanted))
    assert {row["digest"] for row in rows} == expected
    assert rows[-1]["digest"] == index.digest
    (image,) = bench.run("images")
    assert image["complete"] is (platform == "all")
    assert len(image["platforms"]) == len(wanted)


def test_a_platform_that_is_not_there_is_an_error_that_names_those_that_are(
    bench: Bench, registry: Registry
) -> None:
    push_image(registry, "test/multi", "1", random_index(3, platforms=[HERE, OTHER]))
    status, message = bench.fail("pull", f"{registry.host}/test/multi:1", platform="linux/riscv64")
    assert status is Status.ERROR
    assert OTHER in message
    assert bench.names == []


def test_an_image_of_another_platform_than_was_asked_for_is_refused(
    bench: Bench, registry: Registry
) -> None:
    push_image(registry, "test/app", "1", random_image(1, platform=OTHER))
    status, message = bench.fail("pull", f"{registry.host}/test/app:1", platform="linux/arm64")
    assert (status, OTHER in message) == (Status.ERROR, True)
    bench.run("pull", f"{registry.host}/test/app:1")


@pytest.mark.parametrize("remote", [False, True])
def test_inspect_refuses_an_image_of_another_platform(
    bench: Bench, registry: Registry, remote: bool
) -> None:
    push_image(registry, "test/app", "1", random_image(1, platform=HERE))
    name = f"{registry.host}/test/app:1"
    bench.run("pull", name)
    (row,) = bench.run("inspect", name, platform=HERE, remote=remote)
    assert row["platform"] == HERE
    status, message = bench.fail("inspect", name, platform=OTHER, remote=remote)
    assert (status, f"is for {HERE} only" in message) == (Status.ERROR, True)


def test_what_was_looked_at_for_its_platform_is_told_as_fetched(
    bench: Bench, registry: Registry
) -> None:
    push_image(registry, "test/app", "1", random_image(1, platform=HERE))
    rows = bench.run("pull", f"{registry.host}/test/app:1", platform=HERE)
    assert {row["state"] for row in rows} == {"fetched"}


def nest(registry: Registry, repository: str, image: Image, *, levels: int, width: int) -> str:
    """Indexes that each name the next one many times over; the digest of the outermost."""
    put_blobs(registry, repository, image)
    digest, raw, media_type = image.digest, image.manifest, image.media_type
    registry.put_manifest(repository, None, raw, media_type)
    for level in range(levels):
        part = {"mediaType": media_type, "digest": digest, "size": len(raw)}
        parts = [
            {**part, "platform": {"os": "linux", "architecture": "arm", "variant": f"v{n}"}}
            for n in range(width)
        ]
        media_type = "application/vnd.oci.image.index.v1+json"
        document = {"schemaVersion": 2, "mediaType": media_type, "manifests": parts}
        raw = json.dumps(document).encode()
        tag = "nested" if level == levels - 1 else None
        digest = registry.put_manifest(repository, tag, raw, media_type)
    return digest


def put_blobs(registry: Registry, repository: str, image: Image) -> None:
    for blob in image.blobs.values():
        registry.put_blob(repository, blob)


def test_indexes_that_name_each_other_many_times_are_gone_through_once(
    bench: Bench, registry: Registry
) -> None:
    image = random_image(1, layers=1)
    top = nest(registry, "test/deep", image, levels=7, width=20)
    reference = f"{registry.host}/test/deep:nested"
    remote = bench.run("inspect", reference)
    assert len(remote) == 1 + 7 * 20
    rows = bench.run("pull", reference, platform="all")
    shown = [row["digest"] for row in rows]
    assert len(shown) == len(set(shown)) == 7 + 1 + len(image.blobs)
    assert shown[-1] == top
    (row,) = bench.run("images")
    assert row["complete"]
    assert len(bench.run("inspect", reference)) == len(remote)
    assert len(bench.run("push", reference)) == len(rows)


def test_one_damaged_or_odd_image_does_not_hide_the_others(
    bench: Bench, registry: Registry
) -> None:
    image = random_image(1, platform=HERE)
    push_image(registry, "test/a", "1", image)
    push_image(registry, "test/z", "1", random_image(2, platform=HERE))
    config = b" " * (5 * 1024 * 1024)  # an artifact's may be anything
    parts = {
        "mediaType": "application/vnd.example+json",
        "digest": registry.put_blob("test/odd", config),
        "size": len(config),
    }
    media_type = "application/vnd.oci.image.manifest.v1+json"
    document = {"schemaVersion": 2, "mediaType": media_type, "config": parts, "layers": []}
    registry.put_manifest("test/odd", "1", json.dumps(document).encode(), media_type)
    for name in ("a", "odd", "z"):
        bench.run("pull", f"{registry.host}/test/{name}:1")
    assert [row["complete"] for row in bench.run("images")] == [True, True, True]
    damaged = bench.state / "images" / "blobs" / "sha256" / image.digest.removeprefix("sha256:")
    damaged.chmod(0o600)
    damaged.write_bytes(image.manifest.replace(b"a", b"b"))
    job = bench.job("images")
    assert job.run() is Status.OK
    rows = job.stdout.table().to_dicts()
    assert [row["complete"] for row in rows] == [False, True, True]
    assert "is damaged" in job.stderr.text()


def test_all_tags_are_pulled_and_a_broken_one_is_told(bench: Bench, registry: Registry) -> None:
    for tag in ("1", "2"):
        push_image(registry, "test/app", tag, random_image(int(tag), platform=HERE))
    bench.run("pull", f"{registry.host}/test/app", allTags=True)
    assert len(bench.names) == 2
    registry.put_manifest("test/app", "0", b"{}", "application/json")
    status, message = bench.fail("pull", f"{registry.host}/test/app", allTags=True)
    assert status is Status.ERROR
    assert "1 of 3 tags" in message
    status, message = bench.fail("pull", f"{registry.host}/test/app:1", allTags=True)
    assert status is Status.USAGE
    assert "Usage: pull" in message


def test_docker_types_are_kept_byte_for_byte(bench: Bench, registry: Registry) -> None:
    image = random_image(4, media="docker", platform=HERE)
    push_image(registry, "test/docker", "1", image)
    rows = bench.run("pull", f"{registry.host}/test/docker:1")
    assert rows[-1]["media_type"] == image.media_type
    with Store(bench.state / "images", bench.state / "ingest") as store:
        assert store.read(Digest.parse(image.digest)) == image.manifest


def test_five_pulls_at_once_fetch_each_blob_once(bench: Bench, registry: Registry) -> None:
    image = random_image(5, layers=4, platform=HERE)
    push_image(registry, "test/app", "1", image)
    jobs = [bench.job("pull", f"{registry.host}/test/app:1") for _ in range(5)]
    with registry.hold(path="/blobs/") as hold:
        threads = [threading.Thread(target=job.run) for job in jobs]
        for thread in threads:
            thread.start()
        assert hold.entered.wait(10)
        registry.wait_for(lambda seen: sum("/manifests/" in one.path for one in seen) >= 5)
        hold.release()
    for thread in threads:
        thread.join(30)
    assert [job.status for job in jobs] == [Status.OK] * 5
    fetched = [one.path.rpartition("/")[2] for one in registry.requests if "/blobs/" in one.path]
    assert sorted(fetched) == sorted(image.blobs)


def test_one_pull_s_cancel_does_not_end_another_s(bench: Bench, registry: Registry) -> None:
    push_image(registry, "test/app", "1", random_image(6, platform=HERE))
    jobs = [bench.job("pull", f"{registry.host}/test/app:1") for _ in range(2)]
    with registry.hold(path="/blobs/") as hold:
        threads = [threading.Thread(target=job.run) for job in jobs]
        for thread in threads:
            thread.start()
        registry.wait_for(lambda seen: sum("/manifests/" in one.path for one in seen) >= 2)
        assert hold.entered.wait(10)
        jobs[0].cancel()
        threads[0].join(10)
        assert jobs[0].status is Status.CANCELLED
        hold.release()
    threads[1].join(30)
    assert jobs[1].status is Status.OK, jobs[1].stderr.text()


@pytest.mark.parametrize("path", ["/v2/", "/manifests/", "/blobs/"])
def test_a_cancel_ends_a_pull_whatever_it_waits_for(
    bench: Bench, registry: Registry, path: str
) -> None:
    push_image(registry, "test/app", "1", random_image(7, platform=HERE))
    job = bench.job("pull", f"{registry.host}/test/app:1")
    with registry.hold(path=path) as hold:
        runner = threading.Thread(target=job.run)
        runner.start()
        assert hold.entered.wait(10)
        job.cancel()
        runner.join(5)
        assert job.state is State.CANCELLED
    assert bench.names == []
    assert bench.broken() == []


def test_a_blob_whose_bytes_are_wrong_is_not_kept(bench: Bench, registry: Registry) -> None:
    image = random_image(8, platform=HERE)
    push_image(registry, "test/app", "1", image)
    registry.add_fault("corrupt:offset=10,path=/blobs/")
    status, message = bench.fail("pull", f"{registry.host}/test/app:1")
    assert status is Status.ERROR
    assert "sha256:" in message
    assert bench.names == []
    assert bench.broken() == []


def test_what_is_not_there_and_what_is_no_reference(bench: Bench, registry: Registry) -> None:
    push_image(registry, "test/app", "1", random_image(1, platform=HERE))
    status, message = bench.fail("pull", f"{registry.host}/test/app:2")
    assert status is Status.ERROR
    assert f"{registry.host}/test/app:2 does not exist" in message
    status, message = bench.fail("pull", f"{registry.host}/Test/app")
    assert status is Status.USAGE
    assert "lower case" in message
    status, message = bench.fail("pull", "127.0.0.1:1/x")
    assert status is Status.ERROR
    assert "127.0.0.1:1" in message
    registry.clear_requests()
    for name in ("pull", "push", "inspect"):
        status, message = bench.fail(name, f"{registry.host}/test/app:1", platform="a/b/c/d")
        assert status is Status.USAGE
        assert "OS/ARCH" in message
    assert registry.requests == []


# push


def test_push_sends_what_is_missing_and_says_what_was_there(
    bench: Bench, registry: Registry
) -> None:
    image = random_image(9, platform=HERE)
    push_image(registry, "test/app", "1", image)
    with Registry() as other:
        bench.run("pull", f"{registry.host}/test/app:1")
        target = f"{other.host}/copy/app:2"
        bench.run("tag", f"{registry.host}/test/app:1", target)
        rows = bench.run("push", target)
        assert {row["state"] for row in rows} == {"pushed"}
        assert rows[-1]["digest"] == image.digest
        stored = other.manifest("copy/app", "2")
        assert stored is not None
        assert (stored.raw, stored.media_type) == (image.manifest, image.media_type)
        other.clear_requests()
        assert {row["state"] for row in bench.run("push", target)} == {"exists"}
        assert {one.method for one in other.requests} == {"HEAD"}


def test_push_mounts_from_a_repository_of_the_same_registry(
    bench: Bench, registry: Registry
) -> None:
    image = random_image(10, platform=HERE)
    push_image(registry, "test/app", "1", image)
    bench.run("pull", f"{registry.host}/test/app:1")
    bench.run("tag", f"{registry.host}/test/app:1", f"{registry.host}/other:1")
    rows = bench.run("push", f"{registry.host}/other:1")
    assert {row["state"] for row in rows[:-1]} == {"mounted"}
    assert rows[-1]["state"] == "pushed"
    assert sum(one.received for one in registry.requests) == len(image.manifest)
    assert registry.open_uploads == 0


def test_an_index_goes_whole_and_not_at_all_when_parts_are_missing(
    bench: Bench, registry: Registry
) -> None:
    index = random_index(11, platforms=[HERE, OTHER])
    push_image(registry, "test/multi", "1", index)
    bench.run("pull", f"{registry.host}/test/multi:1")
    with Registry() as other:
        target = f"{other.host}/multi:1"
        bench.run("tag", f"{registry.host}/test/multi:1", target)
        status, message = bench.fail("push", target)
        assert status is Status.ERROR
        assert OTHER in message
        assert other.requests == []
        rows = bench.run("push", target, platform=HERE)
        assert rows[-1]["digest"] == index.images[0].digest
        bench.run("pull", f"{registry.host}/test/multi:1", platform="all")
        rows = bench.run("push", target)
        assert rows[-1]["digest"] == index.digest
        assert other.manifest("multi", index.images[1].digest) is not None


def test_push_of_one_platform_refuses_an_image_of_another(bench: Bench, registry: Registry) -> None:
    push_image(registry, "test/app", "1", random_image(1, platform=OTHER))
    reference = f"{registry.host}/test/app:1"
    bench.run("pull", reference)
    registry.clear_requests()
    status, message = bench.fail("push", reference, platform="linux/arm64")
    assert status is Status.ERROR
    assert f"is for {OTHER} only, not for linux/arm64" in message
    assert registry.requests == []
    bench.run("push", reference, platform=OTHER)


def test_push_of_what_the_store_has_not(bench: Bench, registry: Registry) -> None:
    status, message = bench.fail("push", f"{registry.host}/nothing:1")
    assert status is Status.ERROR
    assert "the store has no image" in message
    assert registry.requests == []


def test_a_cancel_ends_a_push(bench: Bench, registry: Registry) -> None:
    push_image(registry, "test/app", "1", random_image(12, platform=HERE))
    bench.run("pull", f"{registry.host}/test/app:1")
    with Registry() as other:
        target = f"{other.host}/app:1"
        bench.run("tag", f"{registry.host}/test/app:1", target)
        job = bench.job("push", target)
        with other.hold(path="/uploads/", method="PUT") as hold:
            runner = threading.Thread(target=job.run)
            runner.start()
            assert hold.entered.wait(10)
            job.cancel()
            runner.join(5)
            assert job.state is State.CANCELLED
        assert other.tags("app") == []


# who asks


def credentials(registry: Registry, user: str, password: str) -> str:
    return json.dumps({"username": user, "password": password, "serveraddress": registry.host})


@pytest.mark.parametrize("auth", ["basic", "token"])
def test_credentials_right_wrong_and_none(bench: Bench, auth: Any) -> None:
    with Registry(auth=auth, users={"ann": "hunter2"}) as registry:
        push_image(registry, "test/app", "1", random_image(1, platform=HERE))
        reference = f"{registry.host}/test/app:1"
        right = credentials(registry, "ann", "hunter2")
        wrong = credentials(registry, "ann", "hunter3")
        job = bench.job("auth", authConfig=right)
        assert job.run() is Status.OK, job.stderr.text()
        assert job.stdout.text() == "Login Succeeded\n"
        bench.run("pull", reference, authConfig=right)
        refused: list[dict[str, Any]] = [{"authConfig": wrong}, {}]
        for env in refused:
            for name, args in (("pull", (reference,)), ("push", (reference,))):
                status, message = bench.fail(name, *args, **env)
                assert status is Status.ERROR
                assert registry.host in message
                assert "hunter" not in message
        status, message = bench.fail("auth", authConfig=wrong)
        assert (status, "ann" in message, "hunter" in message) == (Status.ERROR, True, False)
        status, _ = bench.fail("auth", authConfig={"serveraddress": registry.host})
        assert status is Status.ERROR


def test_no_credentials_are_no_good_ones_where_anybody_may_read(bench: Bench) -> None:
    with Registry(auth="token", users={"ann": "a"}, anonymous_pull=True) as registry:
        status, message = bench.fail("auth", authConfig={"serveraddress": registry.host})
        assert status is Status.ERROR
        assert registry.host in message
        push_image(registry, "test/app", "1", random_image(1, platform=HERE))
        bench.run("pull", f"{registry.host}/test/app:1")


def test_auth_asks_the_token_server_each_time(bench: Bench) -> None:
    with Registry(auth="token", users={"ann": "a"}) as registry:
        for _ in range(2):
            registry.clear_requests()
            bench.run("auth", authConfig=credentials(registry, "ann", "a"))
            assert any("token" in one.path for one in registry.requests)


def test_a_password_in_a_server_address_is_not_shown(bench: Bench, registry: Registry) -> None:
    push_image(registry, "test/app", "1", random_image(1, platform=HERE))
    for address in (
        f"http://ann:hunter2@{registry.host}/",
        "ann:hunter2@no host",
        "https://ann:hunter2@/",
    ):
        given = {"username": "ann", "password": "p", "serveraddress": address}
        for name, args in (("auth", ()), ("pull", (f"{registry.host}/test/app:1",))):
            job = bench.job(name, *args, authConfig=given)
            job.run()
            assert "hunter2" not in job.stderr.text()


def test_what_another_pulled_is_not_given_to_who_may_not_have_it(bench: Bench) -> None:
    with Registry(
        auth="token",
        users={"ann": "a", "bob": "b"},
        access={"ann": ["*"], "bob": ["public/*"]},
    ) as registry:
        push_image(registry, "private/app", "1", random_image(1, platform=HERE))
        reference = f"{registry.host}/private/app:1"
        bench.run("pull", reference, authConfig=credentials(registry, "ann", "a"))
        status, message = bench.fail(
            "pull", reference, authConfig=credentials(registry, "bob", "b")
        )
        assert status is Status.ERROR
        assert "bob" in message


def test_credentials_go_only_where_they_belong(bench: Bench, registry: Registry) -> None:
    push_image(registry, "test/app", "1", random_image(1, platform=HERE))
    job = bench.job(
        "pull",
        f"{registry.host}/test/app:1",
        authConfig={"username": "ann", "password": "p", "serveraddress": "registry.example"},
    )
    assert job.run() is Status.OK
    assert {one.scheme for one in registry.requests} == {""}
    with Registry(users={"ann": "p"}) as closed:
        job = bench.job(
            "tags",
            f"{closed.host}/x",
            authConfig={"username": "ann", "password": "p", "serveraddress": "registry.example"},
        )
        assert job.run() is Status.ERROR
        logs = [record.text for record in job.output.records() if isinstance(record, Log)]
        assert any("were not sent" in text for text in logs)
        assert {one.scheme for one in closed.requests} == {""}


def test_meta_headers_are_sent(bench: Bench, registry: Registry) -> None:
    push_image(registry, "test/app", "1", random_image(1, platform=HERE))
    bench.run("pull", f"{registry.host}/test/app:1", metaHeaders={"X-Meta-Team": ["blue"]})
    fetched = [one for one in registry.requests if "/test/app/" in one.path]
    assert {one.headers.get("x-meta-team") for one in fetched} == {"blue"}


@pytest.mark.parametrize(
    "headers", [[], {"Host": ["x"]}, {"X": [1]}, {"X": ["a\nb"]}, {"a b": ["c"]}]
)
def test_meta_headers_that_are_none_are_refused(
    bench: Bench, registry: Registry, headers: Any
) -> None:
    status, message = bench.fail("pull", f"{registry.host}/x", metaHeaders=headers)
    assert status is Status.USAGE
    assert "metaHeaders" in message
    assert registry.requests == []


@pytest.mark.parametrize("auth", ["{", "[]", '{"username": 1}', '{"auth": "%%%"}'])
def test_credentials_that_are_none_are_refused_without_showing_them(
    bench: Bench, registry: Registry, auth: str
) -> None:
    status, message = bench.fail("pull", f"{registry.host}/x", authConfig=auth)
    assert status is Status.USAGE
    assert "%%%" not in message
    assert registry.requests == []


# search, tags, inspect, tag


def test_search_gives_the_most_stars_first_a_row_a_message(
    bench: Bench, registry: Registry
) -> None:
    for name, stars in (("app/one", 3), ("app/two", 9), ("else", 5)):
        push_image(registry, name, "1", random_image(1))
        registry.describe(name, description=f"{name}!", star_count=stars, is_official=stars == 9)
    job = bench.job("search", f"{registry.host}/app")
    assert job.run() is Status.OK, job.stderr.text()
    assert job.stdout.table().to_dicts() == [
        {
            "name": "app/two",
            "description": "app/two!",
            "star_count": 9,
            "is_official": True,
            "is_trusted": False,
        },
        {
            "name": "app/one",
            "description": "app/one!",
            "star_count": 3,
            "is_official": False,
            "is_trusted": False,
        },
    ]
    assert job.spec is not None
    assert job.spec.row_mode == "single"


def test_search_limit_and_filters(bench: Bench, registry: Registry) -> None:
    for number in range(30):
        push_image(registry, f"app/n{number:02}", "1", random_image(1))
        registry.describe(f"app/n{number:02}", star_count=number)
    term = f"{registry.host}/app"
    assert len(bench.run("search", term)) == 25
    assert len(bench.run("search", term, limit=3)) == 3
    found = bench.run("search", term, filters={"stars": ["28"]})
    assert [row["star_count"] for row in found] == [29, 28]
    wrong: list[dict[str, Any]] = [
        {"limit": 0},
        {"limit": "x"},
        {"filters": []},
        {"filters": {"moons": 1}},
    ]
    for env in wrong:
        status, _ = bench.fail("search", term, **env)
        assert status is Status.USAGE


def test_search_of_a_registry_without_one_goes_through_its_catalog(
    bench: Bench, registry: Registry
) -> None:
    for name in ("app/one", "app/two", "else"):
        push_image(registry, name, "1", random_image(1))
    registry.add_fault("status:code=404,path=/v1/")
    found = bench.run("search", f"{registry.host}/app")
    assert [row["name"] for row in found] == ["app/one", "app/two"]


def test_tags_come_from_every_page(bench: Bench) -> None:
    with Registry(page_size=2) as registry:
        image = random_image(1)
        for tag in "abcde":
            push_image(registry, "test/app", tag, image)
        rows = bench.run("tags", f"{registry.host}/test/app")
        assert [row["tag"] for row in rows] == list("abcde")
        assert {row["repository"] for row in rows} == {f"{registry.host}/test/app"}
        status, _ = bench.fail("tags", f"{registry.host}/test/app:1")
        assert status is Status.USAGE
        status, _ = bench.fail("tags", f"{registry.host}/nothing")
        assert status is Status.ERROR


def test_inspect_shows_the_same_of_the_store_and_of_the_registry(
    bench: Bench, registry: Registry
) -> None:
    image = random_image(1, layers=2, platform=HERE)
    push_image(registry, "test/app", "1", image)
    reference = f"{registry.host}/test/app:1"
    (remote,) = bench.run("inspect", reference)
    assert remote["source"] == "registry"
    assert remote["config"] == json.loads(image.config)
    assert len(remote["layers"]) == 2
    assert Platform.parse(remote["platform"]).matches(Platform.parse(HERE))
    bench.run("pull", reference)
    registry.clear_requests()
    (local,) = bench.run("inspect", reference)
    assert local.pop("source") == "store"
    assert registry.requests == []
    del remote["source"]
    assert local == remote
    assert bench.run("inspect", reference, remote=True)[0]["source"] == "registry"


def test_inspect_of_an_index_shows_its_platforms(bench: Bench, registry: Registry) -> None:
    index = random_index(1, platforms=[HERE, OTHER])
    push_image(registry, "test/multi", "1", index)
    reference = f"{registry.host}/test/multi:1"
    rows = bench.run("inspect", reference)
    assert [row["digest"] for row in rows] == [
        index.digest,
        *(one.digest for one in index.images),
    ]
    assert rows[0]["config"] is None
    bench.run("pull", reference)
    rows = bench.run("inspect", reference)
    assert [row["config"] is not None for row in rows] == [False, True, False]
    (_, chosen) = bench.run("inspect", reference, platform=OTHER)
    assert chosen["digest"] == index.images[1].digest


def test_tag_gives_another_name_and_refuses_what_cannot_be_one(
    bench: Bench, registry: Registry
) -> None:
    image = random_image(1, platform=HERE)
    push_image(registry, "test/app", "1", image)
    source = f"{registry.host}/test/app:1"
    bench.run("pull", source)
    (row,) = bench.run("tag", source, "alpine")
    assert row["reference"] == "docker.io/library/alpine:latest"
    by_digest = f"{registry.host}/test/app@{image.digest}"
    bench.run("tag", by_digest, "busybox:1")
    assert set(bench.names) == {
        source,
        "docker.io/library/alpine:latest",
        "docker.io/library/busybox:1",
    }
    assert bench.fail("tag", source, f"x@{image.digest}")[0] is Status.USAGE
    assert bench.fail("tag", "nothing:1", "x")[0] is Status.ERROR
    assert bench.fail("tag", source)[0] is Status.USAGE


# the service itself


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"transfers": 0}, "transfers"),
        ({"conect_timeout": 1}, "conect_timeout.*retries.*transfers"),
        ({"insecure_hosts": "x"}, "insecure_hosts"),
    ],
)
def test_settings_that_cannot_be_used_fail_the_start(
    tmp_path: Path, settings: dict[str, Any], words: str
) -> None:
    engine = Engine(state_dir=tmp_path)
    with pytest.raises(InstallError, match=words):
        engine.install(Service(), name="registry", settings=settings)
    assert "pull" not in [spec.name for spec in engine.commands()]


def test_without_a_state_directory_what_needs_no_store_works(registry: Registry) -> None:
    engine = Engine()
    engine.install(Service(), name="registry")
    push_image(registry, "test/app", "1", random_image(1))
    assert engine.job("tags", f"{registry.host}/test/app").run() is Status.OK
    job = engine.job("pull", f"{registry.host}/test/app:1")
    assert job.run() is Status.ERROR
    assert "no state directory" in job.stderr.text()
    engine.shutdown()


def until(condition: Callable[[], bool]) -> None:
    pause = threading.Event()
    for _ in range(2000):
        if condition():
            return
        pause.wait(0.005)
    raise AssertionError("it did not come to pass within 10 s")


def test_a_shutdown_in_the_middle_of_a_pull_leaves_no_broken_blob(
    tmp_path: Path, registry: Registry
) -> None:
    bench = Bench(tmp_path / "state")
    push_image(registry, "test/app", "1", random_image(1, layer_size=200_000, platform=HERE))
    job = bench.job("pull", f"{registry.host}/test/app:1")
    with registry.hold(path="/blobs/", after=1000) as hold:
        runner = threading.Thread(target=job.run)
        runner.start()
        assert hold.entered.wait(10)
        bench.engine.shutdown(grace=0)
        runner.join(10)
    assert job.status is Status.TRY_AGAIN
    assert bench.broken() == []
    until(lambda: not [t for t in threading.enumerate() if t.name.startswith("transfer")])
