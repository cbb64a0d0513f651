"""Login on V1: accounts that are made, credentials that are checked, and what comes of each."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scripted import Authority, Request, Scripted, scripted
from support_daemon import Daemon, Result, running_daemon
from support_proxy import forward_proxy
from support_service import Bench

from engine import Status
from registry_service import AuthConfig, HTTPRequestFactory, LoginResult, login
from registry_service.cancel import Cancellation
from registry_service.constants import APIVersion
from registry_service.endpoint import Endpoint, RegistryInfo
from registry_service.errors import (
    CancelledError,
    InvalidReferenceError,
    LoginRequiredError,
    ProtocolError,
    RegistryError,
    RegistryHTTPError,
)
from registry_service.observe import Observer
from registry_service.operations.access import Registries
from registry_service.operations.v1.login import login_v1
from registry_service.proxies import Proxies
from registry_service.settings import RegistrySettings
from registry_service.testing import Registry
from registry_service.testing.v1 import V1Index, V1Registry
from registry_service.transport import Transport

SECRET = "s3cr3t-Passw0rd"
TAKEN = '"Username or email already exists"'
PING = {"X-Docker-Registry-Version": "0.9.1", "X-Docker-Registry-Standalone": "false"}


def users(
    post: tuple[int, Any],
    get: tuple[int, Any] = (500, "not expected"),
    posted: list[Any] | None = None,
) -> Callable[[Request], None]:
    """An index whose ``users/`` answers like this; what is ``posted`` there is listed."""

    def handler(request: Request) -> None:
        body = request.read_body()
        if body and posted is not None:
            posted.append(json.loads(body))
        if request.path == "/v1/_ping":
            request.answer(200, "true", PING)
        elif request.path != "/v1/users/":
            request.answer(404)
        elif request.command == "POST":
            request.answer(*post)
        else:
            request.answer(*get)

    return handler


def auth(server: Scripted, **values: str) -> AuthConfig:
    given = {"username": "ann", "password": SECRET, "email": "ann@example.org", **values}
    return AuthConfig(server_address=f"{server.url}/v1/", **given)


def attempt(auth_config: AuthConfig, **settings: Any) -> LoginResult:
    with contextlib.closing(Registries(RegistrySettings(retries=0, **settings))) as registries:
        return login(auth_config, registries=registries)


def verbs(server: Scripted) -> list[str]:
    return [method for method, path, _ in server.requests if path == "/v1/users/"]


# what comes of the answers


def test_an_account_is_made_and_the_status_says_so() -> None:
    posted: list[Any] = []
    with scripted(users((201, '"User created"'), posted=posted)) as server:
        status = attempt(auth(server)).status
        assert status == (
            f"Account created: {server.host} had none of the name 'ann'. The documentation of "
            f"{server.host} says how to activate it."
        )
        assert verbs(server) == ["POST"]
        assert posted == [{"username": "ann", "password": SECRET, "email": "ann@example.org"}]
        headers = server.requests[-1][2]
        assert headers["Content-Type"] == "application/json; charset=utf-8"
        assert "Authorization" not in headers


@pytest.mark.parametrize(
    "post", [(400, TAKEN), (400, {"error": "Username or email already exists."}), (401, "no")]
)
def test_where_there_is_an_account_the_credentials_are_checked(post: tuple[int, Any]) -> None:
    with scripted(users(post, (200, '"OK"'))) as server:
        assert attempt(auth(server)) == LoginResult(status="Login Succeeded")
        assert verbs(server) == ["POST", "GET"]
        assert server.requests[-1][2]["Authorization"] == auth(server).basic


@pytest.mark.parametrize("post", [(400, TAKEN), (401, "")])
def test_wrong_credentials(post: tuple[int, Any]) -> None:
    with (
        scripted(users(post, (401, '"Wrong login"'))) as server,
        pytest.raises(LoginRequiredError) as caught,
    ):
        attempt(auth(server))
    assert str(caught.value) == (
        f"{server.host}: the user name 'ann' or its password was refused (\"Wrong login\")"
    )
    assert (caught.value.host, caught.value.username) == (server.host, "ann")


@pytest.mark.parametrize("post", [(400, TAKEN), (401, "")])
def test_an_account_that_is_not_active(post: tuple[int, Any]) -> None:
    with (
        scripted(users(post, (403, '"Account is not Active"'))) as server,
        pytest.raises(
            RegistryHTTPError, match="the account 'ann' is not active: the doc"
        ) as caught,
    ):
        attempt(auth(server))
    assert caught.value.code == "http-403"


@pytest.mark.parametrize(
    ("post", "get", "words"),
    [
        ((400, '"Email is not valid"'), (200, ""), r"POST .*answered 400.*Email is not valid"),
        ((400, ""), (200, ""), "answered 400"),
        ((200, '"fine?"'), (200, ""), r"answered 200.*fine\?"),
        ((204, ""), (200, ""), "answered 204"),
        ((403, '"closed"'), (200, ""), "answered 403.*closed"),
        ((404, "none"), (200, ""), "answered 404.*none"),
        ((500, "broken"), (200, ""), "answered 500.*broken"),
        ((400, TAKEN), (202, '"later"'), "GET .*answered 202.*later"),
        ((400, TAKEN), (404, '"nobody"'), "answered 404.*nobody"),
        ((401, ""), (503, '"busy"'), "answered 503.*busy"),
    ],
)
def test_any_other_answer_is_an_error_with_its_code_and_body(
    post: tuple[int, Any], get: tuple[int, Any], words: str
) -> None:
    with scripted(users(post, get)) as server, pytest.raises(RegistryHTTPError, match=words):
        attempt(auth(server))


def test_an_answer_without_end_is_cut_off() -> None:
    with (
        scripted(users((400, "x" * 300_000))) as server,
        pytest.raises(RegistryHTTPError, match="answered 400") as caught,
    ):
        attempt(auth(server))
    assert len(str(caught.value)) < 2000


def test_a_password_that_is_a_word_of_the_answer_does_not_hide_it() -> None:
    with scripted(users((400, TAKEN), (200, ""))) as server:
        assert attempt(auth(server, password="already")).status == "Login Succeeded"


# secrets


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=8, max_size=20).filter(
        lambda text: len(set(text)) > 4 and text.strip() == text
    ),
    st.sampled_from([(400, 0), (500, 0), (401, 401), (401, 403), (400, 500)]),
)
def test_a_server_that_says_back_what_it_got_shows_no_secret(
    password: str, statuses: tuple[int, int]
) -> None:
    def handler(request: Request) -> None:
        body = request.read_body().decode()
        if request.path == "/v1/_ping":
            request.answer(200, "true", PING)
            return
        said = f"{TAKEN * (statuses[1] == 500)} {body} {password} {request.headers.items()}"
        request.answer(statuses[request.command == "GET"], said)

    with scripted(handler) as server, pytest.raises(RegistryError) as caught:
        attempt(auth(server, password=password))
    told = f"{caught.value!s} {caught.value!r}"
    assert password not in told
    assert auth(server, password=password).basic.partition(" ")[2] not in told


def test_neither_a_redirect_to_another_server_nor_one_to_http_gets_the_account() -> None:
    with scripted(lambda request: request.answer(201)) as thief:

        def handler(request: Request) -> None:
            request.read_body()
            if request.path == "/v1/_ping":
                request.answer(200, "true", PING)
            else:
                request.answer(307, headers={"Location": f"{thief.url}/v1/users/"})

        with (
            scripted(handler) as server,
            pytest.raises(
                ProtocolError, match="another server, to which the credentials"
            ) as caught,
        ):
            attempt(auth(server))
        assert thief.requests == []
        assert SECRET not in str(caught.value)


def test_a_check_that_is_redirected_takes_no_credentials_to_another_server() -> None:
    with scripted(lambda request: request.answer(401)) as other:

        def handler(request: Request) -> None:
            request.read_body()
            if request.path == "/v1/_ping":
                request.answer(200, "true", PING)
            elif request.command == "POST":
                request.answer(401)
            else:
                request.answer(302, headers={"Location": f"{other.url}/v1/users/"})

        factory = HTTPRequestFactory({"X-Meta-Key": [SECRET]})
        with (
            scripted(handler) as server,
            contextlib.closing(Registries()) as registries,
            pytest.raises(LoginRequiredError),
        ):
            login(auth(server), factory, registries=registries)
        assert server.requests[-1][2]["X-Meta-Key"] == SECRET
        headers = other.requests[-1][2]
    assert "Authorization" not in headers
    assert "X-Meta-Key" not in headers


def test_over_plain_http_nothing_is_sent_to_a_host_that_is_not_allowed_to_speak_it() -> None:
    config = AuthConfig(username="ann", password=SECRET, server_address="http://r.example/v1/")
    with pytest.raises(RegistryError, match="insecure_hosts"):
        attempt(config)


def test_a_cancel_ends_the_wait_for_an_answer() -> None:
    entered, cancel = threading.Event(), Cancellation()

    def handler(request: Request) -> None:
        request.read_body()
        if request.path == "/v1/_ping":
            request.answer(200, "true", PING)
        else:
            entered.set()
            request.hang()

    def cancel_when_it_waits() -> None:
        entered.wait(30)
        cancel.cancel()

    with scripted(handler) as server, contextlib.closing(Registries()) as registries:
        thread = threading.Thread(target=cancel_when_it_waits)
        thread.start()
        with pytest.raises(CancelledError):
            login(auth(server), registries=registries, cancel=cancel)
        thread.join(30)
        assert not server.over.is_set()
    assert verbs(server) == ["POST"]


# who asks


def test_what_a_factory_says_goes_along_and_nothing_else_names_the_sender() -> None:
    factory = HTTPRequestFactory({"X-Meta": ["a", "b"]}, products=("builder/2",))
    with (
        scripted(users((401, ""), (200, ""))) as server,
        contextlib.closing(Registries()) as registries,
    ):
        login(auth(server), factory, registries=registries)
        for _, _, headers in server.requests[-2:]:
            assert headers["X-Meta"] == "a, b"
            assert headers["User-Agent"] == "builder/2 registry-engine/0.1"


def test_the_products_of_the_configuration_are_named() -> None:
    with scripted(users((401, ""), (200, ""))) as server:
        attempt(auth(server), user_agent=("builder/2",))
        agents = {headers["User-Agent"] for _, _, headers in server.requests}
    assert agents == {"builder/2 registry-engine/0.1"}


@pytest.mark.parametrize(
    "values",
    [
        {"username": "", "password": "", "registry_token": "t" * 8},
        {"password": "", "identity_token": "i" * 8},
        {"password": ""},
        {"username": ""},
    ],
)
def test_half_of_the_credentials_makes_no_account(values: dict[str, str]) -> None:
    with (
        scripted(users((201, ""))) as server,
        pytest.raises(LoginRequiredError, match="takes a user name and a password"),
    ):
        attempt(auth(server, **values))
    assert verbs(server) == []


@pytest.mark.parametrize(
    ("status", "outcome"), [(200, "asks for no credentials"), (401, "asks for a login")]
)
def test_without_credentials_nobody_is_registered(status: int, outcome: str) -> None:
    with scripted(users((201, ""), (status, ""))) as server:
        config = AuthConfig(server_address=server.url)
        if status == 200:
            assert attempt(config).status == f"Login Succeeded: {server.host} {outcome}"
        else:
            with pytest.raises(LoginRequiredError, match=outcome):
                attempt(config)
        assert verbs(server) == ["GET"]


# which protocol


@pytest.mark.parametrize("path", ["", "/", "/v1", "/v1/", "/V1/"])
@pytest.mark.parametrize("scheme", ["http://", ""])
def test_a_v1_registry_is_found_however_it_is_named(scheme: str, path: str) -> None:
    with scripted(users((401, ""), (200, ""))) as server:
        config = AuthConfig(
            username="ann", password=SECRET, server_address=f"{scheme}{server.host}{path}"
        )
        assert attempt(config).status == "Login Succeeded"


def both(request: Request) -> None:
    """A host that speaks V2, and V1 too."""
    if request.path == "/v2/":
        request.answer(200, "{}", {"Docker-Distribution-Api-Version": "registry/2.0"})
    else:
        users((201, ""))(request)


@pytest.mark.parametrize(("path", "is_old"), [("", False), ("/v1/", True), ("/v2/", False)])
def test_a_version_in_the_address_decides(path: str, is_old: bool) -> None:
    with scripted(both) as server:
        status = attempt(
            AuthConfig(username="ann", password=SECRET, server_address=server.url + path)
        ).status
        assert status.startswith("Account created") is is_old
        assert bool(verbs(server)) is is_old


def test_a_registry_that_is_none_of_v1_is_not_taken_for_one() -> None:
    with (
        Registry(faults=["status:code=404,path=/v1/"]) as registry,
        pytest.raises(ProtocolError, match="there is no V1 registry"),
    ):
        attempt(AuthConfig(username="a", password="b", server_address=f"{registry.url}/v1/"))


def test_any_other_path_is_refused() -> None:
    with pytest.raises(InvalidReferenceError, match="comes nothing, /v1/ or /v2/"):
        attempt(AuthConfig(username="a", password="b", server_address="https://h/v1/users/"))


# the public index


@contextlib.contextmanager
def hub(tmp_path: Path, handler: Callable[[Request], None]) -> Iterator[tuple[Scripted, Proxies]]:
    """What goes to the public index comes to a server of the test's."""
    authority = Authority(tmp_path, name="index.docker.io")
    (tmp_path / "index.docker.io").mkdir()
    authority.ca.cert_pem.write_to_path(str(tmp_path / "index.docker.io" / "ca.crt"))
    with (
        scripted(handler, authority) as server,
        forward_proxy(names={"index.docker.io": ("127.0.0.1", server.port)}) as proxy,
    ):
        yield server, Proxies.from_environ({"https_proxy": proxy.url})


@pytest.mark.parametrize(
    ("answers", "words"),
    [
        (((201, ""),), "The link in the mail to ann@example.org activates it."),
        (((400, TAKEN), (200, "")), "Login Succeeded"),
        (((400, TAKEN), (403, "")), "not active: use the link in the mail that came for it"),
    ],
)
def test_the_public_index_over_v1(tmp_path: Path, answers: Any, words: str) -> None:
    with hub(tmp_path, users(*answers)) as (server, proxies):
        settings = RegistrySettings(retries=0, certs_dirs=(tmp_path,), proxies=proxies)
        with Transport(settings) as transport:
            endpoint = Endpoint(
                url="https://index.docker.io/",
                version=APIVersion.V1,
                transport=transport,
                info=RegistryInfo(standalone=False),
            )
            config = AuthConfig(username="ann", password=SECRET, email="ann@example.org")
            factory = HTTPRequestFactory()
            try:
                told = login_v1(endpoint, config, factory, Cancellation(), Observer())
            except RegistryHTTPError as error:
                told = str(error)
    assert words in told
    assert server.paths() == ["/v1/users/"] * len(answers)  # it is not pinged


@pytest.mark.parametrize(
    "address", ["", "docker.io", "https://index.docker.io/v1/", "https://registry-1.docker.io/v1/"]
)
def test_the_public_index_is_asked_over_v2_whatever_old_files_call_it(address: str) -> None:
    with forward_proxy(refuse=503) as proxy:
        proxies = Proxies.from_environ({"https_proxy": proxy.url})
        config = AuthConfig(username="ann", password=SECRET, server_address=address)
        with pytest.raises(RegistryError):
            attempt(config, proxies=proxies)
        assert set(proxy.targets("CONNECT")) == {"registry-1.docker.io:443"}


# a registry that stands alone


def test_a_registry_that_keeps_no_accounts_says_it_to_every_name() -> None:
    with V1Registry() as registry:
        config = AuthConfig(username="ann", password=SECRET, server_address=registry.host)
        status = attempt(config).status
    assert status.startswith(f"Account created: {registry.host} had none of the name 'ann'.")
    assert status.endswith("a registry that keeps no accounts says this to every name.")


def test_a_registry_that_is_protected_checks() -> None:
    with V1Registry(users={"ann": SECRET}) as registry:
        config = AuthConfig(username="ann", password=SECRET, server_address=registry.host)
        assert attempt(config).status == "Login Succeeded"
        wrong = AuthConfig(username="ann", password="wrong horse", server_address=registry.host)
        with pytest.raises(LoginRequiredError, match="'ann' or its password was refused"):
            attempt(wrong)


# an index


def test_an_account_from_its_making_to_the_first_login(bench: Bench) -> None:
    with V1Index(accounts={"anna": SECRET}) as index:

        def ask(name: str, password: str, **values: str) -> tuple[str, str]:
            """The code of the job's error or empty, and its words."""
            config = {"username": name, "password": password, "serveraddress": index.host}
            job = bench.job("auth", authConfig={**config, **values})
            status = job.run()
            assert password not in job.stderr.text()
            if status is Status.OK:
                return "", job.stdout.text()
            assert job.end is not None
            return job.end.code, job.end.message

        assert ask("anna", SECRET) == ("", "Login Succeeded\n")
        code, words = ask("anne", SECRET, email="ann@example.org")
        assert (code, words.partition(":")[0]) == ("", "Account created")
        assert "a registry that keeps no accounts" not in words
        code, words = ask("anne", SECRET)
        assert code == "http-403"
        assert "the account 'anne' is not active" in words
        index.activate("anne")
        assert ask("anne", SECRET) == ("", "Login Succeeded\n")
        code, words = ask("anne", "another-Passw0rd", email="ann@example.org")
        assert code == "login-required"
        assert "'anne' or its password was refused" in words


def test_a_mistyped_name_without_an_address_makes_no_account_at_an_index() -> None:
    with V1Index(accounts={"anna": SECRET}, activated=True) as index:
        config = AuthConfig(username="amna", password=SECRET, server_address=index.host)
        for _ in range(2):
            with pytest.raises(RegistryHTTPError, match=r"answered 400.*email is none"):
                attempt(config)


def test_where_nobody_may_register_a_name_that_is_unknown_is_refused() -> None:
    with V1Index(accounts={"anna": SECRET}, protected=True) as index:
        known = AuthConfig(username="anna", password=SECRET, server_address=index.host)
        assert attempt(known).status == "Login Succeeded"
        with pytest.raises(LoginRequiredError, match="'amna' or its password was refused"):
            attempt(dataclasses.replace(known, username="amna", email="amna@example.org"))


# the job and the command


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path / "state")
    yield made
    made.engine.shutdown(grace=0)


@pytest.fixture
def protected() -> Iterator[V1Registry]:
    with V1Registry(users={"ann": SECRET}) as made:
        yield made


def test_the_job_says_the_status_or_why_not(bench: Bench, protected: V1Registry) -> None:
    config = {"username": "ann", "password": SECRET, "serveraddress": protected.host}
    job = bench.job("auth", authConfig=config)
    assert job.run() is Status.OK, job.stderr.text()
    assert job.stdout.text() == "Login Succeeded\n"
    job = bench.job("auth", authConfig={**config, "password": "wrong"}, identityToken=True)
    assert job.run() is Status.ERROR
    assert job.end is not None
    assert job.end.code == "login-required"
    assert "'ann' or its password was refused" in job.end.message


def test_an_index_of_one_s_own_is_logged_in_to_where_no_server_is_named(tmp_path: Path) -> None:
    with scripted(users((400, TAKEN), (200, ""))) as server:
        bench = Bench(tmp_path / "state", index_server=f"{server.url}/v1/")
        try:
            job = bench.job("auth", authConfig={"username": "ann", "password": SECRET})
            assert job.run() is Status.OK, job.stderr.text()
            assert job.stdout.text() == "Login Succeeded\n"
        finally:
            bench.engine.shutdown(grace=0)
        assert verbs(server) == ["POST", "GET"]


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with running_daemon(tmp_path_factory.mktemp("login") / "state") as made:
        yield made


def enginectl(daemon: Daemon, home: Path, *args: str, stdin: str = "") -> Result:
    environ: Mapping[str, str] = {**daemon.environ, "HOME": str(home)}
    return dataclasses.replace(daemon, environ=environ).run_ctl(*args, stdin=stdin)


def test_the_command_keeps_what_is_good_and_only_that(
    daemon: Daemon, tmp_path: Path, protected: V1Registry
) -> None:
    kept = tmp_path / ".docker" / "config.json"
    options = ("-u", "ann", "--email", "ann@example.org", "--password-stdin")
    wrong = enginectl(daemon, tmp_path, "login", protected.host, *options, stdin="wrong horse")
    assert wrong.returncode == 1
    assert "'ann' or its password was refused" in wrong.stderr
    assert not kept.exists()
    done = enginectl(daemon, tmp_path, "login", f"{protected.host}/v1/", *options, stdin=SECRET)
    assert (done.returncode, done.stdout) == (0, "Login Succeeded\n"), done.stderr
    entry = json.loads(kept.read_text())["auths"][protected.host]
    assert entry["email"] == "ann@example.org"
    again = enginectl(daemon, tmp_path, "auth", protected.host)
    assert (again.returncode, again.stdout) == (0, "Login Succeeded\n"), again.stderr


def test_the_command_says_that_the_password_stays_at_home_over_http(
    daemon: Daemon, tmp_path: Path, protected: V1Registry
) -> None:
    """Else the login succeeds, and whatever follows is refused."""
    options = ("-u", "ann", "--password-stdin")
    done = enginectl(daemon, tmp_path, "login", protected.host, *options, stdin=SECRET)
    assert done.stdout == "Login Succeeded\n"
    assert f"{protected.host} is reached over http: after this login" in done.stderr
    with scripted(users((401, ""), (200, ""))) as index:
        done = enginectl(daemon, tmp_path, "login", f"{index.host}", *options, stdin=SECRET)
    assert done.stdout == "Login Succeeded\n"
    assert "http" not in done.stderr


def test_a_mistyped_name_is_thought_of_where_no_account_is_made(
    daemon: Daemon, tmp_path: Path
) -> None:
    options = ("-u", "amn", "--password-stdin")
    with scripted(users((400, '"Email is none"'))) as index:
        done = enginectl(daemon, tmp_path, "login", index.host, *options, stdin="pw")
    assert done.returncode == 1
    assert done.stderr.endswith(
        "answered 400 Bad Request: \"Email is none\" (no account 'amn' was made; where there is "
        "one, its name is another. A new one may need an e-mail address)\n"
    )


def test_the_command_says_that_an_account_was_made(daemon: Daemon, tmp_path: Path) -> None:
    posted: list[Any] = []
    options = ("-u", "amn", "--email", "ann@example.org", "--password-stdin")
    with scripted(users((201, ""), posted=posted)) as server:
        done = enginectl(daemon, tmp_path, "login", f"http://{server.host}", *options, stdin="pw")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"Account created: {server.host} had none of the name 'amn'.")
    assert posted[-1]["email"] == "ann@example.org"


def test_a_version_that_is_written_is_kept_to(daemon: Daemon, tmp_path: Path) -> None:
    options = ("-u", "ann", "--password-stdin")
    with scripted(both) as server:
        old = enginectl(daemon, tmp_path, "login", f"{server.url}/v1/", *options, stdin="pw")
        new = enginectl(daemon, tmp_path, "login", server.url, *options, stdin="pw")
    assert old.stdout.startswith("Account created"), old.stderr
    assert new.stdout.startswith("Login Succeeded"), new.stderr
