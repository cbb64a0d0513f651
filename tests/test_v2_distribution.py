"""The verbs against Debian's docker-registry, the reference implementation of its time."""

from __future__ import annotations

import functools
import io
import json
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import bcrypt
import pytest
import trustme
from scripted import closed_port
from support_services import require

from registry_service.auth import Authenticator
from registry_service.credentials import AuthConfig
from registry_service.descriptor import Descriptor
from registry_service.digest import Digest
from registry_service.endpoint import Endpoint
from registry_service.errors import LoginRequiredError, RegistryError, TLSError
from registry_service.manifest import OCI_MANIFEST, Manifest
from registry_service.session.search import SearchClient
from registry_service.session.source import RegistrySource
from registry_service.session.v2 import V2Client
from registry_service.settings import RegistrySettings
from registry_service.transport import Transport

BLOB = bytes(range(256)) * 20_000  # 5 MB
LAYER = Descriptor(
    media_type="application/vnd.oci.image.layer.v1.tar", digest=Digest.of(BLOB), size=len(BLOB)
)
CONFIG = Descriptor(
    media_type="application/vnd.oci.image.config.v1+json", digest=Digest.of(b"{}"), size=2
)
ANN = AuthConfig(username="ann", password="s3cr3t")


@pytest.fixture(scope="module")
def distribution(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """A registry behind htpasswd and TLS with an authority of its own: its host, and the
    certs.d directory that trusts it."""
    program = require("docker-registry")
    root = tmp_path_factory.mktemp("distribution")
    host = f"127.0.0.1:{closed_port()}"
    authority = trustme.CA()
    server = authority.issue_cert("127.0.0.1")
    server.private_key_pem.write_to_path(str(root / "key.pem"))
    server.cert_chain_pems[0].write_to_path(str(root / "cert.pem"))
    (root / "certs.d" / host).mkdir(parents=True)
    authority.cert_pem.write_to_path(str(root / "certs.d" / host / "ca.crt"))
    hashed = bcrypt.hashpw(ANN.password.encode(), bcrypt.gensalt(4)).decode()
    (root / "htpasswd").write_text(f"ann:{hashed}\n")
    config = {
        "version": "0.1",
        "log": {"level": "error", "accesslog": {"disabled": True}},
        "storage": {"filesystem": {"rootdirectory": str(root / "data")}},
        "http": {
            "addr": host,
            "tls": {"certificate": str(root / "cert.pem"), "key": str(root / "key.pem")},
        },
        "auth": {"htpasswd": {"realm": "tests", "path": str(root / "htpasswd")}},
    }
    (root / "config.yml").write_text(json.dumps(config))
    with (root / "log").open("wb") as log:
        process = subprocess.Popen(
            [program, "serve", str(root / "config.yml")], stdout=log, stderr=log
        )
        try:
            _await(host, root / "certs.d", process)
            yield host, root / "certs.d"
        finally:
            process.terminate()
            process.wait(10)


def _await(host: str, certs: Path, process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + 20
    pause = threading.Event()
    while True:
        try:
            Endpoint.discover(host, settings=RegistrySettings(certs_dirs=(certs,))).close()
            return
        except RegistryError:
            if time.monotonic() > until or process.poll() is not None:
                raise
            pause.wait(0.05)


@pytest.fixture
def transport(distribution: tuple[str, Path]) -> Iterator[Transport]:
    with Transport(RegistrySettings(certs_dirs=(distribution[1],))) as transport:
        yield transport


@pytest.fixture
def endpoint(distribution: tuple[str, Path], transport: Transport) -> Endpoint:
    return Endpoint.discover(distribution[0], transport=transport)


def client(endpoint: Endpoint, credentials: AuthConfig = ANN) -> V2Client:
    transport = endpoint.transport
    return V2Client(endpoint, transport, Authenticator(endpoint, transport, credentials))


def test_https_and_its_challenge(endpoint: Endpoint) -> None:
    assert endpoint.url.startswith("https://127.0.0.1:")
    assert endpoint.info.version == "registry/2.0"
    assert [one.scheme for one in endpoint.challenges] == ["basic"]


def test_right_wrong_and_no_credentials(endpoint: Endpoint) -> None:
    client(endpoint).ping()
    for credentials in (AuthConfig(), AuthConfig(username="ann", password="wr0ng")):
        with pytest.raises(LoginRequiredError) as caught:
            client(endpoint, credentials).ping()
        assert "wr0ng" not in str(caught.value)


def test_without_its_authority_it_is_not_trusted(distribution: tuple[str, Path]) -> None:
    with pytest.raises(TLSError) as caught:
        Endpoint.discover(distribution[0], settings=RegistrySettings(certs_dirs=()))
    assert caught.value.reason == "unknown-ca"


def test_there_and_back(endpoint: Endpoint) -> None:
    with client(endpoint) as one:
        for descriptor, raw in ((LAYER, BLOB), (CONFIG, b"{}")):
            assert one.blob_size("team/app", descriptor.digest) is None
            one.put_blob("team/app", descriptor, functools.partial(io.BytesIO, raw))
            assert one.blob_size("team/app", descriptor.digest) == descriptor.size
        document = {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": CONFIG.to_json(),
            "layers": [LAYER.to_json()],
        }
        manifest = Manifest.parse(json.dumps(document).encode())
        assert one.put_manifest("team/app", "1.0", manifest) == manifest.digest
        assert one.get_manifest("team/app", "1.0") == manifest
        assert one.head_manifest("team/app", "1.0") == manifest.descriptor
        assert list(one.tags("team/app")) == ["1.0"]

        for offset in (0, 1_000_000):
            blob = RegistrySource(one, "team/app").open(LAYER, offset, one._sender.cancel)
            assert blob.offset == offset
            with blob:
                buffer = memoryview(bytearray(len(BLOB)))
                count = 0
                while more := blob.readinto(buffer[count:]):
                    count += more
            assert bytes(buffer[:count]) == BLOB[offset:]

        assert one.mount_blob("team/other", LAYER.digest, "team/app") is True
        assert one.mount_blob("team/other", Digest.of(b"absent"), "team/app") is False
        assert "team/app" in list(one.catalog())
        found = SearchClient(
            endpoint, endpoint.transport, Authenticator(endpoint, endpoint.transport, ANN)
        ).search("APP")
        assert [result.name for result in found] == ["team/app"]
