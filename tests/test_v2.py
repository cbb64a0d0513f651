"""The verbs against the shipped registry, and against answers that servers really give."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator
from typing import Any

import pytest
from scripted import Request, scripted
from support_manifests import Step, old_image, signed

from registry_service.auth import Authenticator
from registry_service.cancel import Cancellation
from registry_service.constants import APIVersion
from registry_service.credentials import AuthConfig
from registry_service.descriptor import Descriptor
from registry_service.digest import Digest
from registry_service.endpoint import Endpoint
from registry_service.errors import (
    CancelledError,
    ConnectionBrokenError,
    DigestMismatchError,
    DoesNotExistError,
    LoginRequiredError,
    ProtocolError,
    RegistryError,
    RegistryHTTPError,
)
from registry_service.hostrules import HostLimits, HostRules, HostTable
from registry_service.manifest import OCI_INDEX, OCI_MANIFEST, Manifest
from registry_service.media import SCHEMA1_SIGNED
from registry_service.observe import Observer
from registry_service.session import paging
from registry_service.session.blob import range_start
from registry_service.session.source import RegistrySource
from registry_service.session.v2 import V2Client
from registry_service.settings import RegistrySettings
from registry_service.testing import Registry, images
from registry_service.transport import Transport

BLOB = bytes(range(256)) * 4096  # 1 MiB
DIGEST = Digest.of(BLOB)
LAYER = Descriptor(media_type="application/octet-stream", digest=DIGEST, size=len(BLOB))


@pytest.fixture
def transport() -> Iterator[Transport]:
    settings = RegistrySettings(retries=2)
    with Transport(settings, sleep=lambda seconds, cancel: None, dice=lambda: 0.0) as transport:
        yield transport


@pytest.fixture
def registry() -> Iterator[Registry]:
    with Registry() as registry:
        yield registry


def client(
    transport: Transport, host: str, credentials: AuthConfig | None = None, **options: Any
) -> V2Client:
    endpoint = Endpoint(url=f"http://{host}/", version=APIVersion.V2, transport=transport)
    return V2Client(endpoint, transport, Authenticator(endpoint, transport, credentials), **options)


def read_all(blob: Any) -> bytes:
    with blob:
        buffer = memoryview(bytearray(100_000))
        parts = []
        while count := blob.readinto(buffer):
            parts.append(bytes(buffer[:count]))
    return b"".join(parts)


def empty_manifest(**fields: Any) -> bytes:
    config = {
        "mediaType": "application/vnd.oci.image.config.v1+json",
        "size": 2,
        "digest": str(Digest.of(b"{}")),
    }
    document = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": []}
    return json.dumps({**document, **fields}).encode()


# manifests


def test_a_manifest_by_tag_and_by_digest(transport: Transport, registry: Registry) -> None:
    for kind, media in (("oci", OCI_MANIFEST), ("docker", None)):
        image = images.random_image(seed=1, media=kind)  # type: ignore[arg-type]
        images.push_image(registry, "team/app", kind, image)
        one = client(transport, registry.host)
        found = one.get_manifest("team/app", kind)
        assert found.raw == image.manifest
        assert media is None or found.media_type == media
        assert one.get_manifest("team/app", str(found.digest)) == found
        assert one.get_manifest("team/app", found.digest) == found
        assert one.head_manifest("team/app", kind) == found.descriptor
        assert one.head_manifest("team/app", found.digest) == found.descriptor


def test_what_is_not_there(transport: Transport, registry: Registry) -> None:
    one = client(transport, registry.host)
    registry.put_blob("team/app", b"x")
    assert one.head_manifest("team/app", "none") is None
    assert one.blob_size("team/app", DIGEST) is None
    with pytest.raises(
        DoesNotExistError, match=f"manifest {registry.host}/team/app:none"
    ) as caught:
        one.get_manifest("team/app", "none")
    assert (caught.value.http_status, caught.value.retryable) == (404, False)
    with pytest.raises(DoesNotExistError, match=f"team/app@{DIGEST}"):
        one.get_manifest("team/app", DIGEST)
    with pytest.raises(DoesNotExistError, match=f"blob .*@{DIGEST}"):
        one.open_blob("team/app", DIGEST)
    with pytest.raises(DoesNotExistError, match="repository"):
        list(one.tags("no/such"))


def test_bytes_that_are_not_the_digests_are_refused(
    transport: Transport, registry: Registry
) -> None:
    image = images.random_image(seed=1)
    images.push_image(registry, "team/app", "1", image)
    registry.add_fault("corrupt:offset=3,path=/manifests/")
    one = client(transport, registry.host)
    for reference in ("1", image.digest):
        with pytest.raises(DigestMismatchError) as caught:
            one.get_manifest("team/app", reference)
        assert caught.value.retryable


def serve_manifest(raw: bytes, media: str = OCI_MANIFEST, **headers: str) -> Any:
    return lambda request: request.answer(body=raw, headers={"Content-Type": media, **headers})


def test_every_kind_is_asked_for(transport: Transport) -> None:
    with scripted(serve_manifest(empty_manifest())) as server:
        client(transport, server.host).get_manifest("a", "1")
    accept = server.requests[0][2]["Accept"]
    for part in (
        "oci.image.index",
        "oci.image.manifest",
        "manifest.list.v2",
        "manifest.v2+json",
        "manifest.v1+prettyjws",
        "distribution.manifest.v1+json",
    ):
        assert part in accept


def test_a_digest_header_is_believed_as_far_as_it_can_be(transport: Transport) -> None:
    raw = empty_manifest()
    for value in (
        "",
        "nonsense",
        f"sha512:{hashlib.sha512(raw).hexdigest()}",
        f"sha256:{hashlib.sha256(raw).hexdigest()}",
    ):
        with scripted(serve_manifest(raw, **{"Docker-Content-Digest": value})) as server:
            assert client(transport, server.host).get_manifest("a", "1").raw == raw
    wrong = {"Docker-Content-Digest": str(Digest.of(b"else"))}
    with scripted(serve_manifest(raw, **wrong)) as server:
        with pytest.raises(DigestMismatchError):
            client(transport, server.host).get_manifest("a", "1")
        # what a digest asks for is what counts, whatever the header says
        assert client(transport, server.host).get_manifest("a", Digest.of(raw)).raw == raw


def test_schema_1_is_called_what_its_server_calls_it(transport: Transport) -> None:
    old = old_image([Step(command="ADD", blob=b"x")])
    raw = signed(old.raw)
    named = Digest.of(b"what nobody can verify")
    for value, expected in (("", old.digest), (str(named), str(named))):
        headers = {"Docker-Content-Digest": value}
        with scripted(serve_manifest(raw, SCHEMA1_SIGNED, **headers)) as server:
            one = client(transport, server.host)
            assert str(one.get_manifest("a", "1").digest) == expected
            head = one.head_manifest("a", "1")
            assert head is not None and str(head.digest) == expected
            # what is asked for by digest is verified, whatever the header says
            assert str(one.get_manifest("a", old.digest).digest) == old.digest
            with pytest.raises(DigestMismatchError):
                one.get_manifest("a", named)


@pytest.mark.parametrize("fault", ["drop:after=100", "stall:seconds=30,after=100"])
def test_a_document_that_breaks_off_is_asked_for_again(registry: Registry, fault: str) -> None:
    index = images.random_index(1)
    images.push_image(registry, "test/app", "1", index)
    part = Manifest.parse(index.manifest).children[0]
    settings = RegistrySettings(retries=1, read_timeout=0.5)
    with Transport(settings, sleep=lambda seconds, cancel: None) as transport:
        one = client(transport, registry.host)
        registry.add_fault(f"{fault},path=/manifests/,times=1")
        assert one.get_manifest("test/app", "1").raw == index.manifest
        registry.add_fault(f"{fault},path=/manifests/,times=1")
        assert one.get_document("test/app", part) == index.images[0].manifest
        registry.add_fault(fault.replace("100", "5") + ",path=/tags/list,times=1")
        assert list(one.tags("test/app")) == ["1"]
        registry.add_fault(f"{fault},path=/manifests/")
        with pytest.raises(ConnectionBrokenError):
            one.get_manifest("test/app", "1")


def test_a_manifest_over_the_limit_is_not_read() -> None:
    with (
        Transport(RegistrySettings(manifest_limit=2000)) as transport,
        scripted(serve_manifest(b" " * 2001)) as server,
        pytest.raises(ProtocolError, match="2000 bytes that are allowed"),
    ):
        client(transport, server.host).get_manifest("a", "1")


@pytest.mark.parametrize("problem", ["405", "403", "no digest", "no length", "vague type"])
def test_where_head_does_not_tell_get_does(transport: Transport, problem: str) -> None:
    raw = empty_manifest()
    headers = {"Docker-Content-Digest": str(Digest.of(raw)), "Content-Type": OCI_MANIFEST}

    def handler(request: Request) -> None:
        if request.command == "GET":
            request.answer(body=raw, headers=headers)
        elif problem.isdigit():
            request.answer(int(problem))
        elif problem == "no digest":
            request.answer(body=raw, headers={"Content-Type": OCI_MANIFEST})
        elif problem == "vague type":
            request.answer(body=raw, headers={**headers, "Content-Type": "text/plain"})
        else:
            request.answer(headers={**headers, "Transfer-Encoding": "chunked"})

    with scripted(handler) as server:
        found = client(transport, server.host).head_manifest("a", "1")
    assert found == Manifest.parse(raw).descriptor
    assert [method for method, _, _ in server.requests] == ["HEAD", "GET"]


def test_the_reason_of_a_refused_head_is_asked_for(transport: Transport) -> None:
    def handler(request: Request) -> None:
        body = {"errors": [{"code": "DENIED", "message": "not yours"}]}
        request.answer(403, b"" if request.command == "HEAD" else body)

    with (
        scripted(handler) as server,
        pytest.raises(RegistryHTTPError, match="not yours"),
    ):
        client(transport, server.host).head_manifest("a", "1")


def test_put_manifest_keeps_bytes_and_type(transport: Transport, registry: Registry) -> None:
    one = client(transport, registry.host)
    config = b"{}"
    one.put_blob(
        "team/app",
        Descriptor(media_type="a/b", digest=Digest.of(config), size=2),
        lambda: io.BytesIO(config),
    )
    manifest = Manifest.parse(empty_manifest(annotations={"a": "ü"}) + b"\n ")
    assert one.put_manifest("team/app", "1", manifest) == manifest.digest
    stored = registry.manifest("team/app", "1")
    assert stored is not None
    assert (stored.raw, stored.media_type) == (manifest.raw, OCI_MANIFEST)
    assert one.put_manifest("team/app", manifest.digest, manifest) == manifest.digest
    with pytest.raises(DigestMismatchError, match="cannot be put as"):
        one.put_manifest("team/app", Digest.of(b"x"), manifest)


def test_a_manifest_whose_parts_are_missing_is_refused_with_the_reason(
    transport: Transport, registry: Registry
) -> None:
    manifest = Manifest.parse(empty_manifest())
    with pytest.raises(RegistryHTTPError) as caught:
        client(transport, registry.host).put_manifest("team/app", "1", manifest)
    assert caught.value.has("MANIFEST_BLOB_UNKNOWN")
    assert str(Digest.of(b"{}")) in str(caught.value)


def test_a_wrong_digest_in_the_answer_is_noticed(transport: Transport) -> None:
    headers = {"Docker-Content-Digest": str(Digest.of(b"other"))}

    def handler(request: Request) -> None:
        request.read_body()
        request.answer(201, headers=headers)

    with scripted(handler) as server, pytest.raises(DigestMismatchError, match="was sent"):
        client(transport, server.host).put_manifest("a", "1", Manifest.parse(empty_manifest()))


def test_a_manifest_that_was_changed_on_the_way_is_sent_again(transport: Transport) -> None:
    """Under a tag a registry takes what came, and names it so: that must not stay."""
    manifest = Manifest.parse(empty_manifest())
    under_the_tag = b""

    def handler(request: Request) -> None:
        nonlocal under_the_tag
        first = not under_the_tag
        under_the_tag = request.read_body()
        if first:
            under_the_tag = under_the_tag.replace(b"layers", b"leyers")
        request.answer(201, headers={"Docker-Content-Digest": str(Digest.of(under_the_tag))})

    with scripted(handler) as server:
        client(transport, server.host).put_manifest("a", "1", manifest)
    assert under_the_tag == manifest.raw


# blobs on their way in


def test_a_blob_from_its_start_and_from_the_middle(
    transport: Transport, registry: Registry
) -> None:
    registry.put_blob("team/app", BLOB)
    one = client(transport, registry.host)
    assert one.blob_size("team/app", DIGEST) == len(BLOB)
    source = RegistrySource(one, "team/app")
    for offset in (0, 1, 500_000, len(BLOB) - 1):
        blob = source.open(LAYER, offset, Cancellation())
        assert (blob.offset, blob.length) == (offset, len(BLOB) - offset)
        assert read_all(blob) == BLOB[offset:]
    assert [request.range for request in registry.requests][2:] == [
        "bytes=1-",
        "bytes=500000-",
        f"bytes={len(BLOB) - 1}-",
    ]


@pytest.mark.parametrize("fault", ["no-range", "wrong-range"])
def test_where_the_range_is_not_kept_the_whole_comes(
    transport: Transport, registry: Registry, fault: str
) -> None:
    registry.put_blob("team/app", BLOB)
    registry.add_fault(f"{fault}:path=/blobs/")
    blob = client(transport, registry.host).open_blob("team/app", DIGEST, 1000)
    assert blob.offset == 0
    assert read_all(blob) == BLOB


def test_past_the_end_there_is_nothing(transport: Transport, registry: Registry) -> None:
    registry.put_blob("team/app", BLOB)
    with pytest.raises(RegistryHTTPError) as caught:
        client(transport, registry.host).open_blob("team/app", DIGEST, len(BLOB) + 1)
    assert caught.value.http_status == 416


@pytest.mark.parametrize("fault", ["drop:after=1000", "drop:after=1000,reset=yes"])
def test_a_blob_that_breaks_off_is_an_error(
    transport: Transport, registry: Registry, fault: str
) -> None:
    registry.put_blob("team/app", BLOB)
    registry.add_fault(f"{fault},path=/blobs/")
    blob = client(transport, registry.host).open_blob("team/app", DIGEST)
    with pytest.raises(ConnectionBrokenError) as caught:
        read_all(blob)
    assert caught.value.retryable


def test_a_blobs_storage_elsewhere_gets_no_credentials(transport: Transport) -> None:
    with scripted(lambda request: request.answer(body=BLOB)) as storage:

        def handler(request: Request) -> None:
            if request.headers.get("Authorization"):
                location = f"{storage.url}/bucket?X-Signature=abc"
                request.answer(307, headers={"Location": location})
            else:
                request.answer(401, headers={"WWW-Authenticate": "Basic realm=/"})

        with scripted(handler) as server:
            one = client(
                transport,
                server.host,
                AuthConfig(username="me", password="pw"),
                headers={"X-Mine": ["secret"]},
            )
            assert read_all(one.open_blob("a", DIGEST)) == BLOB
    (request,) = storage.requests
    assert "Authorization" not in request[2] and "X-Mine" not in request[2]
    assert server.requests[0][2]["X-Mine"] == "secret"


def test_a_401_of_the_storage_is_not_answered(transport: Transport) -> None:
    headers = {"WWW-Authenticate": "Basic realm=/"}
    with scripted(lambda request: request.answer(401, headers=headers)) as storage:
        location = {"Location": storage.url}
        with scripted(lambda request: request.answer(307, headers=location)) as server:
            one = client(transport, server.host, AuthConfig(username="me", password="pw"))
            with pytest.raises(LoginRequiredError):
                one.open_blob("a", DIGEST)
    assert len(storage.requests) == 1


@pytest.mark.parametrize("good", [True, False])
def test_a_storage_with_tokens_of_its_own_gets_one_that_is_nobody_s(
    transport: Transport, good: bool
) -> None:
    def handler(request: Request) -> None:
        if request.path.startswith("/token"):
            request.answer(body={"token": "nobody-s"})
        elif good and request.headers.get("Authorization") == "Bearer nobody-s":
            request.answer(body=BLOB)
        else:
            challenge = 'Bearer realm="/token",service="store",scope="repository:b:pull"'
            request.answer(401, headers={"WWW-Authenticate": challenge})

    with scripted(handler) as storage:
        location = {"Location": f"{storage.url}/blob"}
        with scripted(lambda request: request.answer(307, headers=location)) as server:
            one = client(transport, server.host, AuthConfig(username="me", password="pl4nted"))
            if good:
                with one.open_blob("a", DIGEST) as blob:
                    buffer = memoryview(bytearray(len(BLOB)))
                    assert blob.readinto(buffer)
            else:
                with pytest.raises(LoginRequiredError):
                    one.open_blob("a", DIGEST)
    assert [path for _, path, _ in storage.requests] == [
        "/blob",
        "/token?service=store&scope=repository%3Ab%3Apull",
        "/blob",
    ]
    sent = [headers.get("Authorization") for _, _, headers in storage.requests]
    assert sent == [None, None, "Bearer nobody-s"]


def test_the_size_where_head_does_not_tell(transport: Transport) -> None:
    def handler(request: Request) -> None:
        if request.command == "HEAD":
            request.answer(405)
        else:
            request.answer(body=BLOB)

    with scripted(handler) as server:
        assert client(transport, server.host).blob_size("a", DIGEST) == len(BLOB)


def test_read_blob_verifies_and_has_a_limit(transport: Transport, registry: Registry) -> None:
    registry.put_blob("team/app", BLOB)
    one = client(transport, registry.host)
    assert one.read_blob("team/app", LAYER, limit=len(BLOB)) == BLOB
    with pytest.raises(ProtocolError, match="are allowed"):
        one.read_blob("team/app", LAYER, limit=1000)
    registry.add_fault("corrupt:offset=3,path=/blobs/")
    with pytest.raises(DigestMismatchError):
        one.read_blob("team/app", LAYER, limit=len(BLOB))


def test_a_source_is_cancelled_by_its_own_cancellation(
    transport: Transport, registry: Registry
) -> None:
    registry.put_blob("team/app", BLOB)
    cancel = Cancellation()
    source = RegistrySource(client(transport, registry.host), "team/app")
    blob = source.open(LAYER, 0, cancel)
    blob.readinto(memoryview(bytearray(10)))
    cancel.cancel()
    with pytest.raises(CancelledError):
        read_all(blob)
    assert read_all(source.open(LAYER, 0, Cancellation())) == BLOB


@pytest.mark.parametrize(
    ("value", "start"),
    [
        ("bytes 5-9/10", 5),
        ("bytes 5-9/*", 5),
        ("5-9/10", 5),
        ("bytes=0-0/1", 0),
        (None, None),
        ("", None),
        ("bytes */10", None),
        ("items 1-2/3", None),
    ],
)
def test_content_ranges(value: str | None, start: int | None) -> None:
    assert range_start(value) == start


# blobs on their way out


def test_a_blob_is_put_as_a_stream(transport: Transport, registry: Registry) -> None:
    told: list[tuple[str, str, int, int]] = []
    one = client(transport, registry.host)
    digest = one.put_blob(
        "team/app", LAYER, lambda: io.BytesIO(BLOB), progress=lambda *seen: told.append(seen)
    )
    assert digest == DIGEST
    assert registry.blob("team/app", str(DIGEST)) == BLOB
    assert [request.method for request in registry.requests] == ["POST", "PUT"]
    assert told[0] == (str(DIGEST), "pushing", 0, len(BLOB))
    assert told[-1] == (str(DIGEST), "pushing", len(BLOB), len(BLOB))
    assert registry.open_uploads == 0


def test_an_empty_blob_and_a_sha512(transport: Transport, registry: Registry) -> None:
    one = client(transport, registry.host)
    for digest in (Digest.of(b""), Digest.of(b"", "sha512")):
        descriptor = Descriptor(media_type="a/b", digest=digest, size=0)
        one.put_blob("team/app", descriptor, lambda: io.BytesIO(b""))
        assert registry.has_blob("team/app", str(digest))


def test_absolute_locations(transport: Transport) -> None:
    with Registry(absolute_locations=True) as registry:
        client(transport, registry.host).put_blob("a/b", LAYER, lambda: io.BytesIO(BLOB))
        assert registry.has_blob("a/b", str(DIGEST))


@pytest.mark.parametrize(
    "fault",
    [
        "drop:after=100000,method=PUT,times=1",
        "status:code=503,method=PUT,times=1",
        "status:code=500,method=PUT,times=1",
        "status:code=502,method=POST,times=1",
        "status:code=404,method=PUT,times=1",
        "lost-answer:method=PUT,times=1",
    ],
)
def test_an_upload_that_failed_is_made_again(
    transport: Transport, registry: Registry, fault: str
) -> None:
    logs: list[str] = []

    def log(level: str, text: str, /, **fields: Any) -> None:
        logs.append(text)

    registry.add_fault(fault)
    one = client(transport, registry.host, observer=Observer(log=log))
    one.put_blob("team/app", LAYER, lambda: io.BytesIO(BLOB))
    assert registry.blob("team/app", str(DIGEST)) == BLOB
    assert any("again" in text for text in logs)
    one.close()
    assert registry.open_uploads == 0


def test_bytes_that_do_not_match_are_refused_by_the_registry(
    transport: Transport, registry: Registry
) -> None:
    other = bytes(reversed(BLOB))
    one = client(transport, registry.host)
    with pytest.raises(RegistryHTTPError) as caught:
        one.put_blob("team/app", LAYER, lambda: io.BytesIO(other))
    assert caught.value.has("DIGEST_INVALID")
    assert not registry.has_blob("team/app", str(DIGEST))


def test_a_push_that_is_refused_is_not_repeated(transport: Transport, registry: Registry) -> None:
    registry.add_fault("status:code=403,method=POST")
    with pytest.raises(RegistryHTTPError, match="403"):
        client(transport, registry.host).put_blob("a/b", LAYER, lambda: io.BytesIO(BLOB))
    assert len(registry.requests) == 1


def test_a_mount_takes_the_blob_over(transport: Transport) -> None:
    with Registry(auth="token", users={"ann": "pw"}) as registry:
        registry.put_blob("team/base", BLOB)
        one = client(transport, registry.host, AuthConfig(username="ann", password="pw"))
        one.put_blob(
            "team/app",
            Descriptor(media_type="a/b", digest=Digest.of(b"x"), size=1),
            lambda: io.BytesIO(b"x"),
        )
        assert one.mount_blob("team/app", DIGEST, "team/base") is True
        assert registry.has_blob("team/app", str(DIGEST))
        tokens = [request for request in registry.requests if request.path == "/token"]
        assert tokens[-1].query["scope"] == (
            "repository:team/app:pull,push",
            "repository:team/base:pull",
        )


def test_a_refused_mount_is_the_upload_of_the_next_put(
    transport: Transport, registry: Registry
) -> None:
    one = client(transport, registry.host)
    assert one.mount_blob("team/app", DIGEST, "no/such") is False
    assert registry.open_uploads == 1
    one.put_blob("team/app", LAYER, lambda: io.BytesIO(BLOB))
    assert registry.open_uploads == 0
    assert [request.method for request in registry.requests] == ["POST", "PUT"]


def test_uploads_that_are_left_over_are_cancelled(transport: Transport, registry: Registry) -> None:
    with client(transport, registry.host) as one:
        one.mount_blob("team/app", DIGEST, "no/such")
        registry.add_fault("status:code=400,method=PUT")
        with pytest.raises(RegistryHTTPError):
            one.put_blob(
                "team/app",
                Descriptor(media_type="a/b", digest=Digest.of(b"x"), size=1),
                lambda: io.BytesIO(b"x"),
            )
        assert registry.open_uploads == 2
    assert registry.open_uploads == 0


def test_a_cancelled_upload_is_given_up(transport: Transport, registry: Registry) -> None:
    cancel = Cancellation()
    one = client(transport, registry.host, cancel=cancel)

    def progress(key: str, phase: str, done: int, total: int, /) -> None:
        if done:
            cancel.cancel()

    with pytest.raises(CancelledError):
        one.put_blob("team/app", LAYER, lambda: io.BytesIO(BLOB), progress=progress)
    assert not registry.has_blob("team/app", str(DIGEST))
    one.close()
    registry.wait_for(lambda log: any(request.method == "DELETE" for request in log))


def test_where_an_upload_goes_is_the_servers_to_say(transport: Transport) -> None:
    """A query stays as it is; another host gets no credentials."""

    def take(request: Request) -> None:
        request.read_body()
        request.answer(201)

    with scripted(take) as storage:

        def handler(request: Request) -> None:
            request.read_body()
            if not request.headers.get("Authorization"):
                request.answer(401, headers={"WWW-Authenticate": "Basic realm=/"})
            elif request.command == "POST":
                place = storage.url if "/far/" in request.path else ""
                location = f"{place}/up?_state=a%2Bb%3D&x=y"
                request.answer(202, headers={"Location": location})
            else:
                request.answer(201)

        with scripted(handler) as server:
            one = client(transport, server.host, AuthConfig(username="me", password="pw"))
            for name in ("near", "far"):
                one.put_blob(name, LAYER, lambda: io.BytesIO(BLOB))
    assert server.paths("PUT") == [f"/up?_state=a%2Bb%3D&x=y&digest={DIGEST}"]
    ((_, path, headers),) = storage.requests
    assert path == f"/up?_state=a%2Bb%3D&x=y&digest={DIGEST}"
    assert "Authorization" not in headers


def test_an_upload_without_a_location_is_an_error(transport: Transport) -> None:
    with (
        scripted(lambda request: request.answer(202)) as server,
        pytest.raises(ProtocolError, match="without a Location"),
    ):
        client(transport, server.host).put_blob("a", LAYER, lambda: io.BytesIO(BLOB))


# lists


def test_tags_and_catalog_come_page_by_page(transport: Transport) -> None:
    with Registry(page_size=3) as registry:
        raw = empty_manifest()
        names = [f"t{number:02}" for number in range(10)]
        for name in names:
            registry.put_manifest("team/app", name, raw, OCI_MANIFEST)
            registry.put_manifest(f"team/{name}", "1", raw, OCI_MANIFEST)
        one = client(transport, registry.host)
        assert list(one.tags("team/app")) == names
        assert set(one.catalog()) == {"team/app", *(f"team/{name}" for name in names)}
        assert sum(request.path.endswith("tags/list") for request in registry.requests) >= 4


@pytest.mark.parametrize("value", ["null", "[]", None])
def test_lists_that_are_null(transport: Transport, value: str | None) -> None:
    body = "{}" if value is None else f'{{"name": "a", "tags": {value}}}'
    with scripted(lambda request: request.answer(body=body)) as server:
        assert list(client(transport, server.host).tags("a")) == []


def test_null_tags_are_left_out(transport: Transport) -> None:
    with scripted(lambda request: request.answer(body='{"tags": ["a", null, 5, "b"]}')) as server:
        assert list(client(transport, server.host).tags("a")) == ["a", "b"]


def test_a_server_that_takes_no_such_page_is_asked_without(transport: Transport) -> None:
    def handler(request: Request) -> None:
        if "n=" in request.path:
            request.answer(400)
        else:
            request.answer(body='{"tags": ["a"]}')

    with scripted(handler) as server:
        assert list(client(transport, server.host).tags("a")) == ["a"]


@pytest.mark.parametrize(
    ("link", "words"),
    [
        ("<http://evil.example/v2/a/tags/list>; rel=next", "another server"),
        ('</v2/a/tags/list?n=1000>; rel="next"', "in a circle"),
    ],
)
def test_links_that_are_not_followed(transport: Transport, link: str, words: str) -> None:
    def handler(request: Request) -> None:
        request.answer(body='{"tags": ["a"]}', headers={"Link": link})

    with scripted(handler) as server, pytest.raises(ProtocolError, match=words):
        list(client(transport, server.host).tags("a"))


@pytest.mark.parametrize(
    "link",
    [
        '<?last=a>; rel="next"',
        "</v2/a/tags/list?last=a>;rel=next",
        '</x>; rel="prev", </v2/a/tags/list?last=a>; title="t"; REL="next last"',
    ],
)
def test_links_as_servers_write_them(transport: Transport, link: str) -> None:
    def handler(request: Request) -> None:
        if "last=a" in request.path:
            request.answer(body='{"tags": ["b"]}')
        else:
            request.answer(body='{"tags": ["a"]}', headers={"Link": link})

    with scripted(handler) as server:
        assert list(client(transport, server.host).tags("a")) == ["a", "b"]


def test_a_name_that_is_listed_twice_comes_once(transport: Transport) -> None:
    def handler(request: Request) -> None:
        more = {} if "last=" in request.path else {"Link": "<?last=b>; rel=next"}
        request.answer(body='{"tags": ["b", "a", "b"]}', headers=more)

    with scripted(handler) as server:
        assert list(client(transport, server.host).tags("a")) == ["b", "a"]


@pytest.mark.parametrize(
    ("tags", "words"),
    [("", "500 pages in a row brought nothing new"), ('"{0}a", "{0}b"', "more than 1000 entries")],
)
def test_lists_without_an_end_are_given_up(
    transport: Transport, monkeypatch: pytest.MonkeyPatch, tags: str, words: str
) -> None:
    monkeypatch.setattr(paging, "_MOST", 1000)

    def handler(request: Request) -> None:
        page = len(server.requests)
        body = f'{{"tags": [{tags.format(page)}]}}'
        request.answer(body=body, headers={"Link": f"<?last={page}>; rel=next"})

    with scripted(handler) as server, pytest.raises(ProtocolError, match=words):
        list(client(transport, server.host).tags("a"))


def test_a_short_or_empty_page_is_not_the_end(transport: Transport) -> None:
    def handler(request: Request) -> None:
        page = len(server.requests)
        more = {"Link": f"<?last={page}>; rel=next"} if page < 50 else {}
        request.answer(body={"tags": ["a"] if page in (1, 50) else []}, headers=more)

    with scripted(handler) as server:
        list(client(transport, server.host).tags("a"))
        assert len(server.requests) == 50


@pytest.mark.parametrize("body", ["<html>", "[]", '{"tags": "a"}', '{"tags": {}}'])
def test_lists_that_are_none(transport: Transport, body: str) -> None:
    with (
        scripted(lambda request: request.answer(body=body)) as server,
        pytest.raises(ProtocolError),
    ):
        list(client(transport, server.host).tags("a"))


def test_a_v1_endpoint_is_refused(transport: Transport) -> None:
    endpoint = Endpoint(url="http://127.0.0.1/", version=APIVersion.V1, transport=transport)
    with pytest.raises(RegistryError, match="V1"):
        V2Client(endpoint, transport, Authenticator(endpoint, transport))


def test_an_index_is_read_as_such(transport: Transport) -> None:
    raw = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []}).encode()
    with scripted(serve_manifest(raw, f"{OCI_INDEX}; charset=utf-8")) as server:
        assert client(transport, server.host).get_manifest("a", "1").is_index


def test_a_registry_that_stays_down_is_not_asked_for_ever(
    transport: Transport, registry: Registry
) -> None:
    registry.add_fault("status:code=503,method=PUT")
    with pytest.raises(RegistryHTTPError, match="503"):
        client(transport, registry.host).put_blob("a/b", LAYER, lambda: io.BytesIO(BLOB))
    assert sum(request.method == "PUT" for request in registry.requests) == 3
    registry.clear_requests()
    registry.add_fault("status:code=503,method=POST")
    with pytest.raises(RegistryHTTPError, match="503"):
        client(transport, registry.host).put_blob("a/b", LAYER, lambda: io.BytesIO(BLOB))
    assert len(registry.requests) == 3


def test_a_registrys_warnings_are_passed_on_once(transport: Transport) -> None:
    logs: list[str] = []

    def log(level: str, text: str, /, **fields: Any) -> None:
        logs.append(f"{level}: {text}")

    warnings = ['299 - "moving \\"soon\\""', '299 - "read only"', '199 - "other"', "nonsense"]
    with scripted(lambda request: request.answer(headers={"Warning": warnings})) as server:
        one = client(transport, server.host, observer=Observer(log=log))
        one.ping()
        one.ping()
    assert logs == [
        f'warning: {server.host} warns: moving "soon"',
        f"warning: {server.host} warns: read only",
    ]


def test_an_answer_whose_warning_nobody_hears_any_more_is_over() -> None:
    """Its place among those that its host allows at once is free again."""

    def log(level: str, text: str, /, **fields: Any) -> None:
        raise CancelledError

    rules = HostRules(limits=HostLimits(concurrent=1))
    settings = RegistrySettings(retries=0, hosts=HostTable(default=rules))
    answer = {"Warning": '299 - "moving"'}
    with (
        scripted(lambda request: request.answer(body=b"{}", headers=answer)) as server,
        Transport(settings) as transport,
    ):
        for _ in range(3):
            with pytest.raises(CancelledError):
                client(transport, server.host, observer=Observer(log=log)).ping()


def test_a_server_behind_a_proxy_that_takes_itself_for_plain_http(transport: Transport) -> None:
    endpoint = Endpoint(url="https://r.example/", version=APIVersion.V2, transport=transport)
    one = V2Client(endpoint, transport, Authenticator(endpoint, transport))
    at_home = one._sender.at_home
    assert at_home("http://r.example/v2/a?b=c") == "https://r.example/v2/a?b=c"
    for other in ("http://r.example:5000/x", "http://s.example/x", "https://r.example/x"):
        assert at_home(other) == other


def test_a_registry_that_does_not_say_a_size(transport: Transport) -> None:
    def handler(request: Request) -> None:
        if request.command == "HEAD":
            request.answer(403)
        else:
            request.answer(body=b"0\r\n\r\n", headers={"Transfer-Encoding": "chunked"})

    with (
        scripted(handler) as server,
        pytest.raises(ProtocolError, match="does not say the size"),
    ):
        client(transport, server.host).blob_size("a", DIGEST)


def test_errors_of_a_ping_and_of_a_small_blob(transport: Transport) -> None:
    with scripted(lambda request: request.answer(404)) as server:
        one = client(transport, server.host)
        with pytest.raises(RegistryHTTPError, match="404"):
            one.ping()
        with pytest.raises(DoesNotExistError, match="blob"):
            one.read_blob("a", LAYER, limit=len(BLOB))
        with pytest.raises(RegistryHTTPError, match="404"):
            one.mount_blob("a", DIGEST, "b")
