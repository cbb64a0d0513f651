"""The same jobs on registries of both protocols: the same rows, the same errors."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
import trustme
from scripted import closed_port
from support_hosts import HostBench

from engine import Status
from registry_service.testing import Registry
from registry_service.testing.images import push_image, random_image
from registry_service.testing.server import TLSFiles
from registry_service.testing.v1 import V1Index, V1Registry
from registry_service.testing.v1.images import push_chain, random_chain

Kind = Literal["v2", "v1", "index"]
KINDS: list[Kind] = ["v2", "v1", "index"]
NAME = "test/app"
USERS = {"anna": "secret"}
ANN = {"username": "anna", "password": "secret"}
WRONG = "w-r-o-n-g"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A registry of one of the kinds, under the host that people name."""

    kind: Kind
    front: Registry | V1Registry | V1Index
    images: Registry | V1Registry

    @property
    def host(self) -> str:
        return self.front.host

    @property
    def name(self) -> str:
        return f"{self.host}/{NAME}"

    def push(self, *tags: str, repository: str = NAME) -> None:
        if isinstance(self.images, Registry):
            for tag in tags:
                push_image(self.images, repository, tag, random_image(1, layers=1))
        else:
            push_chain(self.images, repository, tags, random_chain(1))

    def hide(self) -> None:
        """Show the repository to its users only; where all are asked who they are, it is so."""
        if isinstance(self.front, V1Index):
            self.front.set_private(NAME)

    def tags(self) -> list[str]:
        return sorted(self.images.tags(NAME))


@contextlib.contextmanager
def serving(kind: Kind, **options: Any) -> Iterator[Server]:
    """``users`` are those who may come in."""
    with contextlib.ExitStack() as leaving:
        if kind == "v2":
            new = leaving.enter_context(Registry(**options))
            yield Server(kind=kind, front=new, images=new)
        elif kind == "v1":
            old = leaving.enter_context(V1Registry(**options))
            yield Server(kind=kind, front=old, images=old)
        else:
            options["accounts"] = options.pop("users", {})
            old = leaving.enter_context(V1Registry(role="registry"))
            index = leaving.enter_context(V1Index(registries=[old], **options))
            yield Server(kind=kind, front=index, images=old)


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Kind:
    found: Kind = request.param
    return found


@pytest.fixture(params=KINDS)
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    with serving(request.param) as made:
        yield made


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[HostBench]:
    with HostBench(tmp_path / "engine", "", retry_wait_max=0.05) as made:
        yield made


def outcome(bench: HostBench, job: str, *args: str, **env: Any) -> tuple[Status, str]:
    """The status of a job, and the code of its error."""
    run = bench.job(job, *args, **env)
    status = run.run()
    assert run.end is not None
    return status, run.end.code


# tags


def test_tags_are_listed(bench: HostBench, server: Server) -> None:
    server.push("1.0", "latest")
    found = bench.run("tags", server.name)
    assert found == [{"repository": server.name, "tag": tag} for tag in ("1.0", "latest")]


def test_what_is_not_there_does_not_exist(bench: HostBench, server: Server) -> None:
    server.push("1.0")
    none = f"{server.host}/test/none"
    calls = [
        ("tags", none),
        ("delete", f"{none}:1.0"),
        ("delete", f"{server.name}:2.0"),
        ("copy", f"{server.name}:2.0", f"{server.host}/test/copy"),
        ("copy", f"{none}:1.0", f"{server.host}/test/copy"),
    ]
    for call in calls:
        assert outcome(bench, *call) == (Status.ERROR, "does-not-exist"), call


def test_a_host_where_nobody_answers_is_unreachable(bench: HostBench) -> None:
    where = f"127.0.0.1:{closed_port()}"
    for job in ("tags", "search"):
        assert outcome(bench, job, f"{where}/{NAME}") == (Status.ERROR, "registry-unreachable")


@pytest.mark.parametrize("kind", KINDS)
def test_who_may_not_come_in_is_told_to_log_in(bench: HostBench, kind: Kind) -> None:
    with serving(kind, users=USERS) as server:
        server.push("1.0")
        server.hide()
        for job in ("tags", "delete", "copy"):
            name = server.name if job == "tags" else f"{server.name}:1.0"
            args = [name, f"{server.host}/test/copy"] if job == "copy" else [name]
            said = refused(bench, job, *args)
            assert f"{server.host} asks for a login" in said
            assert "give a user name and a password" in said
            said = refused(bench, job, *args, authConfig={**ANN, "password": WRONG})
            assert f"{server.host}: the user name 'anna' or its password was refused" in said
        assert server.tags() == ["1.0"]


def refused(bench: HostBench, job: str, *args: str, **env: Any) -> str:
    run = bench.job(job, *args, **env)
    assert run.run() is Status.ERROR
    assert run.end is not None and run.end.code == "login-required"
    told = run.end.message + run.stderr.text()
    assert WRONG not in told and base64.b64encode(f"anna:{WRONG}".encode()).decode() not in told
    return run.end.message


# search


def test_search_finds_the_most_stars_first(bench: HostBench, server: Server) -> None:
    for name, stars in (("alpine", 1), ("alpine-git", 7), ("debian", 9)):
        server.push("1.0", repository=f"team/{name}")
        server.front.describe(
            f"team/{name}", description=f"a {name}", star_count=stars, is_official=stars > 5
        )
    columns = ("name", "description", "star_count", "is_official", "is_trusted")
    found = bench.run("search", f"{server.host}/alpine")
    assert [tuple(row[one] for one in columns) for row in found] == [
        ("team/alpine-git", "a alpine-git", 7, True, False),
        ("team/alpine", "a alpine", 1, False, False),
    ]
    assert len(bench.run("search", f"{server.host}/alpine", limit=1)) == 1
    assert len(bench.run("search", f"{server.host}/", filters={"stars": 7})) == 2


def test_search_for_nothing_lists_all_there_is_page_after_page(
    bench: HostBench, server: Server
) -> None:
    names = [f"team/app{number:03}" for number in range(250)]
    for name in names:
        server.front.describe(name)
    found = bench.run("search", f"{server.host}/", limit=10_000)
    assert [row["name"] for row in found] == names


@pytest.mark.parametrize("kind", ["v1", "index"])
def test_what_is_private_is_found_by_who_may_see_it(bench: HostBench, kind: Kind) -> None:
    with serving(kind, users=USERS) as server:
        server.push("1.0", repository="anna/secret")
        server.front.describe("anna/secret")
        if isinstance(server.front, V1Index):
            server.front.set_private("anna/secret")
            assert bench.run("search", f"{server.host}/secret") == []
        found = bench.run("search", f"{server.host}/secret", authConfig=ANN)
        assert [row["name"] for row in found] == ["anna/secret"]


def test_the_index_in_force_is_searched_by_its_own_search(tmp_path: Path) -> None:
    with V1Index() as index:
        index.describe("team/app", star_count=3)
        index.describe("library/base", star_count=5)
        with HostBench(tmp_path / "e", "", index_server=index.endpoint) as bench:
            found = bench.run("search", "a")
    assert [row["name"] for row in found] == ["base", "team/app"]


# delete


@pytest.mark.parametrize("kind", ["v2", "v1"])
def test_a_tag_is_deleted_and_the_others_stay(bench: HostBench, kind: Kind) -> None:
    with serving(kind) as server:
        server.push("1.0", "2.0")
        (row,) = bench.run("delete", f"{server.name}:1.0")
        assert (row["reference"], row["state"]) == (f"{server.name}:1.0", "untagged")
        assert server.tags() == ["2.0"]
        assert outcome(bench, "delete", f"{server.name}:1.0") == (Status.ERROR, "does-not-exist")
        assert outcome(bench, "delete", server.name) == (Status.USAGE, "usage")


def test_an_index_gives_no_token_to_delete_a_tag_with(bench: HostBench) -> None:
    with serving("index", users=USERS) as server:
        server.push("1.0")
        run = outcome(bench, "delete", f"{server.name}:1.0", authConfig=ANN)
        assert run == (Status.ERROR, "deletion-off")
        assert server.tags() == ["1.0"]


# pull, push, inspect, copy


def test_an_image_goes_in_and_out_with_the_same_rows(bench: HostBench, kind: Kind) -> None:
    """Pulled, pulled again, pushed to another name, and copied back: the columns are the same,
    and so are the states but for what V1 has to be converted from."""
    index = kind == "index"  # nobody may push there without an account
    with serving(kind, **({"users": USERS} if index else {})) as server:
        server.push("1.0", repository="anna/app")
        name = f"{server.host}/anna/app"
        env: dict[str, Any] = {"authConfig": ANN} if index else {}
        pulled = bench.run("pull", f"{name}:1.0", **env)
        made = {"fetched"} if kind == "v2" else {"fetched", "converted"}
        assert {row["state"] for row in pulled} == made
        again = bench.run("pull", f"{name}:1.0", **env)
        assert {row["state"] for row in again} == {"exists"}
        assert [row["digest"] for row in again][-1] == pulled[-1]["digest"]
        bench.run("tag", f"{name}:1.0", f"{name}:2.0")
        pushed = bench.run("push", f"{name}:2.0", **env)
        assert {row["digest"] for row in pushed} == {row["digest"] for row in pulled}
        assert {row["state"] for row in bench.run("push", f"{name}:2.0", **env)} == {"exists"}
        assert [row["tag"] for row in bench.run("tags", name, **env)] == ["1.0", "2.0"]
        copied = bench.run("copy", f"{name}:2.0", f"{name}:3.0", **env)
        assert copied[-1]["state"] == "copied"
        assert {row["state"] for row in copied[:-1]} == {"exists"}
        columns = {tuple(row) for row in (*pulled, *pushed, *copied)}
        assert columns == {("reference", "digest", "media_type", "size", "state")}


def test_inspect_shows_the_same_of_the_store_and_of_the_registry(
    bench: HostBench, server: Server
) -> None:
    server.push("1.0")
    (there,) = bench.run("inspect", f"{server.name}:1.0")
    bench.run("pull", f"{server.name}:1.0", platform="linux/amd64")
    (here,) = bench.run("inspect", f"{server.name}:1.0")
    assert list(here) == list(there)
    assert (there["source"], here["source"]) == ("registry", "store")
    for column in ("reference", "platform", "created"):
        assert here[column] == there[column]
    assert here["config"]["config"] == there["config"]["config"]


@pytest.mark.parametrize("kind", ["v2", "v1"])
def test_credentials_let_in_over_https(tmp_path: Path, kind: Kind) -> None:
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem
    issued.write_to_path(str(tmp_path / "server.pem"))
    tls = TLSFiles(cert=tmp_path / "server.pem", key=tmp_path / "server.pem")
    with serving(kind, users=USERS, tls=tls) as server:
        trusted = tmp_path / "certs" / server.host
        trusted.mkdir(parents=True)
        authority.cert_pem.write_to_path(str(trusted / "ca.crt"))
        server.push("1.0", "2.0")
        with HostBench(tmp_path / "e", "", certs_dirs=[str(tmp_path / "certs")]) as bench:
            env = {"authConfig": {**ANN, "serveraddress": server.host}}
            bench.done(bench.job("auth", **env))
            assert len(bench.run("tags", server.name, **env)) == 2
            assert bench.run("search", f"{server.host}/app", **env)[0]["name"] == NAME
            bench.run("pull", f"{server.name}:1.0", **env)
            bench.run("copy", f"{server.name}:1.0", f"{server.host}/test/copy", **env)
            bench.run("delete", f"{server.name}:2.0", **env)
            assert server.tags() == ["1.0"]
            other = {"authConfig": {**ANN, "serveraddress": "other.example"}}
            for job in ("tags", "pull"):
                assert outcome(bench, job, server.name, **other)[1] == "login-required"


# what is known of registries


def test_registries_shows_what_each_speaks(bench: HostBench) -> None:
    with serving("v2") as new, serving("v1") as old, serving("index") as index:
        for one in (new, old, index):
            one.push("1.0")
            bench.run("tags", one.name)
        known = {row["host"]: (row["api"], row["auth"]) for row in bench.run("registries")}
        assert known == {
            new.host: ("v2", "none"),
            old.host: ("v1", ""),
            index.host: ("v1", "token"),
        }


# the whole way, as users have it


@pytest.mark.parametrize("job", ["tags", "search", "copy"])
def test_a_cancel_ends_whatever_it_waits_for(bench: HostBench, server: Server, job: str) -> None:
    server.push("1.0")
    assert bench.run("tags", server.name)  # so that it is known what it speaks
    hold = server.front.hold(path="search" if job == "search" else NAME)
    args = {
        "tags": [server.name],
        "search": [f"{server.host}/app"],
        "copy": [f"{server.name}:1.0", f"{server.host}/test/copy"],
    }
    run = bench.job(job, *args[job])
    thread = threading.Thread(target=run.run)
    thread.start()
    assert hold.entered.wait(30)
    run.cancel()
    thread.join(30)
    assert not thread.is_alive()
    assert run.status is Status.CANCELLED
    hold.release()
