"""The session of the specification, against the shipped registry and Debian's."""

from __future__ import annotations

import hashlib
import io
import json
import random
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import pytest
from support_real import docker_registry

import registry_service
from registry_service import (
    APIVersion,
    AuthConfig,
    Digest,
    DigestMismatchError,
    DoesNotExistError,
    Endpoint,
    HTTPRequestFactory,
    LoginRequiredError,
    LoginResult,
    Manifest,
    Observer,
    RegistryHTTPError,
    RegistrySettings,
    Session,
    login,
)
from registry_service.errors import (
    ConnectionBrokenError,
    CredentialsError,
    InvalidDigestError,
    ManifestError,
)
from registry_service.session.streaming import PART, LostUploadError
from registry_service.testing import Registry
from registry_service.transport import BodyError

LARGE = random.Random(7).randbytes(2 * PART + 12_345)
SMALL = b"some bytes"
FAST = RegistrySettings(retries=3, retry_wait_max=0.01)


def sum_of(data: bytes, algorithm: str = "sha256") -> str:
    return hashlib.new(algorithm, data).hexdigest()


def session(registry: Registry | str, auth: AuthConfig | None = None, **options: Any) -> Session:
    host = registry if isinstance(registry, str) else registry.host
    endpoint = Endpoint.discover(host, settings=FAST)
    return Session(auth, options.pop("factory", None), endpoint, **options)


@pytest.fixture
def registry() -> Iterator[Registry]:
    with Registry() as registry:
        yield registry


@pytest.fixture
def at(registry: Registry) -> Iterator[Session]:
    with session(registry) as made, made.endpoint:
        yield made


class Once(io.RawIOBase):
    """What can be read once: a pipe, say."""

    def __init__(self, data: bytes, most: int = 100_000) -> None:
        self._data = io.BytesIO(data)
        self._most = most

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        return self._data.readinto(memoryview(buffer)[: self._most])


# the public names


def test_every_name_of_the_package_is_there() -> None:
    for name in registry_service.__all__:
        assert getattr(registry_service, name) is not None
    assert set(registry_service.__all__) <= set(dir(registry_service))
    wrong = "Sesion"
    with pytest.raises(AttributeError, match="no attribute 'Sesion'"):
        getattr(registry_service, wrong)


def test_the_names_of_the_package_are_loaded_when_they_are_used() -> None:
    script = "import sys, registry_service\nprint(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert "registry_service.transport" not in done.stdout.split()
    assert "requests" not in done.stdout.split()


# who asks


def test_a_session_tells_who_it_is_without_its_secrets(registry: Registry) -> None:
    auth = AuthConfig(username="ann", password="hush", email="a@b", server_address="x:1")
    with session(registry, auth) as made, made.endpoint:
        assert "hush" not in repr(made)
        assert made.get_auth_config(True) == auth
        known = made.get_auth_config(False)
    assert (known.username, known.password, known.auth) == ("ann", "", "")
    assert (known.email, known.server_address) == ("a@b", "x:1")
    token = AuthConfig(registry_token="secret")
    with session(registry, token) as made, made.endpoint:
        assert made.get_auth_config(False).registry_token == ""


def test_the_factory_s_headers_go_with_each_request(registry: Registry) -> None:
    factory = HTTPRequestFactory({"X-Meta": ["a", "b"]}, products=("builder/2",))
    registry.put_blob("a/b", SMALL)
    with session(registry, factory=factory) as made, made.endpoint:
        made.get_v2_image_blob("a/b", "sha256", sum_of(SMALL), io.BytesIO())
    sent = registry.requests[-1].headers
    assert sent["x-meta"] == "a, b"
    assert sent["user-agent"] == "builder/2 registry-engine/0.1"


def test_a_user_agent_of_the_caller_s_own_is_the_only_one(registry: Registry) -> None:
    factory = HTTPRequestFactory({"user-agent": "mine/1"}, products=("builder",))
    with session(registry, factory=factory) as made, made.endpoint:
        made.get_v2_version()
    assert registry.requests[-1].headers["user-agent"] == "mine/1"


def test_a_factory_refuses_what_is_no_header_and_shows_no_value() -> None:
    with pytest.raises(CredentialsError, match="meta_headers: Host"):
        HTTPRequestFactory({"Host": ["elsewhere"]})
    with pytest.raises(ValueError, match="'two words'"):
        HTTPRequestFactory(products=("two words",))
    assert "hush" not in repr(HTTPRequestFactory({"X-Key": ["hush"]}))


def test_a_token_that_is_given_is_sent_and_the_session_s_own_credentials_are_not() -> None:
    with Registry(auth="token", users={"ann": "pw"}) as registry:
        registry.put_blob("a/b", SMALL)
        blob = ("a/b", "sha256", sum_of(SMALL))
        with session(registry, AuthConfig(username="ann", password="pw")) as made, made.endpoint:
            assert made.get_v2_image_blob(*blob, io.BytesIO()) == len(SMALL)
            assert made.get_v2_image_blob(*blob, io.BytesIO(), "") == len(SMALL)
            for token in ("no-token", ["no-token"]):
                registry.clear_requests()
                with pytest.raises(LoginRequiredError):
                    made.get_v2_image_blob(*blob, io.BytesIO(), token)
                assert {one.scheme.lower() for one in registry.requests} == {"bearer"}
                assert all(not one.path.startswith("/token") for one in registry.requests)


def test_a_version_is_told_and_wrong_credentials_are_refused() -> None:
    with Registry(users={"ann": "pw"}) as registry:
        with session(registry, AuthConfig(username="ann", password="pw")) as made, made.endpoint:
            assert made.get_v2_version().version == "registry/2.0"
        wrong = AuthConfig(username="ann", password="no")
        with (
            session(registry, wrong) as made,
            made.endpoint,
            pytest.raises(LoginRequiredError, match="'ann'"),
        ):
            made.get_v2_version()


def test_a_session_without_a_time_limit_has_none(registry: Registry) -> None:
    """The settings' limit ends what stalls, and a session without one is not ended by it."""
    settings = RegistrySettings(retries=0, read_timeout=0.2)
    registry.put_blob("a/b", SMALL)
    registry.add_fault("stall:path=*/blobs/*,seconds=1")
    with Endpoint.discover(registry.host, settings=settings) as endpoint:
        blob = ("a/b", "sha256", sum_of(SMALL))
        with (
            Session(None, None, endpoint, True) as limited,
            pytest.raises(ConnectionBrokenError),
        ):
            limited.get_v2_image_blob(*blob, io.BytesIO())
        with Session(None, None, endpoint, False) as patient:
            assert patient.get_v2_image_blob(*blob, io.BytesIO()) == len(SMALL)


def test_login_needs_nothing_but_credentials() -> None:
    with Registry(users={"ann": "pw"}) as registry:
        good = AuthConfig(username="ann", password="pw", server_address=registry.host)
        factory = HTTPRequestFactory({"X-Meta": ["a"]})
        assert login(good, factory) == LoginResult(status="Login Succeeded")
        assert registry.requests[-1].headers["x-meta"] == "a"
        with pytest.raises(LoginRequiredError):
            login(AuthConfig(username="ann", password="no", server_address=registry.host))


# manifests, tags, search


def manifest_of(config: bytes = b"{}") -> bytes:
    return json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {
                "mediaType": "application/vnd.oci.image.config.v1+json",
                "digest": f"sha256:{sum_of(config)}",
                "size": len(config),
            },
            "layers": [],
        }
    ).encode()


def test_a_manifest_comes_back_byte_for_byte(at: Session, registry: Registry) -> None:
    raw = manifest_of()
    assert at.put_v2_image_blob("a/b", "sha256", b"{}") == Digest.of(b"{}")
    digest = at.put_v2_image_manifest("a/b", "1", raw)
    assert digest == Digest.of(raw)
    by_tag = at.get_v2_image_manifest("a/b", "1")
    assert bytes(by_tag) == raw
    assert by_tag.digest == digest
    assert at.put_v2_image_manifest("a/b", str(digest), by_tag) == digest
    assert at.get_v2_image_manifest("a/b", str(digest)) == by_tag
    with pytest.raises(DoesNotExistError):
        at.get_v2_image_manifest("a/b", "2")
    with pytest.raises(ManifestError):
        at.put_v2_image_manifest("a/b", "2", b"no manifest")
    with pytest.raises(DigestMismatchError):
        at.put_v2_image_manifest("a/b", f"sha256:{'0' * 64}", raw)


def test_tags_come_from_every_page() -> None:
    with Registry(page_size=3) as registry, session(registry) as made, made.endpoint:
        registry.put_blob("a/b", b"{}")
        wanted = [f"t{number}" for number in range(10)]
        for tag in wanted:
            registry.put_manifest(
                "a/b", tag, manifest_of(), Manifest.parse(manifest_of()).media_type
            )
        assert made.get_v2_remote_tags("a/b") == wanted
        with pytest.raises(DoesNotExistError):
            made.get_v2_remote_tags("a/c")


def test_a_search_finds_repositories_by_name(at: Session, registry: Registry) -> None:
    for name in ("team/app", "team/tool", "other/app"):
        registry.put_blob(name, b"{}")
        registry.put_manifest(name, "1", manifest_of(), Manifest.parse(manifest_of()).media_type)
    found = at.search_repositories("app")
    assert (found.query, found.num_results) == ("app", 2)
    assert {one.name for one in found.results} == {"team/app", "other/app"}
    assert at.search_repositories("app", limit=1).num_results == 1


# blobs that come


def test_a_blob_is_written_after_what_is_there(at: Session, registry: Registry) -> None:
    registry.put_blob("a/b", LARGE)
    writer = io.BytesIO()
    writer.write(b"before")
    assert at.get_v2_image_blob("a/b", "sha256", sum_of(LARGE), writer) == len(LARGE)
    assert writer.getvalue() == b"before" + LARGE


def test_nothing_of_a_blob_that_is_wrong_is_left(at: Session, registry: Registry) -> None:
    registry.put_blob("a/b", LARGE)
    registry.add_fault("corrupt:path=*/blobs/*,offset=100")
    writer = io.BytesIO(b"before")
    writer.seek(0, io.SEEK_END)
    with pytest.raises(DigestMismatchError, match=sum_of(LARGE)):
        at.get_v2_image_blob("a/b", "sha256", sum_of(LARGE), writer)
    assert writer.getvalue() == b"before"

    class Pipe(io.BytesIO):
        def seekable(self) -> bool:
            return False

    pipe = Pipe()
    with pytest.raises(DigestMismatchError):
        at.get_v2_image_blob("a/b", "sha256", sum_of(LARGE), pipe)
    assert len(pipe.getvalue()) < len(LARGE), "it never had the whole"


def test_a_reader_goes_on_where_the_connection_broke(at: Session, registry: Registry) -> None:
    registry.put_blob("a/b", LARGE)
    registry.add_fault(f"drop:path=*/blobs/*,after={PART},times=2")
    registry.clear_requests()
    reader, length = at.get_v2_image_blob_reader("a/b", "sha256", sum_of(LARGE))
    with reader:
        assert length == len(LARGE)
        assert reader.read() == LARGE
        assert reader.read() == b""
    asked = [one.range for one in registry.requests if one.method == "GET"]
    assert len(asked) == 3
    assert asked[0] == ""
    assert all(one.startswith("bytes=") for one in asked[1:])
    assert sum(one.sent for one in registry.requests) < len(LARGE) + 1024 * 1024


def test_a_reader_of_what_is_gone_for_good_says_so(at: Session, registry: Registry) -> None:
    registry.put_blob("a/b", LARGE)
    registry.add_fault("drop:path=*/blobs/*,after=1000")
    reader, _ = at.get_v2_image_blob_reader("a/b", "sha256", sum_of(LARGE))
    with reader, pytest.raises(ConnectionBrokenError):
        reader.read()
    with pytest.raises(ValueError, match="closed"):
        reader.read()


def test_a_reader_is_closed_without_having_been_read(at: Session, registry: Registry) -> None:
    registry.put_blob("a/b", LARGE)
    reader, _ = at.get_v2_image_blob_reader("a/b", "sha256", sum_of(LARGE))
    reader.close()
    reader.close()
    assert at.get_v2_image_blob("a/b", "sha256", sum_of(LARGE), io.BytesIO()) == len(LARGE)


def test_an_empty_blob_is_verified_too(at: Session, registry: Registry) -> None:
    registry.put_blob("a/b", b"")
    assert at.get_v2_image_blob("a/b", "sha256", sum_of(b""), io.BytesIO()) == 0
    registry.put_blob("a/b", SMALL)
    registry.add_fault("short:path=*/blobs/*,after=0")
    with pytest.raises((DigestMismatchError, ConnectionBrokenError)):
        at.get_v2_image_blob("a/b", "sha256", sum_of(SMALL), io.BytesIO())


def test_a_digest_that_nothing_can_be_verified_with_is_refused(
    at: Session, registry: Registry
) -> None:
    registry.clear_requests()
    with pytest.raises(InvalidDigestError, match="sha384"):
        at.get_v2_image_blob("a/b", "sha384", "0" * 96, io.BytesIO())
    with pytest.raises(InvalidDigestError):
        at.put_v2_image_blob("a/b", "md5", SMALL)
    assert registry.requests == []


def test_sha512_is_verified_as_well(at: Session, registry: Registry) -> None:
    digest = at.put_v2_image_blob("a/b", "sha512", LARGE)
    assert str(digest) == f"sha512:{sum_of(LARGE, 'sha512')}"
    writer = io.BytesIO()
    at.get_v2_image_blob("a/b", "sha512", digest.hex, writer)
    assert writer.getvalue() == LARGE


# blobs that go


@pytest.mark.parametrize(
    "data", [b"", SMALL, LARGE[:PART], LARGE], ids=["0", "10", "part", "large"]
)
@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("kind", ["bytes", "file", "pipe", "blocks"])
def test_whatever_is_handed_over_arrives(
    at: Session, registry: Registry, tmp_path: Path, data: bytes, known: bool, kind: str
) -> None:
    reader: Any = data
    if kind == "file":
        path = tmp_path / "blob"
        path.write_bytes(b"skipped" + data)
        reader = path.open("rb")
        reader.seek(7)
    elif kind == "pipe":
        reader = Once(data)
    elif kind == "blocks":
        reader = iter([data[:5], b"", data[5:]])
    digest = f"sha256:{sum_of(data)}"
    got = at.put_v2_image_blob("a/b", "sha256", reader, digest=digest if known else None)
    assert str(got) == digest
    assert registry.blob("a/b", digest) == data
    if kind == "file":
        assert not reader.closed, "it is the caller's"
        reader.close()
    assert registry.open_uploads == 0


def test_what_is_not_known_is_sent_in_parts_while_it_is_read(
    at: Session, registry: Registry
) -> None:
    at.put_v2_image_blob("a/b", "sha256", Once(LARGE))
    methods = [one.method for one in registry.requests if "/uploads/" in one.path]
    assert methods == ["POST", "PATCH", "PATCH", "PATCH", "PUT"]
    sent = [one.received for one in registry.requests if one.method == "PATCH"]
    assert sent == [PART, PART, len(LARGE) - 2 * PART]


@pytest.mark.parametrize("fault", ["drop:", "lost-answer:", "status:code=503,retry-after=0"])
@pytest.mark.parametrize("method", ["PATCH", "PUT"])
def test_a_part_that_did_not_arrive_is_sent_again(
    at: Session, registry: Registry, fault: str, method: str
) -> None:
    """Also from a source that can be read only once."""
    comma = "" if fault.endswith(":") else ","
    switch = registry.add_fault(f"{fault}{comma}method={method},times=2")
    digest = at.put_v2_image_blob("a/b", "sha256", Once(LARGE))
    assert switch.hits
    assert registry.blob("a/b", str(digest)) == LARGE
    at.close()
    assert registry.open_uploads == 0


def test_an_upload_that_the_registry_lost_begins_anew_where_it_can(
    at: Session, registry: Registry
) -> None:
    registry.add_fault("status:method=PATCH,code=404,skip=1,times=1")
    digest = at.put_v2_image_blob("a/b", "sha256", io.BytesIO(LARGE))
    assert registry.blob("a/b", str(digest)) == LARGE
    at.close()
    assert registry.open_uploads == 0


def test_what_can_be_read_only_once_says_that_it_cannot_be_sent_again(
    at: Session, registry: Registry
) -> None:
    registry.add_fault("status:method=PATCH,code=405,times=1")
    with pytest.raises(LostUploadError, match="give a file that can seek"):
        at.put_v2_image_blob("a/b", "sha256", Once(LARGE))
    at.close()
    assert registry.open_uploads == 0


def test_a_registry_that_takes_no_large_parts_gets_small_ones(
    at: Session, registry: Registry
) -> None:
    registry.add_fault("status:method=PATCH,code=413,times=1")
    digest = at.put_v2_image_blob("a/b", "sha256", Once(LARGE))
    assert registry.blob("a/b", str(digest)) == LARGE
    taken = [one for one in registry.requests if one.method == "PATCH" and one.status == 202]
    assert max(one.received for one in taken) <= 1024 * 1024


def test_a_failure_that_no_retry_helps_leaves_no_upload_open(
    at: Session, registry: Registry
) -> None:
    registry.add_fault("status:method=PATCH,code=403,skip=1")
    with pytest.raises(RegistryHTTPError, match="403"):
        at.put_v2_image_blob("a/b", "sha256", Once(LARGE))
    at.close()
    assert registry.open_uploads == 0


@pytest.mark.parametrize("make", [Once, io.BytesIO])
@pytest.mark.parametrize("data", [SMALL, LARGE], ids=["small", "large"])
def test_what_is_not_what_its_digest_says_does_not_arrive(
    at: Session, registry: Registry, make: Any, data: bytes
) -> None:
    wrong = f"sha256:{sum_of(b'else')}"
    with pytest.raises((DigestMismatchError, RegistryHTTPError)):
        at.put_v2_image_blob("a/b", "sha256", make(data), digest=wrong)
    at.close()
    assert registry.open_uploads == 0
    assert not registry.has_blob("a/b", wrong)
    assert not registry.has_blob("a/b", f"sha256:{sum_of(data)}")


def test_what_cannot_be_sent_is_said_before_anything_is_asked(
    at: Session, registry: Registry
) -> None:
    registry.clear_requests()
    anything: Any
    for anything in ("text", 7, None):
        with pytest.raises(TypeError, match="binary file or an iterable"):
            at.put_v2_image_blob("a/b", "sha256", anything)
    with pytest.raises(InvalidDigestError, match="sha512"):
        at.put_v2_image_blob("a/b", "sha512", SMALL, digest=f"sha256:{sum_of(SMALL)}")
    assert registry.requests == []


def test_a_source_that_fails_leaves_no_upload_open(at: Session, registry: Registry) -> None:
    class Failing(Once):
        def readinto(self, buffer: Any, /) -> int:
            if self._data.tell() > PART:
                raise OSError("the disk is gone")
            return super().readinto(buffer)

    source: IO[bytes] | Any = Failing(LARGE)
    with pytest.raises(BodyError, match="the disk is gone"):
        at.put_v2_image_blob("a/b", "sha256", source)
    at.close()
    assert registry.open_uploads == 0


def test_a_mount_that_is_refused_keeps_its_upload_for_the_put(
    at: Session, registry: Registry
) -> None:
    registry.put_blob("x/y", LARGE)
    blob = ("sha256", sum_of(LARGE))
    assert at.post_v2_image_mount_blob("a/b", *blob, from_="x/y") is True
    assert registry.has_blob("a/b", f"sha256:{sum_of(LARGE)}")
    other = ("sha256", sum_of(SMALL))
    assert at.post_v2_image_mount_blob("a/b", *other, from_="x/y") is False
    assert registry.open_uploads == 1
    registry.clear_requests()
    at.put_v2_image_blob("a/b", "sha256", SMALL, digest=f"sha256:{sum_of(SMALL)}")
    assert [one.method for one in registry.requests] == ["PUT"]
    assert at.post_v2_image_mount_blob("a/b", "sha256", sum_of(b"not sent"), from_="x/y") is False
    at.close()
    assert registry.open_uploads == 0, "what was not used is cancelled"


def test_an_upload_of_a_file_goes_on_from_what_the_registry_has(
    registry: Registry, tmp_path: Path
) -> None:
    settings = RegistrySettings(retries=3, retry_wait_max=0.01, upload_chunk=1024 * 1024)
    path = tmp_path / "blob"
    path.write_bytes(LARGE)
    said: list[str] = []
    observer = Observer(log=lambda level, text, /, **fields: said.append(text))
    with (
        Endpoint.discover(registry.host, settings=settings) as endpoint,
        Session(None, None, endpoint, observer=observer) as made,
        path.open("rb") as file,
    ):
        registry.add_fault("drop:method=PATCH,skip=3,times=1")
        made.put_v2_image_blob("a/b", "sha256", file, digest=f"sha256:{sum_of(LARGE)}")
    assert registry.blob("a/b", f"sha256:{sum_of(LARGE)}") == LARGE
    assert any("the registry has" in text for text in said)
    patches = [one.received for one in registry.requests if one.method == "PATCH"]
    assert sum(patches) < len(LARGE) + 2 * 1024 * 1024


def test_the_examples_of_the_documentation_run(capsys: pytest.CaptureFixture[str]) -> None:
    page = (Path(__file__).parent.parent / "docs" / "library.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(blocks) >= 5
    names: dict[str, Any] = {}
    try:
        exec(compile("\n".join(blocks), "docs/library.md", "exec"), names)
    finally:
        for name in {"registry", "old"} & names.keys():
            names[name].stop()
    said = capsys.readouterr().out
    assert "registry/2.0" in said
    assert "AuthConfig(username='ann')" in said
    assert "['1.0']" in said
    assert re.search(r"^6c6c6c6c6c6c [0-9]+ [0-9]+$", said, re.MULTILINE)


def test_everything_works_at_a_real_registry(tmp_path: Path) -> None:
    with docker_registry(tmp_path / "registry") as host, session(host) as at, at.endpoint:
        assert at.endpoint.version is APIVersion.V2
        assert at.get_v2_version().version == "registry/2.0"
        assert at.put_v2_image_blob("a/b", "sha256", Once(LARGE)).hex == sum_of(LARGE)
        assert at.put_v2_image_blob("a/b", "sha256", io.BytesIO(LARGE[1:])).hex == sum_of(LARGE[1:])
        digest = f"sha256:{sum_of(LARGE[2:])}"
        assert str(at.put_v2_image_blob("a/b", "sha256", LARGE[2:], digest=digest)) == digest
        assert at.post_v2_image_mount_blob("c/d", "sha256", sum_of(LARGE), from_="a/b") is True
        at.put_v2_image_blob("c/d", "sha256", b"{}")
        at.put_v2_image_manifest("c/d", "1", manifest_of())
        assert bytes(at.get_v2_image_manifest("c/d", "1")) == manifest_of()
        assert at.get_v2_remote_tags("c/d") == ["1"]
        for data in (LARGE, LARGE[1:], LARGE[2:]):
            writer = io.BytesIO()
            at.get_v2_image_blob("a/b", "sha256", sum_of(data), writer)
            assert writer.getvalue() == data
        assert {one.name for one in at.search_repositories("c/").results} == {"c/d"}
