"""`enginectl login` and `logout`, and the credentials that commands find by themselves."""

from __future__ import annotations

import base64
import dataclasses
import json
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import bcrypt
import pytest
from support_daemon import Daemon, Result, running_daemon
from support_helper import FakeHelper
from support_real import docker_registry, skopeo
from support_tokens import token_server

from registry_service.commands.login import normal_host
from registry_service.errors import LoginRequiredError
from registry_service.keychain import credentials_env
from registry_service.testing import Registry
from registry_service.testing.images import push_image, random_image

SECRET = "s3cr3t-Passw0rd"
USERS = {"ann": SECRET, "bob": "b0b-Passw0rd"}


class User:
    """Somebody with a home of his own who uses the daemon."""

    def __init__(self, daemon: Daemon, home: Path, **environ: str) -> None:
        home.mkdir(exist_ok=True)
        self.home = home
        self.environ = {**daemon.environ, "HOME": str(home), **environ}
        self._daemon = dataclasses.replace(daemon, environ=self.environ)

    @property
    def config(self) -> Path:
        return self.home / ".docker" / "config.json"

    @property
    def document(self) -> Any:
        return json.loads(self.config.read_text())

    def run(self, *args: str, stdin: str = "") -> Result:
        return self._daemon.run_ctl(*args, stdin=stdin)

    def start(self, *args: str) -> subprocess.Popen[str]:
        return self._daemon.start_ctl(*args)

    def well(self, *args: str, stdin: str = "") -> Result:
        done = self.run(*args, stdin=stdin)
        assert done.returncode == 0, done.stderr
        return done

    def login(self, host: str, user: str = "ann", password: str | None = None) -> Result:
        given = USERS[user] if password is None else password
        return self.run("login", host, "-u", user, "--password-stdin", stdin=given)

    def write(self, document: Any) -> None:
        self.config.parent.mkdir(exist_ok=True)
        self.config.write_text(json.dumps(document))
        self.config.chmod(0o600)


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with running_daemon(tmp_path_factory.mktemp("login") / "state") as made:
        yield made


@pytest.fixture
def ann(daemon: Daemon, tmp_path: Path) -> User:
    return User(daemon, tmp_path / "ann")


@pytest.fixture
def registry() -> Iterator[Registry]:
    """Bearer tokens; an image that ann may have and bob may not."""
    access = {"ann": ["*"], "bob": ["public/*"]}
    with Registry(auth="token", users=USERS, access=access) as made:
        push_image(made, "team/app", "1", random_image(1, layers=1))
        push_image(made, "public/app", "1", random_image(2, layers=1))
        yield made


def pair(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def users_of(registry: Registry, path: str) -> set[str]:
    return {one.user for one in registry.requests if path in one.path}


# login and logout


def test_behind_htpasswd_login_lets_everything_in_until_logout(
    daemon: Daemon, ann: User, tmp_path: Path
) -> None:
    htpasswd = tmp_path / "htpasswd"
    hashed = bcrypt.hashpw(SECRET.encode(), bcrypt.gensalt(4, prefix=b"2a"))
    htpasswd.write_bytes(b"ann:" + hashed + b"\n")
    with docker_registry(tmp_path / "registry", htpasswd=htpasswd) as host, Registry() as other:
        push_image(other, "app", "1", random_image(1, layers=1))
        ann.well("pull", f"{other.host}/app:1")
        ann.well("tag", f"{other.host}/app:1", f"{host}/app:1")

        wrong = ann.login(host, password="wrong horse")
        assert (wrong.returncode, wrong.stdout) == (1, "")
        assert "'ann' or its password was refused" in wrong.stderr
        assert not ann.config.parent.exists()
        refused = ann.run("push", f"{host}/app:1")
        assert refused.returncode == 1
        assert f"no credentials of yours were sent: {ann.config}" in refused.stderr

        right = ann.login(host)
        assert (right.returncode, right.stdout) == (0, "Login Succeeded\n")
        assert f"the password for {host} is kept in {ann.config}" in right.stderr
        assert ann.document == {"auths": {host: {"auth": pair(f"ann:{SECRET}")}}}
        assert stat.S_IMODE(ann.config.stat().st_mode) == 0o600

        ann.well("push", f"{host}/app:1")
        ann.well("pull", f"{host}/app:1")
        assert "1" in ann.well("tags", f"{host}/app").stdout
        ann.well("inspect", "--remote", f"{host}/app:1")
        assert "app" in ann.well("search", f"{host}/app").stdout
        checked = ann.well("auth", host)
        assert checked.stdout == "Login Succeeded\n"
        assert f"the credentials for {host} are from {ann.config}" in checked.stderr
        # and others read what is written
        skopeo(
            "inspect", "--tls-verify=false", f"--authfile={ann.config}", f"docker://{host}/app:1"
        )

        out = ann.well("logout", host)
        assert out.stdout == f"the credentials for {host} were removed from {ann.config}\n"
        assert not ann.config.exists()
        assert ann.run("pull", f"{host}/app:1").returncode == 1
        again = ann.well("logout", host)
        assert (again.stdout, f"no login for {host}" in again.stderr) == ("", True)
    assert SECRET not in daemon.log()
    assert "wrong horse" not in daemon.log()


def test_behind_a_token_server_login_lets_in_until_logout(
    daemon: Daemon, ann: User, tmp_path: Path
) -> None:
    access = {"ann": {"team/app": "pull,push"}}
    with (
        token_server(tmp_path, users=USERS, access=access) as tokens,
        docker_registry(tmp_path / "registry", extra={"auth": tokens.settings}) as host,
        Registry() as other,
    ):
        push_image(other, "team/app", "1", random_image(3, layers=2))
        ann.well("pull", f"{other.host}/team/app:1")
        ann.well("tag", f"{other.host}/team/app:1", f"{host}/team/app:1")

        wrong = ann.login(host, password="wr0ng-Passw0rd")
        assert wrong.returncode == 1
        assert f"{host}, whose tokens come from 127.0.0.1:" in wrong.stderr
        assert "the user name 'ann' or its password was refused" in wrong.stderr
        assert "wr0ng" not in wrong.stderr and not ann.config.exists()

        right = ann.login(host)
        assert right.stdout.strip() == "Login Succeeded"
        assert f"an identity token for {host} is kept in {ann.config}" in right.stderr
        assert SECRET not in ann.config.read_text()
        ann.well("push", f"{host}/team/app:1")
        assert tokens.asked[-1].grant == "refresh_token"
        ann.well("tags", f"{host}/team/app")
        denied = ann.run("tags", f"{host}/team/other")
        assert "refuses the user 'ann' for repository:team/other:pull" in denied.stderr
        assert '"Action"' not in denied.stderr  # the server's own form of the same

        ann.well("logout", host)
        assert not ann.config.exists()
        after = ann.run("tags", f"{host}/team/app")
        assert after.returncode == 1 and "asks for a login" in after.stderr
        log = daemon.log()
    assert SECRET not in log and not any(token in log for token in tokens.identities)


def test_what_podman_s_family_logs_in_with_is_found(
    daemon: Daemon, registry: Registry, tmp_path: Path
) -> None:
    runtime = tmp_path / "run"
    ann = User(daemon, tmp_path / "ann", XDG_RUNTIME_DIR=str(runtime))
    file = runtime / "containers" / "auth.json"
    file.parent.mkdir(parents=True)
    options = [f"--authfile={file}", "--tls-verify=false", "-u", "ann", "-p", SECRET]
    skopeo("login", *options, registry.host)
    done = ann.well("--verbose", "pull", f"{registry.host}/team/app:1")
    assert f"the credentials for {registry.host}/team/app are from {file}" in done.stderr
    left = ann.well("logout", registry.host)
    assert f"{file} still has credentials for {registry.host}" in left.stderr


def test_an_identity_token_is_kept_in_place_of_the_password(
    daemon: Daemon, registry: Registry, ann: User
) -> None:
    done = ann.login(registry.host)
    assert (done.returncode, done.stdout) == (0, "Login Succeeded\n")
    assert f"an identity token for {registry.host} is kept in {ann.config}" in done.stderr
    entry = ann.document["auths"][registry.host]
    assert (entry.keys(), entry["auth"]) == ({"auth", "identitytoken"}, pair("ann:"))
    registry.expire_tokens()
    registry.clear_requests()
    ann.well("pull", f"{registry.host}/team/app:1")
    assert {one.method for one in registry.requests if one.path.startswith("/token")} == {"POST"}
    assert users_of(registry, "/manifests/") == {"ann"}
    for secret in (entry["identitytoken"], SECRET):
        assert secret not in daemon.log()
        assert secret not in done.stderr + done.stdout

    registry.expire_tokens(refresh=True)
    refused = ann.run("pull", f"{registry.host}/team/app:1")
    assert refused.returncode == 1
    assert "the identity token was refused; log in again" in refused.stderr
    assert f"from {ann.config}" in refused.stderr


def test_an_identity_token_that_the_server_does_not_take_is_not_kept(
    registry: Registry, ann: User
) -> None:
    registry.add_fault("status:code=401,path=/token,method=POST")
    done = ann.login(registry.host)
    assert done.returncode == 0
    assert "hands out an identity token that it refuses" in done.stderr
    assert ann.document == {"auths": {registry.host: {"auth": pair(f"ann:{SECRET}")}}}


def test_credentials_that_are_refused_change_nothing(registry: Registry, ann: User) -> None:
    ann.write({"auths": {registry.host: {"auth": pair("old:pw")}}, "detachKeys": "ctrl-e,e"})
    before = ann.config.read_bytes()
    assert ann.login(registry.host, password="wrong horse").returncode == 1
    assert ann.config.read_bytes() == before
    nobody = ann.run("login", "127.0.0.1:1", "-u", "ann", "--password-stdin", stdin="x")
    assert nobody.returncode == 1
    assert ann.config.read_bytes() == before


def test_the_helper_of_the_configuration_keeps_it(
    daemon: Daemon, registry: Registry, tmp_path: Path
) -> None:
    helper = FakeHelper(tmp_path / "helper")
    ann = User(daemon, tmp_path / "ann", PATH=helper.path)
    ann.write({"credHelpers": {registry.host: "fake"}, "currentContext": "x"})
    done = ann.login(registry.host)
    source = f"docker-credential-fake (credHelpers in {ann.config})"
    assert f"is kept in {source}" in done.stderr
    assert helper.kept[registry.host]["Username"] == "<token>"
    assert ann.document == {
        "credHelpers": {registry.host: "fake"},
        "currentContext": "x",
        "auths": {registry.host: {}},
    }
    ann.well("pull", f"{registry.host}/team/app:1")
    assert source in ann.well("auth", registry.host).stderr
    assert ann.well("logout", registry.host).stdout == (
        f"the credentials for {registry.host} were removed from {source}\n"
    )
    assert helper.kept == {}


def test_a_helper_that_is_missing_is_named_and_can_be_done_without(
    registry: Registry, ann: User
) -> None:
    ann.write({"credsStore": "gone"})
    for command in (["pull", f"{registry.host}/team/app:1"], ["auth", registry.host]):
        done = ann.run(*command)
        assert done.returncode == 1
        assert "docker-credential-gone: there is no such program on the PATH" in done.stderr
        assert "--anonymous does without" in done.stderr
        assert "docker-credential" not in ann.run(*command, "--anonymous").stderr
    assert "docker-credential-gone" in ann.login(registry.host).stderr
    assert ann.document == {"credsStore": "gone"}


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["login", "r.example/team", "-u", "ann", "--password-stdin"], "without a repository"),
        (["login", "r.example:port", "-u", "ann", "--password-stdin"], "HOST"),
        (["login", "r.example"], "-u USER"),
        (["logout", "r.example/team"], "without a repository"),
        (["pull", "r.example/a", "-u", "ann", "--anonymous"], "--anonymous"),
        (["auth", "r.example", "--password-stdin", "--anonymous"], "--anonymous"),
    ],
)
def test_wrong_usage(ann: User, args: list[str], words: str) -> None:
    done = ann.run(*args, stdin="x")
    assert (done.returncode, done.stdout) == (2, "")
    assert words in done.stderr


def test_logout_needs_no_engine(ann: User) -> None:
    ann.write({"auths": {"r.example": {"auth": pair("ann:x")}}})
    done = subprocess.run(
        [sys.executable, "-m", "engine.cli", "--connect", "ipc:///nowhere", "logout", "r.example"],
        capture_output=True,
        text=True,
        env=ann.environ,
    )
    assert (done.returncode, ann.config.exists()) == (0, False)


def test_the_answer_has_the_form_that_was_asked_for(registry: Registry, ann: User) -> None:
    args = ["-u", "ann", "--password-stdin"]
    done = ann.well("--output", "json", "login", registry.host, *args, stdin=SECRET)
    assert json.loads(done.stdout) == {"text": "Login Succeeded\n"}
    out = ann.well("--output", "json", "logout", registry.host).stdout
    assert str(ann.config) in json.loads(out)["text"]


def test_an_interrupt_ends_a_helper_that_hangs(
    daemon: Daemon, registry: Registry, tmp_path: Path
) -> None:
    helper = FakeHelper(tmp_path / "helper")
    helper.misbehave("hang")
    ann = User(daemon, tmp_path / "ann", PATH=helper.path)
    ann.write({"credsStore": "fake"})
    with ann.start("pull", f"{registry.host}/team/app:1") as process:
        assert helper.hangs()
        started = time.monotonic()
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 130
    assert time.monotonic() - started < 3
    assert helper.ended()
    assert not registry.requests


def test_a_login_that_is_interrupted_keeps_nothing(registry: Registry, ann: User) -> None:
    args = ["login", registry.host, "-u", "ann", "--password-stdin"]
    with registry.hold(path="/token") as hold, ann.start(*args) as process:
        assert process.stdin is not None
        process.stdin.write(SECRET)
        process.stdin.close()
        process.stdin = None
        assert hold.entered.wait(30)
        process.send_signal(signal.SIGINT)
        assert process.wait(3) == 130
    assert not ann.config.exists()


@pytest.mark.parametrize(
    ("written", "host"),
    [
        ("", ""),
        ("docker.io", ""),
        ("https://index.docker.io/v1/", ""),
        ("R.example:5000", "r.example:5000"),
        ("https://r.example/v2/", "r.example"),
        ("[0:0:0:0:0:0:0:1]:5000", "[::1]:5000"),
    ],
)
def test_how_a_host_may_be_written(written: str, host: str) -> None:
    assert normal_host(written) == host


def test_a_scheme_that_is_written_is_kept_to(registry: Registry, ann: User) -> None:
    before = len(registry.requests)
    refused = ann.login(f"https://{registry.host}")
    assert refused.returncode == 1
    assert "does not speak TLS" in refused.stderr
    assert len(registry.requests) == before  # the password did not go in plain http instead
    assert not ann.config.exists()
    assert ann.login(f"http://{registry.host}").returncode == 0
    assert list(ann.document["auths"]) == [registry.host]


# whose credentials


def test_two_users_of_one_daemon_have_what_each_of_them_may(
    daemon: Daemon, registry: Registry, tmp_path: Path
) -> None:
    ann, bob = (User(daemon, tmp_path / name) for name in USERS)
    for user, name in ((ann, "ann"), (bob, "bob")):
        assert user.login(registry.host, name).returncode == 0
    for _ in range(2):  # the second time it is in the store, and its token in the cache
        assert ann.run("pull", f"{registry.host}/team/app:1").returncode == 0
        denied = bob.run("pull", f"{registry.host}/team/app:1")
        assert denied.returncode == 1
        assert "'bob'" in denied.stderr
        assert bob.run("pull", f"{registry.host}/public/app:1").returncode == 0
    assert users_of(registry, "/v2/public/app/manifests/") == {"bob"}


def test_two_users_at_once(daemon: Daemon, registry: Registry, tmp_path: Path) -> None:
    ann, bob = (User(daemon, tmp_path / name) for name in USERS)
    for user, name in ((ann, "ann"), (bob, "bob")):
        user.write({"auths": {registry.host: {"auth": pair(f"{name}:{USERS[name]}")}}})
    push_image(registry, "team/held", "1", random_image(9, layers=1))
    results: list[int] = []

    def pull() -> None:
        results.append(ann.run("pull", f"{registry.host}/team/held:1").returncode)

    with registry.hold(path="/v2/team/held/blobs/", after=10) as hold:
        puller = threading.Thread(target=pull)
        puller.start()
        assert hold.entered.wait(30)
        assert bob.run("pull", f"{registry.host}/team/held:1").returncode == 1
    puller.join()
    assert results == [0]


def test_the_daemon_reads_no_home(registry: Registry, tmp_path: Path) -> None:
    home = tmp_path / "home"  # where `running_daemon` says that the daemon's home is
    (home / ".docker").mkdir(parents=True)
    entry = {"auths": {registry.host: {"auth": pair(f"ann:{SECRET}")}}}
    (home / ".docker" / "config.json").write_text(json.dumps(entry))
    with running_daemon(tmp_path / "state") as daemon:
        assert User(daemon, home).run("auth", registry.host).returncode == 0
        nobody = User(daemon, tmp_path / "nobody").run("pull", f"{registry.host}/team/app:1")
        assert nobody.returncode == 1
        assert "credentials are needed" in nobody.stderr


def test_given_credentials_count_and_anonymous_sends_none(registry: Registry, ann: User) -> None:
    ann.write({"auths": {registry.host: {"auth": pair(f"ann:{SECRET}")}}})
    image = f"{registry.host}/public/app:1"
    given = ann.run("pull", image, "-u", "bob", "--password-stdin", stdin=USERS["bob"])
    assert given.returncode == 0
    assert users_of(registry, "/v2/public/") == {"bob"}
    none = ann.run("--verbose", "pull", image, "--anonymous")
    assert none.returncode == 1
    assert str(ann.config) not in none.stderr
    assert users_of(registry, "/v2/public/") <= {"bob", ""}


def test_headers_for_registries_go_along(registry: Registry, ann: User) -> None:
    ann.write(
        {
            "auths": {registry.host: {"auth": pair(f"ann:{SECRET}")}},
            "HttpHeaders": {"X-Meta-Team": "red", "X-Meta-Other": "own", "User-Agent": "mine/1"},
        }
    )
    ann.well("pull", f"{registry.host}/team/app:1", "--header", "x-meta-other=given")
    (sent,) = (one for one in registry.requests if "/v2/team/app/manifests/1" in one.path)
    assert sent.headers["x-meta-team"] == "red"
    assert sent.headers["x-meta-other"] == "given"
    assert sent.headers["user-agent"] != "mine/1"


def test_a_file_that_others_may_read_is_warned_of(registry: Registry, ann: User) -> None:
    ann.write({"auths": {registry.host: {"auth": pair(f"ann:{SECRET}")}}})
    ann.config.chmod(0o644)
    done = ann.well("pull", f"{registry.host}/team/app:1")
    assert f"warning: {ann.config}: others may read it" in done.stderr


def test_a_file_that_cannot_be_used_is_named(registry: Registry, ann: User) -> None:
    ann.config.parent.mkdir()
    ann.config.write_text(f'{{"auths": "{SECRET}')
    done = ann.run("pull", f"{registry.host}/team/app:1")
    assert done.returncode == 2
    assert f"{ann.config}: it is not JSON (line 1) (--anonymous does without)" in done.stderr
    assert "Usage" not in done.stderr
    assert SECRET not in done.stderr


def test_a_client_of_python_finds_them_too(daemon: Daemon, registry: Registry, ann: User) -> None:
    from engine.client import Client

    ann.write({"auths": {registry.host: {"auth": pair(f"ann:{SECRET}")}}})
    reference = f"{registry.host}/team/app:1"
    with Client(daemon.endpoint) as client:
        env = credentials_env(reference, ann.environ)
        rows = list(client.run("pull", reference, env=env))
    assert rows[-1]["reference"] == reference


# secrets


def test_a_planted_secret_shows_nowhere(daemon: Daemon, registry: Registry, ann: User) -> None:
    planted = {"password": SECRET, "pair": pair(f"ann:{SECRET}"), "header": "m3ta-s3cr3t"}
    document = {
        "auths": {registry.host: {"auth": planted["pair"]}},
        "HttpHeaders": {"X-Meta-Key": planted["header"]},
    }
    ann.write(document)
    host = registry.host
    shown = []
    for command in (
        ["pull", f"{host}/team/app:1"],
        ["pull", f"{host}/team/none:1"],
        ["tags", f"{host}/team/app"],
        ["inspect", "--remote", f"{host}/team/app:1"],
        ["search", f"{host}/app"],
        ["auth", host],
        ["auth", "127.0.0.1:1"],
        ["login", host, "-u", "ann", "--password-stdin"],
        ["login", host, "-u", "bob", "--password-stdin"],
        ["logout", host],
    ):
        done = ann.run("--verbose", "--output", "json", *command, stdin=SECRET)
        shown += [done.stdout, done.stderr]
        if command[0] == "login" and done.returncode == 0:
            planted["identity"] = ann.document["auths"][host]["identitytoken"]
    assert len(planted) == 4
    titles = _titles_during_a_pull(registry, ann, document)
    for secret in planted.values():
        assert secret not in "".join(shown)
        assert secret not in daemon.log()
        assert secret not in titles


def _titles_during_a_pull(registry: Registry, ann: User, document: Any) -> str:
    """The titles of all processes while one waits in the middle of a pull."""
    ann.write(document)
    registry.expire_tokens()
    push_image(registry, "team/late", "1", random_image(11, layers=1))
    with registry.hold(path="/v2/team/late/manifests/") as hold:
        pull = threading.Thread(target=ann.run, args=("pull", f"{registry.host}/team/late:1"))
        pull.start()
        assert hold.entered.wait(30)
        titles = []
        for place in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                titles.append(place.read_text(errors="replace"))
            except OSError:
                continue
    pull.join()
    assert any("team/late:1" in title for title in titles)
    return "".join(titles)


def test_login_as_a_function_asks_for_a_token_only_when_it_is_told_to(registry: Registry) -> None:
    from registry_service.cancel import Cancellation
    from registry_service.credentials import AuthConfig
    from registry_service.observe import Observer
    from registry_service.operations.access import Registries
    from registry_service.operations.login import LoginResult, login

    registries = Registries()

    def attempt(password: str, offline: bool) -> LoginResult:
        return login(
            AuthConfig(username="ann", password=password, server_address=registry.host),
            registries=registries,
            cancel=Cancellation(),
            observer=Observer(),
            offline=offline,
        )

    try:
        assert attempt(SECRET, offline=False) == LoginResult(status="Login Succeeded")
        result = attempt(SECRET, offline=True)
        assert result.identity_token
        assert result.identity_token not in repr(result)
        for offline in (False, True):
            with pytest.raises(LoginRequiredError, match="'ann' or its password"):
                attempt("wrong horse", offline=offline)
    finally:
        registries.close()


def test_the_target_s_password_is_piped_in_beside_what_is_kept_for_the_source(
    ann: User, registry: Registry
) -> None:
    ann.login(registry.host)
    with Registry(users={"eve": SECRET}) as target:
        names = (f"{registry.host}/team/app:1", f"{target.host}/moved:1")
        options = ("--target-user", "eve", "--target-password-stdin")
        done = ann.run("copy", *names, *options, stdin=SECRET)
        assert done.returncode == 0, done.stderr
        assert users_of(target, "/manifests/") == {"eve"}
