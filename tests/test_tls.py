from __future__ import annotations

import contextlib
import os
import socket
import ssl
import threading
from pathlib import Path
from typing import Any

import pytest
import trustme
from scripted import Authority, Request, scripted

from registry_service.errors import RegistryError, SettingsError, TLSError
from registry_service.settings import RegistrySettings
from registry_service.tls import CertificatePlaces, TLSContexts
from registry_service.transport import Transport


def get(url: str, certs: Path) -> int:
    with (
        Transport(RegistrySettings(retries=0, certs_dirs=(certs,))) as transport,
        transport.request("GET", url) as response,
    ):
        return response.status


def test_an_authority_in_the_hosts_directory_is_trusted(tmp_path: Path) -> None:
    with scripted(lambda request: request.answer(), Authority(tmp_path)) as server:
        assert get(server.url, tmp_path) == 200


def test_an_unknown_authority_is_named_with_the_place_for_it(tmp_path: Path) -> None:
    authority = Authority(tmp_path, trusted=False)
    with (
        scripted(lambda request: request.answer(), authority) as server,
        pytest.raises(TLSError, match="unknown authority") as caught,
    ):
        get(server.url, tmp_path)
    assert caught.value.reason == "unknown-ca"
    assert str(tmp_path / server.host) in str(caught.value)
    assert not caught.value.retryable


def test_the_wrong_name_and_the_wrong_time(tmp_path: Path) -> None:
    for authority, reason in (
        (Authority(tmp_path, name="elsewhere.example"), "name"),
        (Authority(tmp_path, expired=True), "expired"),
    ):
        with (
            scripted(lambda request: request.answer(), authority) as server,
            pytest.raises(TLSError) as caught,
        ):
            get(server.url, tmp_path)
        assert caught.value.reason == reason


def test_a_server_of_plain_http_is_told_from_a_broken_one(tmp_path: Path) -> None:
    with (
        scripted(lambda request: request.answer()) as server,
        pytest.raises(TLSError, match=r"plain http.*insecure_hosts.*registries\.toml") as caught,
    ):
        get(server.url.replace("http:", "https:"), tmp_path)
    assert caught.value.reason == "plain-http"


def test_a_client_certificate_is_sent_where_one_is_there(tmp_path: Path) -> None:
    authority = Authority(tmp_path, wants_client=True)
    with scripted(lambda request: request.answer(), authority) as server:
        # What a server does first to who shows no certificate is up to the two systems: the
        # alert, or the end of the connection.
        with pytest.raises(RegistryError) as caught:
            get(server.url, tmp_path)
        assert not isinstance(caught.value, TLSError) or caught.value.reason in (
            "client-certificate",
            "handshake",
        )
        mine = authority.ca.issue_cert("me@example.org")
        mine.private_key_pem.write_to_path(str(tmp_path / server.host / "client.key"))
        mine.cert_chain_pems[0].write_to_path(str(tmp_path / server.host / "client.cert"))
        assert get(server.url, tmp_path) == 200


class Visitors:
    """A server of TLS that answers ``answers[name]`` (a status, 200 unless there is one) to who
    shows the certificate of ``name``; of these the client has some, tried in alphabetic order."""

    def __init__(self, certs: Path, *names: str) -> None:
        self.certs, self.names = certs, names
        self.authority = Authority(certs, wants_client=True)
        self.answers: dict[str, int] = {}
        self.headers: dict[str, str] = {}
        self.recovers = ""  # who asks, and from then on no answer is 5xx
        self.seen: list[tuple[str, bytes]] = []

    def __enter__(self) -> Visitors:
        self._stack = contextlib.ExitStack()
        self.server = self._stack.enter_context(scripted(self._answer, self.authority))
        for name in self.names:
            mine = self.authority.ca.issue_cert(f"{name}.example")
            place = self.certs / self.server.host
            mine.private_key_pem.write_to_path(str(place / f"{name}.key"))
            mine.cert_chain_pems[0].write_to_path(str(place / f"{name}.cert"))
        settings = RegistrySettings(retries=1, retry_wait_max=0.1, certs_dirs=(self.certs,))
        self.transport = self._stack.enter_context(Transport(settings))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def ask(self, method: str = "GET", body: bytes | None = None) -> int:
        with self.transport.request(method, self.server.url, body=body) as response:
            return response.status

    @property
    def shown(self) -> list[str]:
        """Whose certificates were shown since the last look."""
        seen, self.seen = self.seen, []
        return [name for name, _ in seen]

    def _answer(self, request: Request) -> None:
        found: Any = request.connection
        ((_, value),) = found.getpeercert()["subjectAltName"]
        name = value.partition(".")[0]
        self.seen.append((name, request.read_body()))
        status = self.answers.get(name, 200)
        if name == self.recovers:
            self.answers = {who: one for who, one in self.answers.items() if one < 500}
        request.answer(status, headers=self.headers)


@pytest.mark.parametrize("refusal", [403, 500, 502, 503])
def test_of_several_client_certificates_the_next_is_shown_where_one_is_refused(
    tmp_path: Path, refusal: int
) -> None:
    with Visitors(tmp_path, "a", "b", "c") as server:
        server.answers = {"a": refusal, "b": refusal}
        assert server.ask() == 200
        assert server.shown == ["a", "b", "c"]
        # and is the first from then on, until it is refused
        assert server.ask() == 200
        assert server.shown == ["c"]
        server.answers = {"c": 403, "a": 403}
        assert server.ask("PUT", b"the whole of it") == 200
        assert server.seen == [(name, b"the whole of it") for name in ("c", "a", "b")]


def test_where_none_is_taken_the_last_answer_stands(tmp_path: Path) -> None:
    with Visitors(tmp_path, "a", "b") as server:
        server.answers = {"a": 403, "b": 403}
        assert server.ask() == 403
        assert server.shown == ["a", "b"]
        server.answers = {"a": 401, "b": 200}
        assert server.ask() == 401  # which asks for a login, and is no refusal
        assert server.shown == ["a"]


def test_a_server_that_failed_for_a_moment_gets_the_one_that_it_would_have_taken(
    tmp_path: Path,
) -> None:
    with Visitors(tmp_path, "a", "b", "c") as server:
        server.answers = {"a": 403, "b": 500, "c": 403}
        server.recovers = "c"
        assert server.ask() == 200
        assert server.shown == ["a", "b", "c", "b"]
    with Visitors(tmp_path, "a", "b") as server:
        server.answers = {"a": 500, "b": 403}
        assert server.ask() == 500
        assert server.shown == ["a", "b", "a", "a"]  # the last one after a wait


def test_a_server_that_fails_after_it_took_one_is_shown_no_other(tmp_path: Path) -> None:
    with Visitors(tmp_path, "a", "b") as server:
        assert server.ask() == 200
        server.answers = {"a": 500}
        assert server.ask() == 500
        assert server.shown == ["a", "a", "a"]  # it is asked again as any server is


def test_a_server_that_asks_for_a_pause_or_did_half_of_it_is_shown_no_other(
    tmp_path: Path,
) -> None:
    with Visitors(tmp_path, "a", "b") as server:
        server.answers = {"a": 500}
        assert server.ask("POST", b"once") == 500
        assert server.shown == ["a"]
        server.answers, server.headers = {"a": 503}, {"Retry-After": "0"}
        assert server.ask() == 503
        assert set(server.shown) == {"a"}


def test_a_second_certificate_that_cannot_be_used_is_named_before_it_is_needed(
    tmp_path: Path,
) -> None:
    with Visitors(tmp_path, "a", "b") as server:
        key = tmp_path / server.server.host / "b.key"
        key.write_text("nonsense")
        with pytest.raises(SettingsError, match=str(key)):
            server.ask()


@pytest.mark.parametrize(("there", "missing"), [("x.cert", "x.key"), ("x.key", "x.cert")])
def test_half_a_pair_names_the_other_half(tmp_path: Path, there: str, missing: str) -> None:
    place = tmp_path / "r.example"
    place.mkdir()
    (place / there).write_text("")
    with pytest.raises(SettingsError, match=missing) as caught:
        CertificatePlaces(roots=(tmp_path,)).find("r.example", 443)
    assert caught.value.status == 2


def test_a_link_to_nothing_is_named_and_hides_nothing(tmp_path: Path) -> None:
    place = tmp_path / "r.example"
    place.mkdir()
    (place / "ca.crt").symlink_to(tmp_path / "nowhere")
    with pytest.raises(SettingsError, match=r"ca\.crt cannot be read: No such file"):
        CertificatePlaces(roots=(tmp_path,)).find("r.example", 443)


def test_what_an_error_names_are_the_places_that_count(tmp_path: Path) -> None:
    places = CertificatePlaces(roots=(tmp_path,), own=lambda host, port: (tmp_path / "own",))
    assert places.shown("r.example", 443) == f"{tmp_path / 'own'} or {tmp_path / 'r.example'}"
    assert places.shown("r.example", 5000).endswith("r.example:5000")
    assert "certs.d" in CertificatePlaces().shown("r.example", 443)


def test_directories_with_and_without_a_port(tmp_path: Path) -> None:
    for name in ("r.example", "r.example:443", "r.example:5000", "[::1]:5000"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "ca.crt").write_text("")

    def found(host: str, port: int) -> list[str]:
        return [
            path.parent.name for path in CertificatePlaces(roots=(tmp_path,)).find(host, port).roots
        ]

    assert found("r.example", 443) == ["r.example:443", "r.example"]
    assert found("r.example", 5000) == ["r.example:5000"]
    assert found("::1", 5000) == ["[::1]:5000"]
    assert found("other.example", 443) == []


def test_roots_of_several_directories_count_together(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name / "r.example").mkdir(parents=True)
        (tmp_path / name / "r.example" / "ca.crt").write_text("")
    found = CertificatePlaces(roots=(tmp_path / "one", tmp_path / "none", tmp_path / "two")).find(
        "r.example", 443
    )
    assert len(found.roots) == 2


@pytest.mark.parametrize("files", [["ca.crt"], ["c.cert", "c.key"]])
def test_files_that_are_no_certificates_are_named(tmp_path: Path, files: list[str]) -> None:
    place = tmp_path / "r.example"
    place.mkdir()
    for name in files:
        (place / name).write_text("nonsense")
    with pytest.raises(SettingsError, match=str(place / files[0])):
        TLSContexts(CertificatePlaces(roots=(tmp_path,))).get("r.example", 443)


def test_a_context_is_made_anew_when_its_files_change(tmp_path: Path) -> None:
    contexts = TLSContexts(CertificatePlaces(roots=(tmp_path,)))
    common = contexts.get("r.example", 443)
    assert contexts.get("other.example", 443) is common
    place = tmp_path / "r.example"
    place.mkdir()
    trustme.CA().cert_pem.write_to_path(str(place / "ca.crt"))
    first = contexts.get("r.example", 443)
    assert first is not common and contexts.get("r.example", 443) is first
    trustme.CA().cert_pem.write_to_path(str(place / "ca.crt"))
    os.utime(place / "ca.crt", ns=(1, 1))
    assert contexts.get("r.example", 443) is not first
    assert contexts.get("other.example", 443) is common


def test_verification_is_never_off(tmp_path: Path) -> None:
    context = TLSContexts(CertificatePlaces(roots=(tmp_path,))).get("r.example", 443)
    assert context.verify_mode is ssl.CERT_REQUIRED and context.check_hostname


def test_a_handshake_that_is_broken_off(tmp_path: Path) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()

        def hang_up() -> None:
            peer, _ = listener.accept()
            peer.recv(1)
            # Closed with bytes unread: the client sees a reset, not an orderly end.
            peer.close()

        thread = threading.Thread(target=hang_up)
        thread.start()
        with pytest.raises(TLSError, match="handshake"):
            get(f"https://127.0.0.1:{listener.getsockname()[1]}/", tmp_path)
        thread.join(5)


def test_closing_waits_for_what_was_begun_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or the end of the process would take OpenSSL away from under a thread that is in it."""
    contexts = TLSContexts(CertificatePlaces())
    entered, may_end, ended = threading.Event(), threading.Event(), threading.Event()

    def roots(self: TLSContexts) -> None:
        entered.set()
        may_end.wait(10)
        ended.set()

    monkeypatch.setattr(TLSContexts, "_roots", roots)
    contexts.prepare()
    assert entered.wait(10)
    threading.Timer(0.05, may_end.set).start()
    contexts.close()
    assert ended.is_set()
    TLSContexts(CertificatePlaces()).close()  # nothing was begun
