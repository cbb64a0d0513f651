"""Debian's docker-registry behind TLS, and as a mirror; each through the whole daemon."""

from __future__ import annotations

import datetime
import shutil
from collections.abc import Iterator
from pathlib import Path

import bcrypt
import pytest
import trustme
from cryptography.hazmat.primitives import serialization
from support_daemon import Daemon, running_daemon
from support_hosts import HERE, section
from support_real import blobs, docker_registry
from support_tokens import counting_front, token_server

from registry_service.testing import Registry
from registry_service.testing.images import push_image, random_image

USER, PASSWORD = "ann", "correct horse"
LONG_AGO = datetime.datetime(2020, 1, 1)


class Certificates:
    """Servers' and clients' certificates below ``root``, each of an authority of its own."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.servers, self.clients = trustme.CA(), trustme.CA()
        self.clients.cert_pem.write_to_path(root / "clients.crt")
        self._issue(self.servers, "127.0.0.1", "server")
        self._issue(self.servers, "elsewhere.example", "misnamed")
        self._issue(self.servers, "127.0.0.1", "outdated", LONG_AGO)
        self._issue(self.clients, "ann@example.org", "good")
        self._issue(self.clients, "ann@example.org", "expired", LONG_AGO)
        self._issue(trustme.CA(), "ann@example.org", "unknown")
        key = serialization.load_pem_private_key((root / "good.key").read_bytes(), None)
        encryption = serialization.BestAvailableEncryption(b"n0b0dy-kn0ws")
        form = serialization.PrivateFormat.PKCS8
        raw = key.private_bytes(serialization.Encoding.PEM, form, encryption)
        (root / "encrypted.key").write_bytes(raw)

    def _issue(
        self, ca: trustme.CA, name: str, place: str, until: datetime.datetime | None = None
    ) -> None:
        made = ca.issue_cert(name, not_after=until)
        made.private_key_pem.write_to_path(self.root / f"{place}.key")
        chain = b"".join(blob.bytes() for blob in made.cert_chain_pems)
        (self.root / f"{place}.cert").write_bytes(chain)

    def trust(self, place: Path) -> None:
        place.mkdir(parents=True, exist_ok=True)
        self.servers.cert_pem.write_to_path(place / "ca.crt")

    def put(
        self, place: Path, certificate: str = "good", key: str = "good", *, of: str = "client"
    ) -> None:
        """The client's, into its place; an empty name leaves one out."""
        for name, kind in ((certificate, "cert"), (key, "key")):
            (place / f"{of}.{kind}").unlink(missing_ok=True)
            if name:
                shutil.copy(self.root / f"{name}.{kind}", place / f"{of}.{kind}")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def htpasswd(made: Certificates) -> Path:
    path = made.root / "htpasswd"
    hashed = bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(4, prefix=b"2a"))
    path.write_bytes(USER.encode() + b":" + hashed + b"\n")
    return path


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    config = tmp_path / "engined.toml"
    config.write_text("")  # certs.d and registries.toml beside it are the default
    with running_daemon(tmp_path / "state", config=config) as running:
        yield running


def fetch_image(daemon: Daemon, target: str) -> str:
    """An image in the daemon's store under the name ``target``; its digest."""
    image = random_image(1, layers=2, layer_size=50_000, platform=HERE)
    with Registry() as origin:
        push_image(origin, "team/app", "1", image)
        daemon.ctl("pull", f"{origin.host}/team/app:1")
        daemon.ctl("tag", f"{origin.host}/team/app:1", target)
    return image.digest


# TLS with a client certificate


def test_there_and_back_with_a_password_and_a_client_certificate(
    daemon: Daemon, made: Certificates, htpasswd: Path, tmp_path: Path
) -> None:
    with docker_registry(
        tmp_path / "registry",
        htpasswd=htpasswd,
        certificate=made.root / "server.cert",
        key=made.root / "server.key",
        client_ca=made.root / "clients.crt",
    ) as host:
        place = tmp_path / "certs.d" / host
        made.trust(place)
        made.put(place)
        options = ["-u", USER, "--password-stdin"]
        digest = fetch_image(daemon, f"{host}/team/app:1")
        pushed = daemon.ctl_json("push", f"{host}/team/app:1", *options, stdin=PASSWORD)
        assert pushed[-1]["digest"] == digest
        config = tmp_path / "second" / "engined.toml"
        config.parent.mkdir()
        config.write_text(f'[service.registry]\ncerts_dirs = ["{tmp_path / "certs.d"}"]\n')
        with running_daemon(tmp_path / "second" / "state", config=config) as other:
            rows = other.ctl_json("pull", f"{host}/team/app:1", *options, stdin=PASSWORD)
            assert rows[-1]["digest"] == digest
            assert blobs(other.state_dir / "images") == blobs(daemon.state_dir / "images")
            # a certificate is no login
            none = other.run_ctl("pull", f"{host}/team/app:1")
            assert (none.returncode, "asks for a login" in none.stderr) == (1, True)
            wrong = other.run_ctl("auth", host, *options, stdin="wr0ng")
            assert f"the user name {USER!r} or its password was refused" in wrong.stderr


def test_each_way_in_which_a_client_certificate_can_fail_has_its_words(
    daemon: Daemon, made: Certificates, tmp_path: Path
) -> None:
    with docker_registry(
        tmp_path / "registry",
        certificate=made.root / "server.cert",
        key=made.root / "server.key",
        client_ca=made.root / "clients.crt",
    ) as host:
        place = tmp_path / "certs.d" / host

        def failure() -> str:
            done = daemon.run_ctl("tags", f"{host}/team/app")
            assert done.returncode in (1, 2)
            assert "n0b0dy-kn0ws" not in done.stderr
            assert "plain http" not in done.stderr  # which was tried in vain
            return done.stderr

        assert f"put the authority's certificate as ca.crt into {place}" in failure()
        made.trust(place)
        assert "wants a client certificate, and there is none" in (none := failure())
        assert f"as client.cert, and its key as client.key, into {place}" in none
        for name in ("unknown", "expired"):
            made.put(place, name, name)
            assert f"refused the client certificate {place / 'client.cert'}" in failure()
        made.put(place, "good", "")
        assert f"{place / 'client.cert'} is there but not {place / 'client.key'}" in failure()
        made.put(place, "", "good")
        assert f"{place / 'client.key'} is there but not {place / 'client.cert'}" in failure()
        made.put(place, "good", "unknown")
        assert "the key belongs to another certificate" in failure()
        made.put(place, "good", "encrypted")
        assert "the key is encrypted" in failure()
        made.put(place)
        (place / "more.crt").symlink_to(tmp_path / "nothing")
        assert f"{place / 'more.crt'} cannot be read: No such file" in failure()
        (place / "more.crt").unlink()
        missing = daemon.run_ctl("tags", f"{host}/team/app")
        assert "NAME_UNKNOWN" in missing.stderr or "does not exist" in missing.stderr


def test_of_several_client_certificates_the_one_that_is_taken_does_it_all(
    daemon: Daemon, made: Certificates, tmp_path: Path
) -> None:
    with docker_registry(
        tmp_path / "registry",
        certificate=made.root / "server.cert",
        key=made.root / "server.key",
        client_ca=made.root / "clients.crt",
    ) as host:
        name, place = f"{host}/team/app:1", tmp_path / "certs.d" / host
        digest = fetch_image(daemon, name)
        made.trust(place)
        made.put(place, "unknown", "unknown", of="a")
        made.put(place, "expired", "expired", of="b")
        refused = daemon.run_ctl("push", name)
        assert refused.returncode == 1
        words = f"refused the client certificates {place / 'a.cert'} and {place / 'b.cert'}"
        assert words in refused.stderr
        made.put(place, of="c")
        assert daemon.ctl_json("push", name)[-1]["state"] == "pushed"
        assert daemon.ctl_json("pull", name)[-1]["digest"] == digest


@pytest.mark.parametrize(
    ("certificate", "words"),
    [
        ("misnamed", "is for another name"),
        ("outdated", "is not valid at this time (certificate has expired)"),
    ],
)
def test_a_server_s_certificate_that_is_not_to_be_trusted(
    daemon: Daemon, made: Certificates, tmp_path: Path, certificate: str, words: str
) -> None:
    with docker_registry(
        tmp_path / "registry",
        certificate=made.root / f"{certificate}.cert",
        key=made.root / f"{certificate}.key",
    ) as host:
        made.trust(tmp_path / "certs.d" / host)
        done = daemon.run_ctl("tags", f"{host}/team/app")
        assert (done.returncode, words in done.stderr) == (1, True), done.stderr
        assert host in done.stderr


def test_tls_and_plain_http_taken_for_each_other(
    daemon: Daemon, made: Certificates, tmp_path: Path
) -> None:
    with (
        docker_registry(
            tmp_path / "secure",
            certificate=made.root / "server.cert",
            key=made.root / "server.key",
        ) as secure,
        docker_registry(tmp_path / "plain") as plain,
    ):
        for address, words in (
            (f"http://{secure}", "the server speaks TLS, and refuses plain http; use https"),
            (f"https://{plain}", "does not speak TLS but, it seems, plain http"),
        ):
            env = f'{{"username":"ann","password":"{PASSWORD}","serveraddress":"{address}"}}'
            done = daemon.run_ctl("run", "auth", "-e", "authConfig=@-", stdin=env)
            assert (done.returncode, words in done.stderr) == (1, True), done.stderr
            assert PASSWORD not in done.stderr


# a mirror


def test_a_pull_through_mirror_never_gets_what_the_origin_asks_for(tmp_path: Path) -> None:
    """The origin has tokens; the mirror has a login of its own there, and none for its clients."""
    users = {USER: PASSWORD, "cache": "c4che's"}
    access = {USER: {"team/app": "pull,push"}, "cache": {"team/app": "pull"}}
    with (
        token_server(tmp_path, users=users, access=access) as tokens,
        docker_registry(tmp_path / "origin", extra={"auth": tokens.settings}) as behind,
        counting_front(behind) as origin,
    ):
        name = f"{origin.host}/team/app:1"
        proxy = {"remoteurl": f"http://{behind}", "username": "cache", "password": "c4che's"}
        config, secret = tmp_path / "engined.toml", tmp_path / "secret"
        config.write_text("")
        secret.touch(0o600)
        secret.write_text(PASSWORD)
        with running_daemon(tmp_path / "first", config=config) as daemon:
            digest = fetch_image(daemon, name)
            daemon.ctl("push", name, "-u", USER, "--password-stdin", stdin=PASSWORD)
        with (
            docker_registry(tmp_path / "cache", extra={"proxy": proxy}) as hidden,
            counting_front(hidden) as mirror,
        ):
            (tmp_path / "registries.toml").write_text(
                section(origin.host, mirrors=[mirror.host], username=USER, password_file=secret)
            )
            before, asked = len(origin.passed), len(tokens.asked)
            with running_daemon(tmp_path / "state", config=config) as daemon:
                for given in ((), ("-u", USER, "--password-stdin")):
                    rows = daemon.ctl_json("pull", name, *given, stdin=PASSWORD if given else "")
                    assert rows[-1]["digest"] == digest
                assert any("/blobs/" in one.path for one in mirror.passed)
                assert {one.authorization for one in mirror.passed} == {""}
                assert origin.passed[before:] == []
                assert {one.user for one in tokens.asked[asked:]} == {"cache"}
        # without the mirror the origin gives it, to who has a login there
        with running_daemon(tmp_path / "third", config=config) as daemon:
            done = daemon.run_ctl("--verbose", "pull", name)
            assert done.returncode == 0, done.stderr
            assert "cannot be reached" in done.stderr or "left alone" in done.stderr
            assert PASSWORD not in done.stderr + done.stdout + daemon.log()
        assert any(one.authorization for one in origin.passed[before:])
        assert tokens.asked[-1].user == USER
