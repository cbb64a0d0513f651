"""Which protocol a job speaks with a host, what it sends there, and what V1 has no form of."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from scripted import Authority, Request, Scripted, scripted
from support_hosts import HostBench, section

from engine import Status
from registry_service.testing import Registry
from registry_service.testing.images import push_image, random_image
from registry_service.testing.v1 import V1Registry
from registry_service.testing.v1.images import push_chain, random_chain

IMAGE = "a" * 64
CREDENTIALS = {"username": "ann", "password": "secret"}
BASIC = f"Basic {base64.b64encode(b'ann:secret').decode()}"


def registry(request: Request) -> None:
    """A V1 registry that stands by itself, with one repository."""
    match request.path.partition("?")[0]:
        case "/v1/_ping":
            request.answer(body="true", headers={"X-Docker-Registry-Version": "0.9.1"})
        case "/v1/repositories/test/app/images":
            request.answer(body=f'[{{"id": "{IMAGE}"}}]', headers={"X-Docker-Token": "signature=1"})
        case "/v1/repositories/test/app/tags":
            request.answer(body={"1.0": IMAGE, "latest": IMAGE})
        case _:
            request.answer(404)


@pytest.fixture
def old() -> Iterator[Scripted]:
    with scripted(registry) as server:
        yield server


def seen(server: Scripted, path: str) -> list[dict[str, str]]:
    return [headers for _, asked, headers in server.requests if asked == path]


def test_tags_and_what_is_known_of_a_v1_registry(tmp_path: Path, old: Scripted) -> None:
    with HostBench(tmp_path / "e", "") as bench:
        found = bench.run("tags", f"{old.host}/test/app")
        assert [(row["repository"], row["tag"]) for row in found] == [
            (f"{old.host}/test/app", "1.0"),
            (f"{old.host}/test/app", "latest"),
        ]
        (known,) = bench.run("registries")
    assert (known["host"], known["api"], known["server"]) == (old.host, "v1", "0.9.1")
    assert (known["scheme"], known["auth"]) == ("http", "")


@pytest.mark.parametrize(
    ("job", "name", "words"),
    [
        ("catalog", "", "which does not list its repositories; 'search HOST/' shows"),
        ("referrers", "/test/app:1.0", "where nothing belongs to an image; copy it to a registry"),
        ("raw", "/test/app:1.0", "whose images have no manifest; pull it"),
    ],
)
def test_what_v1_has_no_form_of_is_said_with_what_to_do_instead(
    tmp_path: Path, old: Scripted, job: str, name: str, words: str
) -> None:
    with HostBench(tmp_path / "e", "") as bench:
        run = bench.job(job, f"{old.host}{name}")
        run.run()
        assert run.end is not None and run.end.code == "needs-v2"
    assert f"{old.host} speaks V1, {words.replace('HOST', old.host)}" in run.end.message


def test_a_v1_registry_is_no_mirror_and_has_none(tmp_path: Path, old: Scripted) -> None:
    hosts = section("registry.example", mirrors=[old.host], origin="never")
    with HostBench(tmp_path / "e", hosts) as bench:
        said = bench.fail("pull", "registry.example/test/app:1.0")
        assert f"{old.host} speaks V1, and so is no mirror; take it out of the mirrors" in said
    hosts = section(old.host, mirrors=["127.0.0.1:1"])
    with HostBench(tmp_path / "f", hosts) as bench:
        said = bench.fail("pull", f"{old.host}/test/app:1.0")
        assert f"{old.host} speaks V1, which has no mirrors; take them out of its section" in said


def test_a_host_that_speaks_both_is_spoken_to_as_its_section_says(tmp_path: Path) -> None:
    def both(request: Request) -> None:
        if request.path == "/v2/":
            request.answer(headers={"Docker-Distribution-Api-Version": "registry/2.0"})
        elif request.path.startswith("/v2/test/app/tags/list"):
            request.answer(body={"tags": ["new"]})
        else:
            registry(request)

    with scripted(both) as server:
        for version, tags in (("", ["new"]), ("v2", ["new"]), ("v1", ["1.0", "latest"])):
            hosts = section(server.host, version=version)
            with HostBench(tmp_path / f"e{version}", hosts) as bench:
                found = bench.run("tags", f"{server.host}/test/app")
                assert [row["tag"] for row in found] == tags
        with HostBench(tmp_path / "e", "") as bench:
            assert [row["tag"] for row in bench.run("tags", f"{server.host}/test/app")] == ["new"]
            (tmp_path / "e" / "registries.toml").write_text(section(server.host, version="v1"))
            assert bench.engine.reload() == [("registry", None)]
            found = bench.run("tags", f"{server.host}/test/app")
            assert [row["tag"] for row in found] == ["1.0", "latest"]


def test_credentials_and_headers_go_where_they_belong(tmp_path: Path) -> None:
    """To the index, and to a registry without one over https with each request; nothing to a
    server that they are not for."""
    images, tags = "/v1/repositories/test/app/images", "/v1/repositories/test/app/tags"
    authority = Authority(tmp_path)
    env: dict[str, Any] = {"authConfig": CREDENTIALS, "metaHeaders": {"X-Meta": ["one", "two"]}}
    with (
        scripted(registry, authority) as server,
        HostBench(tmp_path / "e", "", certs_dirs=[str(tmp_path)]) as bench,
    ):
        bench.run("tags", f"{server.host}/test/app", **env)
        for path in (images, tags):
            (headers,) = seen(server, path)
            assert (headers["Authorization"], headers["X-Meta"]) == (BASIC, "one, two")
        server.requests.clear()
        other = {**CREDENTIALS, "serveraddress": "other.example"}
        bench.run("tags", f"{server.host}/test/app", authConfig=other)
        assert "Authorization" not in seen(server, images)[0]


def test_the_daemon_s_own_credentials_are_for_who_sends_none(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret\n")
    (tmp_path / "secret").chmod(0o600)
    path = "/v1/repositories/test/app/images"

    def refuses(request: Request) -> None:
        if request.path == path and request.headers.get("Authorization") == BASIC:
            request.answer(401)
        else:
            registry(request)

    with scripted(registry) as server:
        hosts = section(server.host, username="ann", password_file=tmp_path / "secret")
        with HostBench(tmp_path / "e", hosts) as bench:
            bench.run("tags", f"{server.host}/test/app")
            assert seen(server, path)[-1]["Authorization"] == BASIC
            server.handler = refuses
            said = bench.fail("tags", f"{server.host}/test/app")
    assert "the daemon's own credentials were refused" in said
    assert "ann" not in said


def test_what_a_v1_registry_fails_with_is_said_as_of_v2(tmp_path: Path, old: Scripted) -> None:
    with HostBench(tmp_path / "e", "") as bench:
        for name, code in (("test/none", "does-not-exist"), ("a/b/c", "invalid-repository-name")):
            job = bench.job("tags", f"{old.host}/{name}")
            job.run()
            assert job.end is not None and job.end.code == code


def test_a_tag_is_deleted_and_the_image_stays(tmp_path: Path) -> None:
    chain = random_chain(1)
    with V1Registry() as server, HostBench(tmp_path / "e", "") as bench:
        push_chain(server, "test/app", ["1.0", "2.0"], chain)
        name = f"{server.host}/test/app"
        assert bench.run("delete", f"{name}:1.0") == [
            {"reference": f"{name}:1.0", "digest": chain.id, "state": "untagged"}
        ]
        assert server.tags("test/app") == {"2.0": chain.id}
        assert set(server.image_ids()) == {one.id for one in chain.images}
        job = bench.job("delete", f"{name}:1.0")
        job.run()
        assert job.end is not None and job.end.code == "does-not-exist"
        said = bench.fail("delete", f"{name}@sha256:{chain.id}")
        assert "speaks V1, whose images have no digest; name a tag" in said
        assert server.tags("test/app") == {"2.0": chain.id}


@pytest.mark.parametrize(
    ("repository", "words"),
    [("a/b/c", "has no further '/', such as 'a-b/c'"), ("x/app", "not 'x'")],
)
def test_a_name_that_v1_does_not_have_is_refused_before_anything_is_sent(
    tmp_path: Path, old: Scripted, repository: str, words: str
) -> None:
    name = f"{old.host}/{repository}"
    with Registry() as new, HostBench(tmp_path / "e", "") as bench:
        push_image(new, repository, "1", random_image(1))
        here = f"{new.host}/{repository}:1"
        bench.run("pull", here)
        bench.run("tag", here, f"{name}:1")
        calls: list[tuple[str, ...]] = [
            ("tags", name),
            ("pull", f"{name}:1"),
            ("inspect", f"{name}:2"),  # the store has no such image
            ("delete", f"{name}:1"),
            ("push", f"{name}:1"),
            ("copy", f"{name}:1", here),
            ("copy", here, f"{name}:1"),
        ]
        for call in calls:
            job = bench.job(*call)
            assert job.run() is Status.USAGE, call
            assert job.end is not None
            assert job.end.code == "invalid-repository-name"
            assert f"'{name}': {old.host} speaks V1, which" in job.end.message
            assert words in job.end.message
        assert new.tags(repository) == ["1"]
    assert {path for _, path, _ in old.requests} == {"/v2/", "/v1/_ping"}


def test_the_products_of_the_configuration_are_named_on_v1_too(
    tmp_path: Path, old: Scripted
) -> None:
    with HostBench(tmp_path / "e", "", user_agent=["builder/2"]) as bench:
        bench.run("tags", f"{old.host}/test/app", metaHeaders={"X-Meta": ["a"]})
    agents = {headers["User-Agent"] for _, _, headers in old.requests}
    assert agents == {"builder/2 registry-engine/0.1"}
