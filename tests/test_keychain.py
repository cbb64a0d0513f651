"""A user's own credentials: where they are looked for, helpers, storing and removing."""

from __future__ import annotations

import base64
import json
import os
import stat
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support_helper import FakeHelper

from registry_service.constants import INDEXSERVER
from registry_service.credentials import AuthConfig
from registry_service.errors import (
    ConfigFileMissingError,
    CredentialsError,
    CredentialStoreError,
)
from registry_service.keychain import Helper, Keychain, Place, credentials_env, places_of
from registry_service.keychain.conversation import converse

SECRET = "s3cr3t-Passw0rd"
HOST = "r.example:5000"


def pair(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


class Home:
    """A user's home, and the environment that goes with it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.environ = {
            "HOME": str(root),
            "XDG_RUNTIME_DIR": str(root / "run"),
            "PATH": "/usr/bin:/bin",
        }

    @property
    def docker(self) -> Path:
        return self.root / ".docker" / "config.json"

    @property
    def podman(self) -> Path:
        return self.root / "run" / "containers" / "auth.json"

    @property
    def keychain(self) -> Keychain:
        return Keychain.of_user(self.environ)

    def write(self, path: Path, document: Any) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(document if isinstance(document, str) else json.dumps(document))
        path.chmod(0o600)
        return path

    def entry(self, path: Path, user: str, key: str = HOST, secret: str = SECRET) -> Path:
        return self.write(path, {"auths": {key: {"auth": pair(f"{user}:{secret}")}}})


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


@pytest.fixture
def helper(home: Home, tmp_path: Path) -> FakeHelper:
    made = FakeHelper(tmp_path / "helper")
    home.environ["PATH"] = made.path
    return made


# the places


def test_the_places_and_their_order(home: Home) -> None:
    assert [one.path for one in places_of(home.environ, 7)] == [
        home.docker,
        home.podman,
        home.root / ".config" / "containers" / "auth.json",
        home.root / ".dockercfg",
    ]
    bare = places_of({"HOME": "/h", "XDG_RUNTIME_DIR": "not/absolute"}, 7)
    assert bare[1].path == Path("/run/containers/7/auth.json")
    own = places_of({"HOME": "/h", "XDG_RUNTIME_DIR": "/run"}, 7)
    assert own[1].path == Path("/run/containers/auth.json")
    moved = places_of({**home.environ, "DOCKER_CONFIG": "/d"}, 7)
    assert moved[0].path == Path("/d/config.json")
    assert moved[1:] == places_of(home.environ, 7)[1:]
    (only,) = places_of({**home.environ, "REGISTRY_AUTH_FILE": "/a.json"}, 7)
    assert only.path == Path("/a.json")


@pytest.fixture
def closed() -> Iterator[Path]:
    """A directory that this process may not look into, whoever it runs as."""
    with tempfile.TemporaryDirectory() as text:
        root = Path(text)
        root.chmod(0o755)
        (root / "containers").mkdir(mode=0o700)
        uid = os.geteuid()
        if uid:
            (root / "containers").chmod(0)
        else:
            os.seteuid(65534)
        try:
            yield root / "containers"
        finally:
            os.seteuid(uid)
            (root / "containers").chmod(0o700)


def test_a_place_of_podman_s_that_is_closed_to_the_user_has_nothing_of_his(closed: Path) -> None:
    """Where root uses podman, ``/run/containers`` is root's alone, and a user without
    XDG_RUNTIME_DIR (cron, su) would get no command done."""
    bare = places_of({"HOME": "/h"}, 7)
    assert [one.shared for one in bare] == [False, True, False, False]
    assert not any(one.shared for one in places_of({"HOME": "/h", "XDG_RUNTIME_DIR": "/x"}, 7))
    path = closed / "7" / "auth.json"
    found = Keychain([Place(path=path, shared=True)], environ={}).find(HOST)
    assert found.auth_config.empty and found.searched == (str(path),)
    # what is the user's own, and cannot be read, is an error
    with pytest.raises(CredentialStoreError, match="Permission denied"):
        Keychain([Place(path=path)], environ={}).find(HOST)


def test_without_a_home_the_user_database_says_where_it_is() -> None:
    assert places_of({}, os.getuid())[-1].path == Path("~").expanduser() / ".dockercfg"
    assert places_of({}, 2**31 - 7)[-1].path == Path("/.dockercfg")


def test_the_first_file_that_has_some_answers_and_is_named(home: Home) -> None:
    nothing = home.keychain.find(HOST)
    assert (nothing.auth_config, nothing.source) == (AuthConfig(), "")
    assert nothing.searched == tuple(str(one.path) for one in places_of(home.environ, 7))

    legacy = home.write(
        home.root / ".dockercfg", {HOST: {"auth": pair("legacy:x"), "email": "a@b.example"}}
    )
    assert home.keychain.find(HOST).source == str(legacy)
    home.entry(home.podman, "podman")
    assert home.keychain.find(HOST).source == str(home.podman)
    home.entry(home.docker, "docker")
    found = home.keychain.find(HOST)
    assert (found.source, found.auth_config.username) == (str(home.docker), "docker")
    assert found.auth_config.server_address == HOST
    assert found.searched == (str(home.docker),)
    home.write(home.docker, {"auths": {HOST: {}}})
    assert home.keychain.find(HOST).source == str(home.podman)


def test_a_named_file_is_the_only_one_and_must_be_there(home: Home, tmp_path: Path) -> None:
    home.entry(home.docker, "docker")
    named = tmp_path / "mine.json"
    home.environ["REGISTRY_AUTH_FILE"] = str(named)
    with pytest.raises(ConfigFileMissingError, match=f"REGISTRY_AUTH_FILE={named}"):
        home.keychain.find(HOST)
    home.entry(named, "mine")
    assert home.keychain.find(HOST).auth_config.username == "mine"
    assert home.keychain.find("other.example").auth_config.empty


def test_of_podman_s_keys_the_most_specific_counts(home: Home) -> None:
    keys = {"q.io": "all", "q.io/team": "team", "q.io/team/app": "app"}
    home.write(
        home.podman,
        {"auths": {key: {"auth": pair(f"{user}:x")} for key, user in keys.items()}},
    )

    def user(asked: str) -> str:
        return home.keychain.find(asked).auth_config.username

    assert user("q.io/team/app") == "app"
    assert user("q.io/team/other") == "team"
    assert user("q.io/else") == "all"
    assert user("q.io") == "all"


def test_the_public_index_under_any_of_its_names(home: Home) -> None:
    home.entry(home.docker, "hub", INDEXSERVER)
    for name in ("", "docker.io", "index.docker.io", "docker.io/library/alpine", INDEXSERVER):
        found = home.keychain.find(name)
        assert (found.auth_config.username, found.auth_config.server_address) == (
            "hub",
            INDEXSERVER,
        )


def test_a_file_that_others_may_read_is_warned_of(home: Home) -> None:
    home.entry(home.docker, "ann").chmod(0o644)
    (warning,) = home.keychain.find(HOST).warnings
    assert str(home.docker) in warning
    assert "chmod 600" in warning


def test_a_file_that_cannot_be_read_is_an_error_and_not_passed_over(home: Home) -> None:
    home.write(home.docker, "{")
    home.entry(home.podman, "podman")
    with pytest.raises(CredentialsError, match=str(home.docker)):
        home.keychain.find(HOST)


def test_only_headers_for_registries_are_sent(home: Home) -> None:
    assert home.keychain.meta_headers() == {}
    home.write(home.docker, {"HttpHeaders": {"User-Agent": "x", "X-Meta-Team": "red"}})
    assert home.keychain.meta_headers() == {"X-Meta-Team": ("red",)}


def test_the_env_for_clients_of_python(home: Home) -> None:
    assert credentials_env(f"{HOST}/app:1", home.environ) == {}
    home.entry(home.docker, "ann")
    document = json.loads(home.docker.read_text())
    home.write(home.docker, {**document, "HttpHeaders": {"X-Meta-Team": "red"}})
    assert credentials_env(f"{HOST}/app:1", home.environ) == {
        "authConfig": {"username": "ann", "password": SECRET, "serveraddress": HOST},
        "metaHeaders": {"X-Meta-Team": ["red"]},
    }


# helpers


def test_a_helper_gets_stores_lists_and_erases(helper: FakeHelper, home: Home) -> None:
    one = Helper(name="fake", environ=home.environ)
    assert one.get(HOST) is None
    assert one.erase(HOST) is False
    one.store(HOST, AuthConfig(username="ann", password=SECRET))
    found = one.get(HOST)
    assert found == AuthConfig(username="ann", password=SECRET, server_address=HOST)
    assert one.list() == {HOST: "ann"}
    assert one.erase(HOST) is True
    assert one.list() == {}
    assert SECRET not in json.dumps(helper.calls)


def test_the_token_user_is_an_identity_token(helper: FakeHelper, home: Home) -> None:
    one = Helper(name="fake", environ=home.environ)
    one.store(HOST, AuthConfig(username="ann", identity_token="id-token"))
    assert helper.kept == {HOST: {"Username": "<token>", "Secret": "id-token"}}
    found = one.get(HOST)
    assert found is not None
    assert (found.identity_token, found.password) == ("id-token", "")


@pytest.mark.parametrize("name", ["none", "../../bin/sh", "a/b", "", "fa ke", "x\n"])
def test_a_program_that_is_not_there_is_named(helper: FakeHelper, home: Home, name: str) -> None:
    with pytest.raises(CredentialStoreError, match=r"docker-credential-.*no such program"):
        Helper(name=name, environ=home.environ).get(HOST)
    assert helper.calls == []


def test_a_helper_that_hangs_is_ended_with_all_that_it_started(
    helper: FakeHelper, home: Home
) -> None:
    helper.misbehave("hang")
    started = time.monotonic()
    with pytest.raises(CredentialStoreError, match=r"docker-credential-fake: no answer to 'get'"):
        Helper(name="fake", environ=home.environ, timeout=1.0).get(HOST)
    assert time.monotonic() - started < 10
    assert helper.ended()


@pytest.mark.parametrize(
    ("mode", "words"),
    [
        ("flood", "longer than"),
        ("leak", "'get' for r.example:5000 failed$"),
        ("locked", "failed: the keyring is locked"),
        ("garbage", "not a JSON map"),
    ],
)
def test_a_helper_that_fails_is_told_without_a_secret(
    helper: FakeHelper, home: Home, mode: str, words: str, capfd: pytest.CaptureFixture[str]
) -> None:
    helper.keep(HOST, "ann", SECRET)
    helper.misbehave(mode)
    one = Helper(name="fake", environ=home.environ)
    with pytest.raises(CredentialStoreError, match=words) as caught:
        one.get(HOST)
    assert SECRET not in str(caught.value)
    with pytest.raises(CredentialStoreError) as caught:
        one.store(HOST, AuthConfig(username="ann", password=SECRET))
        one.list()  # where storing has no answer to be wrong
    assert SECRET not in str(caught.value)
    assert SECRET not in "".join(capfd.readouterr())


def test_credential_helpers_come_before_the_store_and_the_file(
    helper: FakeHelper, home: Home, tmp_path: Path
) -> None:
    other = FakeHelper(tmp_path / "other", "other")
    home.environ["PATH"] = f"{helper.place}:{other.path}"
    home.write(
        home.docker,
        {
            "auths": {HOST: {"auth": pair("file:x")}, "f.example": {"auth": pair("file:x")}},
            "credsStore": "fake",
            "credHelpers": {"o.example": "other"},
        },
    )
    helper.keep(HOST, "store", SECRET)
    helper.keep("https://u.example", "url", SECRET)
    helper.keep("o.example", "wrong", SECRET)
    helper.keep(INDEXSERVER, "hub", SECRET)
    other.keep("o.example", "other", SECRET)
    store = f"docker-credential-fake (credsStore in {home.docker})"
    helpers = f"docker-credential-other (credHelpers in {home.docker})"
    for asked, user, source in (
        (HOST, "store", store),
        (f"{HOST}/team/app", "store", store),
        ("u.example", "url", store),
        ("o.example", "other", helpers),
        ("docker.io/library/alpine", "hub", store),
        ("f.example", "file", str(home.docker)),
    ):
        found = home.keychain.find(asked)
        assert (found.auth_config.username, found.source) == (user, source)
    nothing = home.keychain.find("n.example")
    assert nothing.auth_config.empty
    assert nothing.searched[:2] == (str(home.docker), store)


def test_an_entry_for_a_namespace_comes_before_a_helper_for_the_host(
    helper: FakeHelper, home: Home
) -> None:
    helper.keep("q.io", "store", SECRET)
    home.write(
        home.docker,
        {"auths": {"q.io/team": {"auth": pair("team:x")}}, "credsStore": "fake"},
    )
    assert home.keychain.find("q.io/team/app").auth_config.username == "team"
    assert home.keychain.find("q.io/else").auth_config.username == "store"


# storing and removing


def test_what_is_stored_is_found_and_removed(home: Home) -> None:
    home.write(
        home.docker, {"detachKeys": "ctrl-e,e", "auths": {"x.example": {"auth": pair("x:y")}}}
    )
    source = home.keychain.store(HOST, AuthConfig(username="ann", password=SECRET))
    assert source == str(home.docker)
    found = home.keychain.find(HOST)
    assert (found.auth_config.password, found.source) == (SECRET, source)
    assert stat.S_IMODE(home.docker.stat().st_mode) == 0o600
    removed = home.keychain.remove(HOST)
    assert (removed.sources, removed.left) == ((source,), "")
    assert home.keychain.find(HOST).auth_config.empty
    assert json.loads(home.docker.read_text()) == {
        "detachKeys": "ctrl-e,e",
        "auths": {"x.example": {"auth": pair("x:y")}},
    }
    assert home.keychain.remove(HOST).sources == ()


def test_the_first_login_makes_the_directory_and_the_last_logout_removes_the_file(
    home: Home,
) -> None:
    assert home.keychain.remove(HOST).sources == ()
    assert not home.root.exists()
    home.keychain.store("", AuthConfig(username="ann", identity_token="id-token"))
    assert json.loads(home.docker.read_text()) == {
        "auths": {INDEXSERVER: {"auth": pair("ann:"), "identitytoken": "id-token"}}
    }
    assert stat.S_IMODE(home.docker.parent.stat().st_mode) == 0o700
    assert home.keychain.remove("docker.io").sources == (str(home.docker),)
    assert list(home.docker.parent.iterdir()) == []


def test_a_helper_keeps_the_secret_and_the_file_says_that_there_is_a_login(
    helper: FakeHelper, home: Home
) -> None:
    home.write(
        home.docker,
        {"auths": {HOST: {"auth": pair(f"old:{SECRET}"), "other": 1}}, "credsStore": "fake"},
    )
    source = home.keychain.store(HOST, AuthConfig(username="ann", password=SECRET))
    assert source == f"docker-credential-fake (credsStore in {home.docker})"
    assert helper.kept == {HOST: {"Username": "ann", "Secret": SECRET}}
    assert json.loads(home.docker.read_text()) == {
        "auths": {HOST: {"other": 1}},
        "credsStore": "fake",
    }
    assert home.keychain.remove(HOST).sources == (source,)
    assert helper.kept == {}
    assert json.loads(home.docker.read_text()) == {"auths": {}, "credsStore": "fake"}


def test_where_a_helper_fails_nothing_is_written(helper: FakeHelper, home: Home) -> None:
    home.write(home.docker, {"credsStore": "fake"})
    helper.misbehave("leak")
    before = home.docker.read_bytes()
    with pytest.raises(CredentialStoreError) as caught:
        home.keychain.store(HOST, AuthConfig(username="ann", password=SECRET))
    assert SECRET not in str(caught.value)
    assert home.docker.read_bytes() == before


def test_a_login_takes_the_place_of_an_entry_that_cannot_be_read(home: Home) -> None:
    home.write(home.docker, {"auths": {HOST: {"auth": "%%"}}})
    home.keychain.store(HOST, AuthConfig(username="ann", password=SECRET))
    assert home.keychain.find(HOST).auth_config.username == "ann"
    home.write(home.docker, {"auths": {HOST: {"auth": "%%"}}})
    assert home.keychain.remove(HOST).sources == (str(home.docker),)
    assert not home.docker.exists()


@pytest.mark.parametrize("mode", ["locked", "garbage"])
def test_the_file_forgets_even_if_its_helper_fails(
    helper: FakeHelper, home: Home, mode: str
) -> None:
    home.write(
        home.docker, {"auths": {HOST: {"auth": pair(f"ann:{SECRET}")}}, "credsStore": "fake"}
    )
    helper.misbehave(mode)
    with pytest.raises(CredentialStoreError, match="docker-credential-fake"):
        home.keychain.remove(HOST)
    assert json.loads(home.docker.read_text()) == {"auths": {}, "credsStore": "fake"}


def test_every_address_of_the_host_is_removed_and_nothing_of_others(home: Home) -> None:
    entry = {"auth": pair("a:b")}
    others = {"r.example": entry, f"{HOST}/team": entry}
    home.write(home.docker, {"auths": {HOST: entry, f"https://{HOST}/v1/": entry, **others}})
    home.keychain.remove(HOST)
    assert json.loads(home.docker.read_text()) == {"auths": others}


def test_what_other_places_still_have_is_named(home: Home) -> None:
    home.entry(home.docker, "docker")
    home.entry(home.podman, "podman")
    removed = home.keychain.remove(HOST)
    assert (removed.sources, removed.left) == ((str(home.docker),), str(home.podman))
    assert home.podman.exists()


def test_a_named_file_is_where_a_login_goes(home: Home, tmp_path: Path) -> None:
    named = tmp_path / "new" / "auth.json"
    home.environ["REGISTRY_AUTH_FILE"] = str(named)
    home.keychain.store(HOST, AuthConfig(username="ann", password=SECRET))
    assert home.keychain.find(HOST).source == str(named)
    assert not home.docker.exists()
    removed = home.keychain.remove(HOST)
    assert (removed.sources, named.exists()) == ((str(named),), False)


def test_logins_at_once_lose_nothing(home: Home) -> None:
    hosts = [f"r{number}.example" for number in range(16)]
    threads = [
        threading.Thread(
            target=home.keychain.store, args=(host, AuthConfig(username=host, password="x"))
        )
        for host in hosts
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {home.keychain.find(host).auth_config.username for host in hosts} == set(hosts)


# what a program is told and what it answers


def talk(*command: str, given: bytes = b"", timeout: float = 30.0) -> tuple[int, bytes]:
    return converse(
        command, given, environ={"PATH": "/usr/bin:/bin"}, timeout=timeout, limit=4_000_000
    )


@pytest.mark.parametrize("size", [0, 1, 65_536, 1_000_000])
def test_what_is_given_arrives_and_comes_back_whole(size: int) -> None:
    given = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    assert talk("/bin/cat", given=given) == (0, given)


def test_a_program_that_does_not_read_is_no_failure() -> None:
    assert talk("/bin/sh", "-c", "exec 0<&-; echo well; exit 3", given=b"x" * 1_000_000) == (
        3,
        b"well\n",
    )


@pytest.mark.parametrize("script", ["exec 1>&-; exec sleep 600", "sleep 600 & exit 0"])
def test_the_time_is_bounded_whoever_holds_the_output(script: str) -> None:
    started = time.monotonic()
    with pytest.raises(TimeoutError):
        talk("/bin/sh", "-c", script, timeout=0.3)
    assert time.monotonic() - started < 10


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ("{}", "lacks 'Username' or 'Secret'"),
        ('{"Username": "a:b", "Secret": "x"}', "a user name holds no ':'"),
        ('{"Username": 1, "Secret": "x"}', "lacks"),
        (
            '{"ServerURL": "evil.example", "Username": "ann", "Secret": "pl4nted"}',
            f"its answer to 'get' for {HOST} is for another server, 'evil.example'",
        ),
    ],
)
def test_an_answer_that_is_no_answer(home: Home, tmp_path: Path, answer: str, words: str) -> None:
    script(home, tmp_path, f"cat <<'EOF'\n{answer}\nEOF")
    with pytest.raises(CredentialStoreError, match=words):
        Helper(name="odd", environ=home.environ).get(HOST)


@pytest.mark.parametrize("named", [HOST, f"https://{HOST}", f"https://{HOST.upper()}/v2/", ""])
def test_a_server_may_be_written_in_other_ways(home: Home, tmp_path: Path, named: str) -> None:
    answer = json.dumps({"ServerURL": named, "Username": "ann", "Secret": "pl4nted"})
    script(home, tmp_path, f"echo '{answer}'")
    found = Helper(name="odd", environ=home.environ).get(HOST)
    assert found is not None and found.username == "ann"


def test_an_answer_with_nothing_in_it_is_nothing(home: Home, tmp_path: Path) -> None:
    script(home, tmp_path, """echo '{"Username": "", "Secret": ""}'""")
    assert Helper(name="odd", environ=home.environ).get(HOST) is None


def test_erasing_what_another_erased_at_the_same_time_is_no_failure(
    home: Home, tmp_path: Path
) -> None:
    answer = '{"Username": "a", "Secret": "x"}'
    script(
        home,
        tmp_path,
        f"[ $1 = get ] && echo '{answer}' && exit 0; echo $said; exit 1",
    )
    home.environ["said"] = "credentials not found in native keychain"
    assert Helper(name="odd", environ=home.environ).erase(HOST) is False
    home.environ["said"] = "no"
    one = Helper(name="odd", environ=home.environ)
    with pytest.raises(CredentialStoreError, match=r"'erase' for r\.example:5000 failed: no$"):
        one.erase(HOST)
    with pytest.raises(CredentialStoreError, match=r"'list' failed: no$"):
        one.list()


def test_a_program_that_cannot_be_run(home: Home, tmp_path: Path) -> None:
    script(home, tmp_path, "").write_bytes(b"\x00 no program")
    with pytest.raises(CredentialStoreError, match="docker-credential-odd: it cannot be run"):
        Helper(name="odd", environ=home.environ).get(HOST)


def script(home: Home, place: Path, text: str) -> Path:
    """The helper ``odd``, which is that shell script."""
    program = place / "docker-credential-odd"
    program.write_text(f"#!/bin/sh\n{text}\n")
    program.chmod(0o755)
    home.environ["PATH"] = f"{place}:/usr/bin:/bin"
    return program
