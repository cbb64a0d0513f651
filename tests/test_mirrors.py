"""Mirrors before a registry: where each part comes from, and what no mirror gets to see."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scripted import closed_port
from support_hosts import HERE, HostBench, section, told
from support_real import docker_registry, skopeo
from support_referrers import put_artifact

from engine import State, Status
from registry_service.digest import Digest
from registry_service.testing import Registry
from registry_service.testing.images import Image, push_image, random_image

SECRET, OTHER = "correct horse", "battery staple"


@pytest.fixture
def origin() -> Iterator[Registry]:
    with Registry() as made:
        yield made


@pytest.fixture
def mirror() -> Iterator[Registry]:
    with Registry() as made:
        yield made


def image_at(*registries: Registry, repository: str = "test/app", layers: int = 3) -> Image:
    image = random_image(1, layers=layers, layer_size=40_000, platform=HERE)
    for registry in registries:
        push_image(registry, repository, "1", image)
        registry.clear_requests()
    return image


def before(origin: Registry, *mirrors: Registry | str, last: bool = True) -> str:
    """The section of ``origin`` with these mirrors before it."""
    names = [one if isinstance(one, str) else one.host for one in mirrors]
    return section(origin.host, mirrors=names, origin="last" if last else "never")


def gets(registry: Registry, part: str = "/v2/") -> list[str]:
    """The paths of the requests for content, the pings left out."""
    found = [one.path for one in registry.requests if part in one.path]
    return [path for path in found if path != "/v2/"]


def blobs_of(registry: Registry) -> set[str]:
    return {path.rpartition("/")[2] for path in gets(registry, "/blobs/")}


# where each part comes from


def test_all_comes_from_the_mirror_and_the_store_s_name_is_the_origin_s(
    tmp_path: Path, origin: Registry, mirror: Registry
) -> None:
    image = image_at(origin, mirror)
    reference = f"{origin.host}/test/app:1"
    with HostBench(tmp_path, before(origin, mirror)) as bench:
        rows = bench.run("pull", reference)
        assert rows[-1]["digest"] == image.digest
        assert {row["reference"] for row in rows} == {reference}
        assert bench.names == [reference]
        assert blobs_of(mirror) == set(image.blobs)
        assert origin.requests == []
        # again: the mirror is asked whether it is still the same
        mirror.clear_requests()
        assert {row["state"] for row in bench.run("pull", reference)} == {"exists"}
        assert [one.method for one in mirror.requests] == ["HEAD"]


def test_a_prefix_comes_before_the_repository_s_name(
    tmp_path: Path, origin: Registry, mirror: Registry
) -> None:
    image_at(mirror, repository="cache/of/origin/test/app")
    with HostBench(tmp_path, before(origin, f"{mirror.host}/cache/of/origin")) as bench:
        bench.run("pull", f"{origin.host}/test/app:1")
    assert origin.requests == []


def test_a_blob_that_the_mirror_lacks_comes_from_the_origin(
    tmp_path: Path, origin: Registry, mirror: Registry
) -> None:
    image = image_at(origin, mirror)
    lacking = sorted(image.blobs)[:2]
    for digest in lacking:
        assert mirror.delete_blob("test/app", digest)
    with HostBench(tmp_path, before(origin, mirror)) as bench:
        bench.run("pull", f"{origin.host}/test/app:1")
    assert blobs_of(origin) == set(lacking)
    assert gets(origin, "/manifests/") == []


def test_the_next_mirror_is_asked_before_the_origin(
    tmp_path: Path, origin: Registry, mirror: Registry
) -> None:
    image_at(origin, mirror)
    with Registry() as empty, HostBench(tmp_path, before(origin, empty, mirror)) as bench:
        bench.run("pull", f"{origin.host}/test/app:1")
        assert len(gets(empty)) == 1 + 4  # the manifest, and each blob
    assert origin.requests == []


def test_what_two_mirrors_serve_wrongly_comes_from_the_origin(
    tmp_path: Path, origin: Registry, mirror: Registry
) -> None:
    with Registry() as second:
        image = image_at(origin, mirror, second)
        for one in (mirror, second):
            one.add_fault("corrupt:offset=100,path=/blobs/")
        with HostBench(tmp_path, before(origin, mirror, second)) as bench:
            job = bench.done(bench.job("pull", f"{origin.host}/test/app:1"))
            assert bench.broken() == []
        assert blobs_of(origin) == set(image.blobs)
        assert len(gets(mirror, "/blobs/")) == len(image.blobs)  # never twice for one blob
        assert any("elsewhere" in line for line in told(job))


@pytest.mark.parametrize("origin_breaks", [False, True])
def test_what_a_mirror_spoiled_and_broke_off_is_not_the_origin_s_fault(
    tmp_path: Path, origin: Registry, mirror: Registry, origin_breaks: bool
) -> None:
    """The origin sends the rest, and all of it together is wrong."""
    image = image_at(origin, mirror)
    mirror.add_fault("corrupt:offset=7,path=/blobs/")
    mirror.add_fault("drop:after=10000,path=/blobs/")
    if origin_breaks:
        origin.add_fault("drop:after=15000,path=/blobs/,times=1")
    with HostBench(tmp_path / "conf", before(origin, mirror)) as bench:
        bench.run("pull", f"{origin.host}/test/app:1")
        assert bench.broken() == []
        (row,) = bench.run("images")
        assert row["complete"] and row["digest"] == image.digest


def test_a_wrong_manifest_of_a_mirror_is_passed_over(
    tmp_path: Path, origin: Registry, mirror: Registry
) -> None:
    image = image_at(origin, mirror)
    mirror.add_fault("corrupt:offset=5,path=/manifests/")
    with HostBench(tmp_path, before(origin, mirror)) as bench:
        rows = bench.run("pull", f"{origin.host}/test/app:1")
    assert rows[-1]["digest"] == image.digest
    assert len(gets(origin, "/manifests/")) == 1
    assert blobs_of(mirror) == set(image.blobs)


def test_a_blob_that_broke_off_goes_on_from_its_place_at_the_next(
    tmp_path: Path, origin: Registry, mirror: Registry
) -> None:
    image = image_at(origin, mirror, layers=1)
    (layer,) = (digest for digest, data in image.blobs.items() if len(data) > 30_000)
    mirror.add_fault(f"drop:after=20000,path={layer}")
    with HostBench(tmp_path, before(origin, mirror)) as bench:
        bench.run("pull", f"{origin.host}/test/app:1")
        assert bench.broken() == []
    ranges = {one.path.rpartition("/")[2]: one.range for one in origin.requests if one.range}
    assert ranges == {layer: "bytes=20000-"}


def test_a_mirror_that_stalls_is_followed_by_the_next(
    tmp_path: Path, origin: Registry, mirror: Registry
) -> None:
    image_at(origin, mirror, layers=1)
    mirror.add_fault("stall:seconds=30,path=/blobs/")
    with HostBench(tmp_path, before(origin, mirror), read_timeout=0.3) as bench:
        bench.run("pull", f"{origin.host}/test/app:1")
    assert len(blobs_of(origin)) == 2


# mirrors that do not answer


def test_a_mirror_that_is_not_there_is_left_alone_by_the_jobs_that_follow(
    tmp_path: Path, origin: Registry
) -> None:
    image_at(origin)
    dead = f"127.0.0.1:{closed_port()}"
    with HostBench(tmp_path, before(origin, dead)) as bench:
        first = bench.done(bench.job("pull", f"{origin.host}/test/app:1"))
        (line,) = (one for one in told(first) if one.startswith("warning"))
        assert f"the mirror {dead}: " in line and "it is left alone for 15 s" in line
        second = bench.done(bench.job("pull", f"{origin.host}/test/app:1"))
        assert not [one for one in told(second) if one.startswith("warning")]
        assert any(f"the mirror {dead} is left alone for" in one for one in told(second))


def test_a_mirror_that_only_fails_is_left_alone_after_three_times(
    tmp_path: Path, origin: Registry, mirror: Registry
) -> None:
    image_at(origin, mirror, layers=12)
    mirror.add_fault("status:code=500,path=/test/app/")
    with HostBench(tmp_path, before(origin, mirror), transfers=1) as bench:
        bench.run("pull", f"{origin.host}/test/app:1")
        bench.run("pull", f"{origin.host}/test/app:1")
    assert len(gets(mirror)) == 3


def test_a_mirror_that_asks_for_a_pause_is_not_waited_for(
    tmp_path: Path, origin: Registry, mirror: Registry
) -> None:
    image_at(origin, mirror)
    mirror.add_fault("status:code=429,retry-after=60,path=/manifests/")
    begun = time.monotonic()
    with HostBench(tmp_path, before(origin, mirror), retry_wait_max=60.0) as bench:
        bench.run("pull", f"{origin.host}/test/app:1")
    assert time.monotonic() - begun < 20
    assert len(gets(mirror)) == 1


def test_where_there_is_no_other_a_mirror_that_was_left_alone_is_asked_all_the_same(
    tmp_path: Path, origin: Registry, mirror: Registry
) -> None:
    image_at(mirror)
    fault = mirror.add_fault("status:code=503,path=/manifests/")
    with HostBench(tmp_path, before(origin, mirror, last=False), retries=0) as bench:
        for _ in range(4):
            assert "503" in bench.fail("pull", f"{origin.host}/test/app:1")
        fault.remove()
        bench.run("pull", f"{origin.host}/test/app:1")


# the origin


def test_an_origin_that_is_not_to_be_asked_is_not_asked(
    tmp_path: Path, origin: Registry, mirror: Registry
) -> None:
    image = image_at(origin, mirror)
    absent = sorted(image.blobs)[0]
    mirror.delete_blob("test/app", absent)
    with (
        Registry() as second,
        HostBench(tmp_path, before(origin, mirror, second, last=False)) as bench,
    ):
        message = bench.fail("pull", f"{origin.host}/test/app:1")
        assert absent in message and "does not exist" in message
        message = bench.fail("pull", f"{origin.host}/test/nothing:1")
        assert "test/nothing" in message and "does not exist" in message
        assert bench.names == []
        assert origin.requests == []


def test_an_origin_that_is_down_is_no_matter_as_long_as_a_mirror_has_all(
    tmp_path: Path, mirror: Registry
) -> None:
    image_at(mirror)
    dead = f"127.0.0.1:{closed_port()}"
    with HostBench(tmp_path, section(dead, mirrors=[mirror.host])) as bench:
        bench.run("pull", f"{dead}/test/app:1")
        message = bench.fail("pull", f"{dead}/test/other:1")
        assert dead in message


def test_tags_and_pushes_go_to_the_origin(
    tmp_path: Path, origin: Registry, mirror: Registry
) -> None:
    image_at(origin, mirror)
    with HostBench(tmp_path, before(origin, mirror)) as bench:
        bench.run("pull", f"{origin.host}/test/app:1")
        mirror.clear_requests()
        bench.run("tag", f"{origin.host}/test/app:1", f"{origin.host}/test/app:2")
        bench.run("push", f"{origin.host}/test/app:2")
        assert [row["tag"] for row in bench.run("tags", f"{origin.host}/test/app")] == ["1", "2"]
        assert origin.tags("test/app") == ["1", "2"]
        assert mirror.requests == []
        bench.run("pull", f"{origin.host}/test/app", allTags="true")
        assert not gets(mirror, "/tags/")


# what is shown


def test_inspect_asks_the_mirror_and_for_what_that_lacks_the_origin(
    tmp_path: Path, origin: Registry, mirror: Registry
) -> None:
    image = image_at(origin, mirror)
    reference = f"{origin.host}/test/app:1"
    with HostBench(tmp_path, before(origin, mirror)) as bench:
        (row,) = bench.run("inspect", reference)
        assert (row["reference"], row["digest"]) == (reference, image.digest)
        assert row["config"] == json.loads(image.config)
        assert origin.requests == []
        config = str(Digest.of(image.config))
        mirror.delete_blob("test/app", config)
        assert bench.run("inspect", reference) == [row]
        assert blobs_of(origin) == {config}
        mirror.add_fault("status:code=500,path=/test/app/")
        assert bench.run("inspect", reference) == [row]


def test_inspect_leaves_a_dead_mirror_alone_and_an_origin_that_is_not_to_be_asked(
    tmp_path: Path, origin: Registry, mirror: Registry
) -> None:
    image_at(origin, mirror)
    dead = f"127.0.0.1:{closed_port()}"
    with HostBench(tmp_path, before(origin, dead, mirror, last=False)) as bench:
        first = bench.done(bench.job("inspect", f"{origin.host}/test/app:1"))
        assert any("it is left alone for 15 s" in one for one in told(first))
        second = bench.done(bench.job("inspect", f"{origin.host}/test/app:1"))
        assert not [one for one in told(second) if one.startswith("warning")]
        assert "does not exist" in bench.fail("inspect", f"{origin.host}/test/nothing:1")
    assert origin.requests == []


def test_tags_of_an_origin_that_does_not_answer_are_the_mirror_s(
    tmp_path: Path, mirror: Registry
) -> None:
    image_at(mirror, repository="cache/test/app")
    dead = f"127.0.0.1:{closed_port()}"
    with HostBench(tmp_path, section(dead, mirrors=[f"{mirror.host}/cache"])) as bench:
        assert bench.run("tags", f"{dead}/test/app") == [
            {"repository": f"{dead}/test/app", "tag": "1"}
        ]
        # neither has it: what the origin said is told
        assert f"{dead}: " in bench.fail("tags", f"{dead}/test/nothing")


def test_tags_do_not_reach_an_origin_that_is_not_to_be_asked(
    tmp_path: Path, origin: Registry
) -> None:
    with Registry(page_size=1) as mirror:
        image = image_at(origin, mirror)
        push_image(mirror, "test/app", "2", image)
        with HostBench(tmp_path, before(origin, mirror, last=False)) as bench:
            rows = bench.run("tags", f"{origin.host}/test/app")
            assert [row["tag"] for row in rows] == ["1", "2"]
            bench.run("pull", f"{origin.host}/test/app", allTags="true")
            assert "does not exist" in bench.fail("tags", f"{origin.host}/test/nothing")
    assert origin.requests == []


def test_referrers_of_an_origin_that_is_not_to_be_asked_are_the_mirror_s(
    tmp_path: Path, origin: Registry, mirror: Registry
) -> None:
    image = image_at(origin, mirror)
    sbom = put_artifact(mirror, "test/app", image)
    with HostBench(tmp_path, before(origin, mirror, last=False)) as bench:
        (row,) = bench.run("referrers", f"{origin.host}/test/app:1")
        assert (row["subject"], row["digest"]) == (image.digest, str(sbom.digest))
        assert "does not exist" in bench.fail("referrers", f"{origin.host}/test/nothing:1")
    assert origin.requests == []


def test_a_dead_mirror_does_not_keep_what_belongs_to_an_image_back(
    tmp_path: Path, origin: Registry, mirror: Registry
) -> None:
    image = image_at(origin, mirror)
    sbom = put_artifact(mirror, "test/app", image)
    dead = f"127.0.0.1:{closed_port()}"
    with HostBench(tmp_path, before(origin, dead, mirror, last=False)) as bench:
        rows = bench.run("pull", f"{origin.host}/test/app:1", referrers="true")
        assert str(sbom.digest) in {row["digest"] for row in rows}
        assert rows[-1]["digest"] == image.digest
    assert origin.requests == []


# who gets to see what


def test_a_mirror_gets_its_own_credentials_and_nothing_of_the_client_s(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.touch(0o600)
    secret.write_text(OTHER)
    with Registry(users={"ann": SECRET}) as origin, Registry(users={"eve": OTHER}) as mirror:
        image = image_at(origin, mirror)
        mirror.delete_blob("test/app", sorted(image.blobs)[0])
        rules = before(origin, mirror) + section(mirror.host, username="eve", password_file=secret)
        auth = {"username": "ann", "password": SECRET}
        with HostBench(tmp_path / "conf", rules) as bench:
            job = bench.done(
                bench.job(
                    "pull",
                    f"{origin.host}/test/app:1",
                    authConfig=auth,
                    metaHeaders={"X-Meta": ["ann's"]},
                )
            )
        assert {one.user for one in mirror.requests if one.scheme} == {"eve"}
        assert all("x-meta" not in one.headers for one in mirror.requests)
        assert {one.user for one in origin.requests if one.scheme} == {"ann"}
        assert any(one.headers.get("x-meta") == "ann's" for one in origin.requests)
        lines = told(job)
        assert f"debug: {mirror.host}: credentials: those of the configuration" in lines
        assert f"debug: {origin.host}: credentials: the caller's" in lines
        assert SECRET not in str(lines) and OTHER not in str(lines)


def test_a_mirror_without_credentials_of_its_own_gets_none(
    tmp_path: Path, origin: Registry
) -> None:
    with Registry(users={"ann": SECRET}) as mirror:
        image_at(origin, mirror)
        auth = {"username": "ann", "password": SECRET}
        with HostBench(tmp_path, before(origin, mirror)) as bench:
            bench.run("pull", f"{origin.host}/test/app:1", authConfig=auth)
        assert {one.scheme for one in mirror.requests} == {""}


def test_what_one_user_pulled_does_not_reach_another_who_may_not(
    tmp_path: Path, mirror: Registry
) -> None:
    with Registry(users={"ann": SECRET, "bob": OTHER}, access={"bob": ["other/*"]}) as origin:
        image_at(origin)  # the mirror does not have it
        with HostBench(tmp_path, before(origin, mirror)) as bench:
            ann = {"username": "ann", "password": SECRET}
            bob = {"username": "bob", "password": OTHER}
            bench.run("pull", f"{origin.host}/test/app:1", authConfig=ann)
            message = bench.fail("pull", f"{origin.host}/test/app:1", authConfig=bob)
            assert origin.host in message
            bench.fail("pull", f"{origin.host}/test/app:1")


# ends


def test_a_cancel_ends_the_wait_for_a_mirror(
    tmp_path: Path, origin: Registry, mirror: Registry
) -> None:
    image_at(origin, mirror)
    with HostBench(tmp_path, before(origin, mirror)) as bench:
        for path in ("/v2/", "/manifests/", "/blobs/"):
            job = bench.job("pull", f"{origin.host}/test/app:1")
            with mirror.hold(path=path) as hold:
                runner = threading.Thread(target=job.run)
                runner.start()
                assert hold.entered.wait(10)
                begun = time.monotonic()
                job.cancel()
                runner.join(10)
                assert job.state is State.CANCELLED
                assert time.monotonic() - begun < 1
        assert bench.names == []
        assert origin.requests == []


FAULTS = st.sampled_from(
    [
        "drop:path=/blobs/,times=2",
        "drop:after=10000,path=/blobs/",
        "drop:after=1,reset=yes,path=/blobs/,probability=0.5",
        "corrupt:offset=7,path=/blobs/,probability=0.5",
        "corrupt:offset=3,path=/manifests/",
        "short:path=/blobs/,probability=0.7",
        "status:code=500,path=/test/app/",
        "status:code=503,path=/blobs/,probability=0.5",
        "status:code=404,path=/blobs/,probability=0.5",
        "status:code=404,path=/manifests/",
        "status:code=401,path=/blobs/",
        "no-range:path=/blobs/",
        "wrong-range:path=/blobs/",
    ]
)


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(st.lists(FAULTS, max_size=3), min_size=1, max_size=3), st.integers(0, 10))
def test_whatever_the_mirrors_do_the_image_of_a_sound_origin_arrives(
    tmp_path_factory: pytest.TempPathFactory, faults: list[list[str]], seed: int
) -> None:
    with Registry() as origin:
        mirrors = [Registry(faults=one) for one in faults]
        for mirror in mirrors:
            mirror.start()
        try:
            image = random_image(seed, layers=3, layer_size=30_000, platform=HERE)
            for registry in (origin, *mirrors):
                push_image(registry, "test/app", "1", image)
            place = tmp_path_factory.mktemp("faults")
            with HostBench(place, before(origin, *mirrors), read_timeout=2.0) as bench:
                job = bench.job("pull", f"{origin.host}/test/app:1")
                assert job.run() is Status.OK, job.stderr.text()
                assert bench.broken() == []
                (row,) = bench.run("images")
                assert row["complete"] and row["digest"] == image.digest
        finally:
            for mirror in mirrors:
                mirror.stop()


# with a real one


def test_debian_s_registry_as_a_pull_through_mirror(tmp_path: Path, origin: Registry) -> None:
    image = image_at(origin)
    with docker_registry(tmp_path / "cache", extra={"proxy": {"remoteurl": origin.url}}) as cache:
        rules = section(origin.host, mirrors=[cache], origin="never")
        with HostBench(tmp_path / "conf", rules) as bench:
            rows = bench.run("pull", f"{origin.host}/test/app:1")
            assert rows[-1]["digest"] == image.digest
            assert bench.broken() == []
            (shown,) = bench.run("inspect", f"{origin.host}/test/app:1", remote=True)
            assert (shown["digest"], shown["source"]) == (image.digest, "registry")
            assert [row["tag"] for row in bench.run("tags", f"{origin.host}/test/app")] == ["1"]
            agents = {one.headers.get("user-agent", "") for one in origin.requests}
            assert not any("registry-engine" in agent for agent in agents)
            layout = bench.state / "images"
            assert image.digest in skopeo("inspect", f"oci:{layout}:{origin.host}/test/app:1")
