"""Debian's docker-registry with tokens, from a token server of the tests' own."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support_hosts import HERE, HostBench
from support_real import docker_registry
from support_tokens import Front, TokenServer, counting_front, token_server

from registry_service.testing import Registry
from registry_service.testing.images import Image, push_image, random_image

ANN, BOB = "ann's s3cr3t", "b0b's s3cr3t"
USERS = {"ann": ANN, "bob": BOB}
ACCESS = {
    "ann": {"team/app": "pull,push", "team/other": "pull,push", "open/app": "pull,push"},
    "bob": {"team/app": "pull"},
    "": {"open/app": "pull"},
}
LAYERS = 4


class Scene:
    """A docker-registry whose tokens come from ``tokens``, seen through ``front``; an engine that
    has the image as ``source`` in its store, and ``other``, which has none."""

    def __init__(
        self,
        bench: HostBench,
        other: HostBench,
        tokens: TokenServer,
        front: Front,
        source: str,
    ) -> None:
        self.bench, self.other = bench, other
        self.tokens, self.front, self.source = tokens, front, source
        self.host = front.host

    def name(self, repository: str = "team/app") -> str:
        return f"{self.host}/{repository}:1"

    def push(self, repository: str = "team/app", **env: Any) -> list[dict[str, Any]]:
        env = env or {"authConfig": auth("ann")}
        self.bench.run("tag", self.source, self.name(repository))
        return self.bench.run("push", self.name(repository), **env)


def auth(user: str, **more: str) -> dict[str, str]:
    return more or {"username": user, "password": USERS[user]}


@pytest.fixture(scope="module")
def image() -> Image:
    return random_image(1, layers=LAYERS, layer_size=50_000, platform=HERE)


@contextlib.contextmanager
def scene(tmp_path: Path, image: Image, hosts: str = "", **options: Any) -> Iterator[Scene]:
    with (
        token_server(tmp_path, users=USERS, access=ACCESS, **options) as tokens,
        docker_registry(tmp_path / "registry", extra={"auth": tokens.settings}) as behind,
        counting_front(behind) as front,
        Registry() as origin,
        HostBench(tmp_path / "conf", hosts) as bench,
        HostBench(tmp_path / "other", hosts) as other,
    ):
        push_image(origin, "test/app", "1", image)
        bench.run("pull", f"{origin.host}/test/app:1")
        yield Scene(bench, other, tokens, front, f"{origin.host}/test/app:1")


def bytes_down(front: Front) -> dict[str, int]:
    """Of each blob the bytes that came down."""
    found: dict[str, int] = {}
    for one in front.passed:
        if one.method == "GET" and "/blobs/sha256:" in one.path and one.status in (200, 206):
            digest = one.path.rpartition("/")[2]
            found[digest] = found.get(digest, 0) + one.got
    return found


def bytes_up(front: Front) -> int:
    """The bytes of blobs that the registry took."""
    return sum(
        one.sent for one in front.passed if "/blobs/uploads/" in one.path and one.status < 300
    )


def sizes(image: Image) -> dict[str, int]:
    return {digest: len(raw) for digest, raw in image.blobs.items()}


def test_a_token_does_for_many_requests_and_for_the_next_job(tmp_path: Path, image: Image) -> None:
    with scene(tmp_path, image) as here:
        assert here.push()[-1]["state"] == "pushed"
        pushed = here.tokens.asked
        assert {(one.method, one.user, one.status) for one in pushed} == {("GET", "ann", 200)}
        # to look what is there takes less than to add to it
        assert [one.scopes for one in pushed] == [
            ("repository:team/app:pull",),
            ("repository:team/app:pull,push",),
        ]
        assert sum("/team/app/" in one.path for one in here.front.passed) > LAYERS * 2
        assert {one.status for one in here.front.passed if one.authorization} <= {
            200,
            201,
            202,
            404,
        }

        rows = here.other.run("pull", here.name(), authConfig=auth("bob"))
        assert rows[-1]["digest"] == image.digest
        assert [one.user for one in here.tokens.asked[2:]] == ["bob"]
        assert here.tokens.asked[-1].scopes == ("repository:team/app:pull",)
        # what is good for more is good for less, by the next job as well
        here.bench.run("pull", here.name(), authConfig=auth("ann"))
        assert len(here.tokens.asked) == 3


def test_a_push_asks_for_more_than_the_pull_before_it(tmp_path: Path, image: Image) -> None:
    with scene(tmp_path, image) as here:
        here.push()
        here.other.run("pull", here.name(), authConfig=auth("ann"))
        here.other.run("tag", here.name(), here.name("team/other"))
        rows = here.other.run("push", here.name("team/other"), authConfig=auth("ann"))
        pulled, *wider = (one.scopes for one in here.tokens.asked[2:])
        assert pulled == ("repository:team/app:pull",)
        # to mount from the one into the other takes both
        assert ("repository:team/other:pull,push", "repository:team/app:pull") in wider
        assert {row["state"] for row in rows} == {"mounted", "pushed"}
        assert bytes_up(here.front) == sum(sizes(image).values())


class Ending:
    """Holds the first request that ``chosen`` says (method, path), once its token has been good
    for another one like it, until the registry takes that token no more."""

    def __init__(self, front: Front, chosen: Callable[[str, str], bool]) -> None:
        self.ended = ""
        self._front, self._chosen = front, chosen
        self._lock = threading.Lock()
        self._good: set[str] = set()
        front.before = self

    def __call__(self, method: str, path: str, given: str) -> None:
        if not given or not self._chosen(method, path):
            return
        with self._lock:
            mine = given in self._good and not self.ended
            self._good.add(given)
            self.ended = given if mine else self.ended
        if mine:
            self._front.wait_for_the_end_of(given)


@pytest.mark.parametrize("told", [None, 1, 300], ids=["untold", "told", "told wrongly"])
def test_a_token_that_ends_in_the_middle_of_a_pull_is_followed_by_another(
    tmp_path: Path, image: Image, told: int | None
) -> None:
    with scene(tmp_path, image) as here:
        here.push()
        here.tokens.lives, here.tokens.told = [2.0], told
        ending = Ending(here.front, lambda method, path: "/blobs/" in path)
        rows = here.other.run("pull", here.name(), authConfig=auth("bob"))
        assert rows[-1]["digest"] == image.digest
        assert here.other.broken() == []
        assert ending.ended, "no token ended"
        assert [one.user for one in here.tokens.asked[2:]] == ["bob", "bob"]
        assert bytes_down(here.front) == sizes(image)


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH"])
def test_a_token_that_ends_in_the_middle_of_a_push_is_followed_by_another(
    tmp_path: Path, image: Image, method: str
) -> None:
    hosts = "[default]\nchunk = 20000\n" if method == "PATCH" else ""
    with scene(tmp_path, image, hosts) as here:
        here.tokens.lives = [3600, 2.0]
        ending = Ending(here.front, lambda sent, path: sent == method and "/blobs/" in path)
        assert here.push()[-1]["state"] == "pushed"
        assert ending.ended, "no token ended"
        assert len(here.tokens.asked) == 3
        assert bytes_up(here.front) == sum(sizes(image).values())
        refused = [one for one in here.front.passed if one.status == 401 and one.authorization]
        assert 1 <= len(refused) <= LAYERS + 1  # each of those under way, once
        here.front.before = lambda method, path, given: None
        pulled = here.other.run("pull", here.name(), authConfig=auth("bob"))
        assert pulled[-1]["digest"] == image.digest
        assert here.other.broken() == []


REFUSALS = [
    (
        "push",
        {"authConfig": auth("bob")},
        "refuses the user 'bob' for repository:team/app:pull,push",
    ),
    ("push", {}, "asks for a login"),
    ("pull", {}, "asks for a login"),
    (
        "pull",
        {"authConfig": {"username": "ann", "password": "wr0ng"}},
        "the user name 'ann' or its password was refused",
    ),
    (
        "pull",
        {"authConfig": {"identitytoken": "wr0ng-t0ken"}},
        "the identity token was refused; log in again",
    ),
]


def test_who_may_not_is_told_so_and_leaves_nothing(tmp_path: Path, image: Image) -> None:
    with scene(tmp_path, image) as here:
        here.push()
        here.bench.run("tag", here.source, f"{here.host}/team/app:2")
        there = here.bench.names
        for job, env, words in REFUSALS:
            before = len(here.front.passed)
            message = here.bench.fail(job, f"{here.host}/team/app:2", **env)
            assert words in message and here.host in message
            for secret in (BOB, ANN, "wr0ng"):
                assert secret not in message
            assert all(one.status >= 401 for one in here.front.passed[before:] if one.sent)
        before = len(here.front.passed)
        message = here.bench.fail("pull", here.name("team/other"), authConfig=auth("bob"))
        assert "refuses the user 'bob'" in message
        tried = [one for one in here.front.passed[before:] if "/team/other/" in one.path]
        assert len(tried) == 2  # with the token, and with another one: after that it is a refusal
        assert here.bench.names == there


def test_everybody_may_have_what_is_open(tmp_path: Path, image: Image) -> None:
    with scene(tmp_path, image) as here:
        here.push("open/app")
        rows = here.other.run("pull", here.name("open/app"))
        assert rows[-1]["digest"] == image.digest
        assert (here.tokens.asked[-1].grant, here.tokens.asked[-1].status) == ("", 200)


def test_an_identity_token_is_exchanged_by_post(tmp_path: Path, image: Image) -> None:
    with scene(tmp_path, image) as here:
        (identity,) = (token for token, user in here.tokens.identities.items() if user == "ann")
        here.push(authConfig={"username": "ann", "identitytoken": identity})
        shown = {(one.method, one.grant, one.user) for one in here.tokens.asked}
        assert shown == {("POST", "refresh_token", "ann")}


@pytest.mark.parametrize(
    ("method", "config"),
    [
        ("POST", {"username": "ann", "password": ANN}),
        ("GET", {"username": "ann", "identitytoken": "identity-of-ann-0123456789"}),
    ],
)
def test_a_token_server_that_knows_one_of_the_two_ways(
    tmp_path: Path, image: Image, method: str, config: dict[str, str]
) -> None:
    with scene(tmp_path, image, methods=(method,)) as here:
        assert here.push(authConfig=config)[-1]["state"] == "pushed"
        good = {(one.method, one.grant) for one in here.tokens.asked if one.status == 200}
        assert good == {(method, "password")}
