"""The V2 endpoints of the test registry, over HTTP, in memory and in a directory."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import ssl
import threading
import urllib.parse
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import trustme
from support_registry_http import Answer, call, connected, exchange

from registry_service.testing import Registry, TLSFiles
from registry_service.testing.images import (
    Image,
    push_image,
    push_synthetic_image,
    random_image,
    random_index,
)

OCI = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
OCTETS = {"Content-Type": "application/octet-stream"}


@pytest.fixture(params=["memory", "directory"])
def registry(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Registry]:
    root = tmp_path / "content" if request.param == "directory" else None
    with Registry(root) as made:
        yield made


def digest(data: bytes, algorithm: str = "sha256") -> str:
    return f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}"


def opened(registry: Registry, name: str = "test/app") -> Answer:
    answer = call(registry, "POST", f"/v2/{name}/blobs/uploads/", b"")
    assert answer.status == 202
    assert answer.header("Range") == "0-0"
    return answer


def closing(location: str, of: str) -> str:
    return f"{location}&digest={urllib.parse.quote(of)}"


def put_all(registry: Registry, name: str, tag: str, image: Image) -> Answer:
    for data in image.blobs.values():
        where = opened(registry, name).header("Location")
        assert call(registry, "PUT", closing(where, digest(data)), data).status == 201
    kind = {"Content-Type": image.media_type}
    return call(registry, "PUT", f"/v2/{name}/manifests/{tag}", image.manifest, kind)


# ping, names, errors


def test_ping(registry: Registry) -> None:
    for path in ("/v2/", "/v2"):
        answer = call(registry, "GET", path)
        assert (answer.status, answer.json) == (200, {})
        assert answer.header("Docker-Distribution-Api-Version") == "registry/2.0"


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v2/nobody/tags/list", 404, "NAME_UNKNOWN"),
        ("GET", "/v2/nobody/manifests/latest", 404, "NAME_UNKNOWN"),
        ("GET", f"/v2/nobody/blobs/{digest(b'')}", 404, "NAME_UNKNOWN"),
        ("GET", "/v2/test/app/manifests/none", 404, "MANIFEST_UNKNOWN"),
        ("GET", f"/v2/test/app/manifests/{digest(b'')}", 404, "MANIFEST_UNKNOWN"),
        ("GET", f"/v2/test/app/blobs/{digest(b'')}", 404, "BLOB_UNKNOWN"),
        ("DELETE", f"/v2/test/app/blobs/{digest(b'')}", 404, "BLOB_UNKNOWN"),
        ("GET", "/v2/test/app/blobs/sha256:12", 400, "DIGEST_INVALID"),
        ("GET", "/v2/UPPER/tags/list", 400, "NAME_INVALID"),
        ("GET", "/v2/a/../b/tags/list", 400, "NAME_INVALID"),
        ("GET", "/v2/test/app/blobs/uploads/none", 404, "BLOB_UPLOAD_UNKNOWN"),
        ("GET", "/v2/test/app/tags/list?n=-1", 400, "PAGINATION_NUMBER_INVALID"),
        ("DELETE", "/v2/test/app/tags/list", 405, "UNSUPPORTED"),
        ("BREW", "/v2/test/app/tags/list", 405, "UNSUPPORTED"),
        ("POST", "/v2/", 405, "UNSUPPORTED"),
        ("GET", "/v2/test", 404, "UNSUPPORTED"),
        ("GET", "/elsewhere", 404, "UNSUPPORTED"),
        ("GET", "/token", 404, "UNSUPPORTED"),
    ],
)
def test_errors_have_their_code(
    registry: Registry, method: str, path: str, status: int, code: str
) -> None:
    registry.put_blob("test/app", b"there is something")
    answer = call(registry, method, path)
    assert (answer.status, answer.codes) == (status, [code])
    assert answer.header("Content-Type") == "application/json"
    assert answer.json["errors"][0]["message"]


# manifests


def test_an_image_that_is_pushed_is_pulled_byte_for_byte(registry: Registry) -> None:
    image = random_image(1, media="docker")
    put = put_all(registry, "test/app", "1.0", image)
    assert put.status == 201
    assert put.header("Docker-Content-Digest") == image.digest
    for reference in ("1.0", image.digest, image.digest.replace(":", "%3A")):
        path = f"/v2/test/app/manifests/{reference}"
        got, head = call(registry, "GET", path), call(registry, "HEAD", path)
        assert got.body == image.manifest
        assert head.body == b""
        for answer in (got, head):
            assert answer.status == 200
            assert answer.header("Content-Type") == image.media_type
            assert answer.header("Docker-Content-Digest") == image.digest
            assert answer.header("Content-Length") == str(len(image.manifest))
    for of, data in image.blobs.items():
        assert call(registry, "GET", f"/v2/test/app/blobs/{of}").body == data


def test_a_manifest_by_sha512(registry: Registry) -> None:
    image = random_image(1, layers=0)
    registry.put_blob("test/app", image.config)
    path = f"/v2/test/app/manifests/{digest(image.manifest, 'sha512')}"
    assert call(registry, "PUT", path, image.manifest, {"Content-Type": OCI}).status == 201
    assert call(registry, "GET", path).body == image.manifest


def test_what_a_manifest_names_must_be_there(registry: Registry) -> None:
    image = random_image(1, layers=2)
    registry.put_blob("test/app", image.layers[0])
    path = "/v2/test/app/manifests/1.0"
    answer = call(registry, "PUT", path, image.manifest, {"Content-Type": OCI})
    assert (answer.status, answer.codes) == (400, ["MANIFEST_BLOB_UNKNOWN"])
    missing = {one["digest"] for one in answer.json["errors"][0]["detail"]}
    assert missing == {digest(image.config), digest(image.layers[1])}
    assert registry.tags("test/app") == []


def test_the_images_of_an_index_must_be_there(registry: Registry) -> None:
    index = random_index(1)
    push_image(registry, "test/app", None, index.images[0])
    path = "/v2/test/app/manifests/1.0"
    answer = call(registry, "PUT", path, index.manifest, {"Content-Type": INDEX})
    assert answer.codes == ["MANIFEST_BLOB_UNKNOWN"]
    push_image(registry, "test/app", None, index.images[1])
    assert call(registry, "PUT", path, index.manifest, {"Content-Type": INDEX}).status == 201


def changed(image: Image, **changes: Any) -> bytes:
    data = {**json.loads(image.manifest), **changes}
    kept = {key: value for key, value in data.items() if value is not None}
    return json.dumps(kept).encode()


@pytest.mark.parametrize(
    "changes",
    [
        {"schemaVersion": 1},
        {"mediaType": INDEX},
        {"config": None},
        {"layers": None},
        {"layers": {}},
        {"layers": [{"digest": "sha256:12"}]},
        {"config": {"digest": 5}},
        {"subject": {"digest": "../x"}},
    ],
)
def test_broken_manifests_are_refused(registry: Registry, changes: dict[str, Any]) -> None:
    raw = changed(random_image(1, layers=1), **changes)
    answer = call(registry, "PUT", "/v2/test/app/manifests/1", raw, {"Content-Type": OCI})
    assert (answer.status, answer.codes) == (400, ["MANIFEST_INVALID"])


@pytest.mark.parametrize("raw", [b"", b"no json", b"[]", b"\xff", b"[" * 100_000])
def test_what_is_no_manifest_is_refused(registry: Registry, raw: bytes) -> None:
    answer = call(registry, "PUT", "/v2/test/app/manifests/1", raw, {"Content-Type": OCI})
    assert (answer.status, answer.codes) == (400, ["MANIFEST_INVALID"])


def test_a_manifest_under_another_digest_is_refused(registry: Registry) -> None:
    image = random_image(1, layers=0)
    registry.put_blob("test/app", image.config)
    path = f"/v2/test/app/manifests/{digest(b'other')}"
    answer = call(registry, "PUT", path, image.manifest, {"Content-Type": OCI})
    assert answer.codes == ["DIGEST_INVALID"]


@pytest.mark.parametrize("chunked", [False, True])
def test_a_manifest_over_four_mebibytes_is_refused(registry: Registry, chunked: bool) -> None:
    raw = b" " * (4 * 1024 * 1024 + 1)
    body = iter([raw[:4096], raw[4096:]]) if chunked else raw
    answer = call(registry, "PUT", "/v2/test/app/manifests/1", body, {"Content-Type": OCI})
    assert (answer.status, answer.codes) == (413, ["SIZE_INVALID"])


def test_foreign_layers_need_not_be_there(registry: Registry) -> None:
    image = random_image(1, layers=0)
    registry.put_blob("test/app", image.config)
    layer = {"digest": digest(b"far"), "size": 3, "urls": ["https://example.org/far"]}
    raw = changed(image, layers=[layer])
    path = "/v2/test/app/manifests/1"
    assert call(registry, "PUT", path, raw, {"Content-Type": OCI}).status == 201


def test_accept_decides_whether_a_manifest_is_given(registry: Registry) -> None:
    push_image(registry, "test/app", "1", random_image(1))
    path = "/v2/test/app/manifests/1"
    docker = "application/vnd.docker.distribution.manifest.v2+json"
    assert call(registry, "GET", path, headers={"Accept": docker}).codes == ["MANIFEST_UNKNOWN"]
    for accept in (OCI, f"{docker}, {OCI};q=0.5", "*/*"):
        assert call(registry, "GET", path, headers={"Accept": accept}).status == 200


def test_deleting_a_tag_leaves_the_manifest_and_deleting_that_takes_all_tags(
    registry: Registry,
) -> None:
    image = random_image(1)
    for tag in ("a", "b", "c"):
        push_image(registry, "test/app", tag, image)
    assert call(registry, "DELETE", "/v2/test/app/manifests/a").status == 202
    assert registry.tags("test/app") == ["b", "c"]
    assert call(registry, "DELETE", f"/v2/test/app/manifests/{image.digest}").status == 202
    assert registry.tags("test/app") == []
    assert call(registry, "GET", f"/v2/test/app/manifests/{image.digest}").status == 404


def test_referrers_name_subject_type_and_annotations(registry: Registry) -> None:
    image = random_image(1, layers=0)
    registry.put_blob("test/app", image.config)
    kind = {"Content-Type": OCI}
    subject = {"mediaType": OCI, "digest": image.digest, "size": len(image.manifest)}
    signature = changed(
        image, subject=subject, artifactType="application/x-sig", annotations={"by": "me"}
    )
    other = changed(image, subject=subject)
    for raw in (signature, other):
        path = f"/v2/test/app/manifests/{digest(raw)}"
        answer = call(registry, "PUT", path, raw, kind)
        assert answer.header("OCI-Subject") == image.digest
    path = f"/v2/test/app/referrers/{image.digest}"
    answer = call(registry, "GET", path)
    assert answer.header("Content-Type") == INDEX
    assert answer.headers["OCI-Filters-Applied"] is None
    found = {one["digest"]: one for one in answer.json["manifests"]}
    assert set(found) == {digest(signature), digest(other)}
    assert found[digest(signature)] == {
        "mediaType": OCI,
        "digest": digest(signature),
        "size": len(signature),
        "artifactType": "application/x-sig",
        "annotations": {"by": "me"},
    }
    config_type = "application/vnd.oci.image.config.v1+json"
    assert found[digest(other)]["artifactType"] == config_type
    answer = call(registry, "GET", path + "?artifactType=application%2Fx-sig")
    assert answer.header("OCI-Filters-Applied") == "artifactType"
    assert [one["digest"] for one in answer.json["manifests"]] == [digest(signature)]
    assert call(registry, "GET", f"/v2/test/app/referrers/{digest(b'')}").json["manifests"] == []


def test_a_registry_without_referrers_says_nothing_of_subjects() -> None:
    image = random_image(1, layers=0)
    with Registry(referrers=False) as registry:
        registry.put_blob("test/app", image.config)
        raw = changed(image, subject={"mediaType": OCI, "digest": digest(b""), "size": 0})
        answer = call(registry, "PUT", "/v2/test/app/manifests/1", raw, {"Content-Type": OCI})
        assert answer.status == 201
        assert answer.headers["OCI-Subject"] is None
        assert call(registry, "GET", f"/v2/test/app/referrers/{digest(b'')}").status == 404


# blobs


@pytest.mark.parametrize("size", [0, 1, 70_000, 5_000_000])
def test_blobs_whole_and_in_ranges(registry: Registry, size: int) -> None:
    data = hashlib.shake_256(b"blob").digest(size)
    path = f"/v2/test/app/blobs/{registry.put_blob('test/app', data)}"
    head, got = call(registry, "HEAD", path), call(registry, "GET", path)
    assert got.body == data
    for answer in (head, got):
        assert answer.header("Content-Length") == str(size)
        assert answer.header("Accept-Ranges") == "bytes"
        assert answer.header("Docker-Content-Digest") == digest(data)
    if size < 2:
        return
    middle = call(registry, "GET", path, headers={"Range": f"bytes=5-{size - 6}"})
    assert (middle.status, middle.body) == (206, data[5:-5])
    assert middle.header("Content-Range") == f"bytes 5-{size - 6}/{size}"
    rest = call(registry, "GET", path, headers={"Range": f"bytes={size - 3}-"})
    assert (rest.status, rest.body) == (206, data[-3:])


def test_a_range_past_the_end_is_416(registry: Registry) -> None:
    path = f"/v2/test/app/blobs/{registry.put_blob('test/app', b'12345')}"
    answer = call(registry, "GET", path, headers={"Range": "bytes=5-"})
    assert (answer.status, answer.codes) == (416, ["RANGE_INVALID"])
    assert answer.header("Content-Range") == "bytes */5"


def test_if_range_of_another_version_gives_everything(registry: Registry) -> None:
    path = f"/v2/test/app/blobs/{registry.put_blob('test/app', b'12345')}"
    etag = call(registry, "HEAD", path).header("ETag")
    same = call(registry, "GET", path, headers={"Range": "bytes=1-", "If-Range": etag})
    other = call(registry, "GET", path, headers={"Range": "bytes=1-", "If-Range": '"x"'})
    assert (same.status, other.status) == (206, 200)


def test_deleting_a_blob_takes_it_from_one_repository_only(registry: Registry) -> None:
    of = registry.put_blob("one", b"data")
    registry.put_blob("two", b"data")
    assert call(registry, "DELETE", f"/v2/one/blobs/{of}").status == 202
    assert not registry.has_blob("one", of)
    assert registry.blob("two", of) == b"data"


def test_synthetic_blobs_have_their_digest_and_ranges(registry: Registry) -> None:
    pattern, size = b"0123456", 3_000_001
    data = (pattern * (size // len(pattern) + 1))[:size]
    of = registry.put_synthetic("test/app", size, pattern)
    assert of == digest(data)
    path = f"/v2/test/app/blobs/{of}"
    assert call(registry, "GET", path).body == data
    part = call(registry, "GET", path, headers={"Range": "bytes=2000003-"})
    assert part.body == data[2_000_003:]


def test_a_synthetic_image_is_complete(registry: Registry) -> None:
    image = push_synthetic_image(registry, "soak", "1", [1 << 20, 2 << 20])
    assert call(registry, "PUT", "/v2/soak/manifests/2", image.manifest).status == 201


# uploads


def test_a_whole_upload_in_one_post(registry: Registry) -> None:
    path = f"/v2/test/app/blobs/uploads/?digest={digest(b'data')}"
    answer = call(registry, "POST", path, b"data", OCTETS)
    assert answer.status == 201
    assert answer.header("Location") == f"/v2/test/app/blobs/{digest(b'data')}"
    assert registry.blob("test/app", digest(b"data")) == b"data"
    assert registry.open_uploads == 0


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_an_upload_in_ordered_chunks(registry: Registry, algorithm: str) -> None:
    data = hashlib.shake_256(b"chunks").digest(10_000)
    answer, at = opened(registry), 0
    for end in (4_000, 9_000):
        place = {**OCTETS, "Content-Range": f"{at}-{end - 1}"}
        answer = call(registry, "PATCH", answer.header("Location"), data[at:end], place)
        assert answer.status == 202
        assert answer.header("Range") == f"0-{end - 1}"
        at = end
    status = call(registry, "GET", answer.header("Location"))
    assert (status.status, status.header("Range")) == (204, "0-8999")
    place = {**OCTETS, "Content-Range": "9000-9999"}
    of = digest(data, algorithm)
    done = call(registry, "PUT", closing(status.header("Location"), of), data[at:], place)
    assert done.status == 201
    assert done.header("Docker-Content-Digest") == of
    assert registry.blob("test/app", of) == data


def test_a_streamed_upload_in_chunked_coding(registry: Registry) -> None:
    parts = [b"x" * 1000, b"y" * 300_000, b"z"]
    answer = call(registry, "PATCH", opened(registry).header("Location"), iter(parts), OCTETS)
    assert answer.status == 202
    data = b"".join(parts)
    done = call(registry, "PUT", closing(answer.header("Location"), digest(data)), b"")
    assert done.status == 201
    assert registry.blob("test/app", digest(data)) == data


@pytest.mark.parametrize("place", ["5-8", "0-3"])
def test_a_chunk_out_of_order_is_416_and_tells_the_place(registry: Registry, place: str) -> None:
    where = opened(registry).header("Location")
    answer = call(registry, "PATCH", where, b"1234", {**OCTETS, "Content-Range": "0-3"})
    wrong = {**OCTETS, "Content-Range": place}
    refused = call(registry, "PATCH", answer.header("Location"), b"5678", wrong)
    assert (refused.status, refused.codes) == (416, ["RANGE_INVALID"])
    assert refused.header("Range") == "0-3"
    right = {**OCTETS, "Content-Range": "4-7"}
    answer = call(registry, "PATCH", refused.header("Location"), b"5678", right)
    assert answer.header("Range") == "0-7"


def test_a_stale_location_is_416_and_one_without_its_query_is_refused(registry: Registry) -> None:
    where = opened(registry).header("Location")
    assert call(registry, "PATCH", where, b"1234", OCTETS).status == 202
    assert call(registry, "PATCH", where, b"5678", OCTETS).codes == ["RANGE_INVALID"]
    bare = where.partition("?")[0]
    assert call(registry, "PATCH", bare, b"5678", OCTETS).codes == ["BLOB_UPLOAD_INVALID"]
    assert call(registry, "GET", bare).header("Range") == "0-3"


@pytest.mark.parametrize("chunked", [False, True])
def test_a_chunk_that_is_not_as_long_as_its_range(registry: Registry, chunked: bool) -> None:
    for data in (b"123", b"12345"):
        where = opened(registry).header("Location")
        body = iter([data]) if chunked else data
        answer = call(registry, "PATCH", where, body, {**OCTETS, "Content-Range": "0-3"})
        assert (answer.status, answer.codes) == (400, ["SIZE_INVALID"])


def test_a_wrong_digest_ends_the_upload_and_keeps_nothing(registry: Registry) -> None:
    where = opened(registry).header("Location")
    answer = call(registry, "PUT", closing(where, digest(b"other")), b"data", OCTETS)
    assert (answer.status, answer.codes) == (400, ["DIGEST_INVALID"])
    assert registry.open_uploads == 0
    assert not registry.has_blob("test/app", digest(b"other"))
    assert call(registry, "GET", where).codes == ["BLOB_UPLOAD_UNKNOWN"]


def test_an_upload_without_a_digest_can_still_be_finished(registry: Registry) -> None:
    where = opened(registry).header("Location")
    assert call(registry, "PUT", where, b"data", OCTETS).codes == ["DIGEST_INVALID"]
    done = call(registry, "PUT", closing(where, digest(b"data")), b"data", OCTETS)
    assert done.status == 201


def test_an_upload_can_be_cancelled(registry: Registry) -> None:
    where = opened(registry).header("Location")
    assert call(registry, "DELETE", where).status == 204
    assert registry.open_uploads == 0
    assert call(registry, "PATCH", where, b"x").codes == ["BLOB_UPLOAD_UNKNOWN"]


def test_an_upload_belongs_to_its_repository(registry: Registry) -> None:
    where = opened(registry, "one").header("Location")
    answer = call(registry, "PATCH", where.replace("/one/", "/two/"), b"x")
    assert answer.codes == ["BLOB_UPLOAD_UNKNOWN"]


def test_a_blob_that_is_there_is_mounted_and_another_one_opens_an_upload(
    registry: Registry,
) -> None:
    of = registry.put_blob("one", b"data")
    answer = call(registry, "POST", f"/v2/two/blobs/uploads/?mount={of}&from=one", b"")
    assert answer.status == 201
    assert answer.header("Docker-Content-Digest") == of
    assert registry.blob("two", of) == b"data"
    for query in (f"mount={digest(b'')}&from=one", f"mount={of}&from=none", f"mount={of}"):
        answer = call(registry, "POST", f"/v2/three/blobs/uploads/?{query}", b"")
        assert answer.status == 202
        assert answer.header("Location").startswith("/v2/three/blobs/uploads/")


def test_absolute_locations() -> None:
    with Registry(absolute_locations=True) as registry:
        where = opened(registry).header("Location")
        assert where.startswith(registry.url + "/v2/test/app/blobs/uploads/")


# lists


def test_tags_in_pages(registry: Registry) -> None:
    for tag in ("c", "a", "B", "d"):
        push_image(registry, "test/app", tag, random_image(1, layers=0))
    assert call(registry, "GET", "/v2/test/app/tags/list").json == {
        "name": "test/app",
        "tags": ["B", "a", "c", "d"],
    }
    path, pages = "/v2/test/app/tags/list?n=2", []
    while path:
        answer = call(registry, "GET", path)
        pages.append(answer.json["tags"])
        link = answer.headers["Link"]
        path = link.partition(">")[0].lstrip("<") if link else ""
    assert pages == [["B", "a"], ["c", "d"]]
    assert call(registry, "GET", "/v2/test/app/tags/list?n=0").json["tags"] == []
    assert call(registry, "GET", "/v2/test/app/tags/list?last=c").json["tags"] == ["d"]


def test_the_page_size_limits_every_list() -> None:
    with Registry(page_size=2) as registry:
        for name in ("b/x", "a", "c"):
            registry.put_blob(name, b"")
        for query in ("", "?n=100"):
            answer = call(registry, "GET", f"/v2/_catalog{query}")
            assert answer.json == {"repositories": ["a", "b/x"]}
            assert answer.header("Link") == '</v2/_catalog?last=b%2Fx&n=2>; rel="next"'
        answer = call(registry, "GET", "/v2/_catalog?last=b%2Fx&n=2")
        assert answer.json == {"repositories": ["c"]}
        assert answer.headers["Link"] is None


# HTTP itself


def test_one_connection_serves_many_requests(registry: Registry) -> None:
    of = registry.put_blob("test/app", b"data" * 1000)
    with connected(registry) as connection:
        for method, path in [
            ("GET", "/v2/"),
            ("HEAD", f"/v2/test/app/blobs/{of}"),
            ("GET", f"/v2/test/app/blobs/{of}"),
            ("GET", "/v2/none/tags/list"),
            ("PATCH", "/v2/test/app/blobs/uploads/none"),
            ("GET", "/v2/"),
        ]:
            connection.request(method, path, b"body" if method == "PATCH" else None)
            connection.getresponse().read()
    assert {entry.connection for entry in registry.requests} == {1}


def test_a_large_body_that_is_refused_gets_its_answer(registry: Registry) -> None:
    data = b"x" * (3 << 20)
    answer = call(registry, "PUT", f"/v2/a/blobs/uploads/none?digest={digest(data)}", data)
    assert answer.codes == ["BLOB_UPLOAD_UNKNOWN"]
    assert answer.header("Connection") == "close"


def test_expect_100_continue_is_answered_when_the_body_is_wanted(registry: Registry) -> None:
    path = f"/v2/a/blobs/uploads/?digest={digest(b'data')}"
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n"
    assert exchange(registry, head.encode() + b"data").startswith(
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 201 Created\r\n"
    )
    refused = head.replace(path, "/v2/a/blobs/uploads/none").replace("POST", "PATCH")
    assert exchange(registry, refused.encode()).startswith(b"HTTP/1.1 404 Not Found\r\n")


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"nonsense\r\n\r\n", b"400"),
        (b"GET / HTTP/3.0\r\n\r\n", b"505"),
        (b"GET none HTTP/1.1\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nContent-Length: x\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\n", b"501"),
        (b"GET /" + b"x" * 70_000 + b" HTTP/1.1\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 200 + b"\r\n", b"400"),
    ],
)
def test_what_is_not_http_gets_an_error_and_is_closed(
    registry: Registry, raw: bytes, status: bytes
) -> None:
    answer = exchange(registry, raw)
    assert answer.startswith(b"HTTP/1.1 " + status + b" ")
    assert b"\r\nConnection: close\r\n" in answer


@pytest.mark.parametrize(
    "framing",
    [
        b"Content-Length: 10\r\n\r\nabc",
        b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc",
        b"Transfer-Encoding: chunked\r\n\r\n3\r\nabcX\r\n0\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nzz\r\n",
    ],
)
def test_a_body_that_breaks_off_is_kept_as_far_as_it_came(
    registry: Registry, framing: bytes
) -> None:
    where = opened(registry).header("Location")
    head = f"PATCH {where} HTTP/1.1\r\nHost: x\r\n".encode()
    assert exchange(registry, head + framing) == b""
    assert call(registry, "GET", where).header("Range") == "0-2"
    entry = next(one for one in registry.requests if one.method == "PATCH")
    assert (entry.status, entry.received, entry.complete) == (None, 3, False)


def test_a_failure_of_the_registry_itself_is_500_and_the_connection_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with Registry(tmp_path) as registry, connected(registry) as connection:
        (tmp_path / "uploads").rmdir()
        connection.request("POST", "/v2/a/blobs/uploads/", b"")
        answer = connection.getresponse()
        assert (answer.status, json.loads(answer.read())["errors"][0]["code"]) == (500, "UNKNOWN")
        assert "FileNotFoundError" in caplog.text
        (tmp_path / "uploads").mkdir()
        connection.request("POST", "/v2/a/blobs/uploads/", b"")
        answer = connection.getresponse()
        answer.read()
        assert answer.status == 202


def test_a_registry_is_started_once() -> None:
    with Registry() as registry, pytest.raises(RuntimeError, match="started once"):
        registry.start()


def test_ipv6() -> None:
    try:
        registry = Registry(host="::1")
        registry.start()
    except OSError:
        pytest.skip("this machine has no IPv6 loopback")
    with contextlib.closing(http.client.HTTPConnection("::1", registry.port, timeout=10)) as ping:
        ping.request("GET", "/v2/")
        assert ping.getresponse().status == 200
    assert registry.url == f"http://[::1]:{registry.port}"
    registry.stop()


def test_put_manifest_checks_names_and_no_content(registry: Registry) -> None:
    of = registry.put_manifest("a", "1", b"anything", "text/plain")
    assert call(registry, "GET", f"/v2/a/manifests/{of}").body == b"anything"
    assert call(registry, "GET", f"/v2/a/referrers/{of}").json["manifests"] == []
    for name, tag in (("A", "1"), ("a", ".")):
        with pytest.raises(ValueError, match="is no"):
            registry.put_manifest(name, tag, b"", "text/plain")
    with pytest.raises(KeyError):
        registry.blob("a", digest(b""))


def test_many_clients_at_once(registry: Registry) -> None:
    data = hashlib.shake_256(b"many").digest(300_000)
    of = registry.put_blob("test/app", data)

    def one(number: int) -> bool:
        mine = data + str(number).encode()
        path = f"/v2/test/app/blobs/uploads/?digest={digest(mine)}"
        assert call(registry, "POST", path, mine).status == 201
        return call(registry, "GET", f"/v2/test/app/blobs/{of}").body == data

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(one, range(32)))


# directory, TLS, life


def test_a_directory_keeps_everything_for_the_next_registry(tmp_path: Path) -> None:
    index = random_index(1)
    with Registry(tmp_path) as registry:
        push_image(registry, "team/app", "1.0", index)
        opened(registry, "team/other")
    with Registry(tmp_path) as registry:
        assert registry.repositories() == ["team/app"]
        assert registry.tags("team/app") == ["1.0"]
        found = registry.manifest("team/app", "1.0")
        assert found is not None
        assert (found.raw, found.media_type) == (index.manifest, index.media_type)
        for image in index.images:
            for of, data in image.blobs.items():
                assert registry.blob("team/app", of) == data
        assert list((tmp_path / "uploads").iterdir()) == []


def test_tags_named_like_directories_make_no_repository(tmp_path: Path) -> None:
    with Registry(tmp_path) as registry:
        push_image(registry, "app", "_blobs", random_image(1, layers=0))
        assert registry.repositories() == ["app"]


def test_a_directory_is_had_by_one_registry_at_a_time(tmp_path: Path) -> None:
    with Registry(tmp_path), pytest.raises(BlockingIOError, match="in use by another registry"):
        Registry(tmp_path)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def tls_files(authority: trustme.CA, folder: Path, *, client_ca: bool = False) -> TLSFiles:
    issued = authority.issue_cert("127.0.0.1")
    issued.private_key_pem.write_to_path(folder / "key.pem")
    issued.cert_chain_pems[0].write_to_path(folder / "cert.pem")
    authority.cert_pem.write_to_path(folder / "ca.pem")
    return TLSFiles(
        cert=folder / "cert.pem",
        key=folder / "key.pem",
        client_ca=folder / "ca.pem" if client_ca else None,
    )


def test_tls(authority: trustme.CA, tmp_path: Path) -> None:
    data = hashlib.shake_256(b"tls").digest(3_000_000)
    with Registry(tmp_path / "content", tls=tls_files(authority, tmp_path)) as registry:
        assert registry.url == f"https://{registry.host}"
        context = ssl.create_default_context(cafile=str(tmp_path / "ca.pem"))
        path = f"/v2/test/app/blobs/uploads/?digest={digest(data)}"
        assert call(registry, "POST", path, data, context=context).status == 201
        got = call(registry, "GET", f"/v2/test/app/blobs/{digest(data)}", context=context)
        assert got.body == data
        with pytest.raises(ssl.SSLCertVerificationError):
            call(registry, "GET", "/v2/", context=ssl.create_default_context())
        assert call(registry, "GET", "/v2/", context=context).status == 200


def test_client_certificates(authority: trustme.CA, tmp_path: Path) -> None:
    files = tls_files(authority, tmp_path, client_ca=True)
    with Registry(tls=files) as registry:
        context = ssl.create_default_context(cafile=str(tmp_path / "ca.pem"))
        # An alert or a reset, as the timing has it.
        with pytest.raises(OSError):
            call(registry, "GET", "/v2/", context=context)
        authority.issue_cert("me@example.org").configure_cert(context)
        assert call(registry, "GET", "/v2/", context=context).status == 200


def test_tls_files_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    (tmp_path / "cert.pem").write_text("nothing")
    files = TLSFiles(cert=tmp_path / "cert.pem", key=tmp_path / "key.pem")
    with pytest.raises(ValueError, match=r"cert\.pem"):
        Registry(tls=files)


def test_only_loopback_is_served_unless_allowed() -> None:
    with pytest.raises(ValueError, match="not a loopback address"):
        Registry(host="0.0.0.0").start()
    with Registry(host="0.0.0.0", allow_remote=True) as registry:
        assert call(registry, "GET", "/v2/").status == 200


def test_an_address_that_is_taken_is_an_error() -> None:
    with (
        Registry() as one,
        pytest.raises(OSError, match=r"[Aa]ddress already in use: '127\.0\.0\.1:\d+'"),
    ):
        Registry(port=one.port).start()


def test_a_registry_ends_all_its_threads_with_connections_open() -> None:
    before = set(threading.enumerate())
    with Registry() as registry, connected(registry) as idle:
        idle.request("GET", "/v2/")
        idle.getresponse().read()
        registry.stop()
        assert set(threading.enumerate()) <= before
        registry.stop()
