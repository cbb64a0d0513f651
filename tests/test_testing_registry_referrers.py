"""The test registry's referrers in pages, what it lets be deleted, and changes on condition."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

import pytest
from support_referrers import SBOM, SIGNATURE, put_artifact
from support_registry_http import Answer, call

from registry_service.testing import Registry
from registry_service.testing.images import push_image, random_image

NAME = "test/app"
INDEX = "application/vnd.oci.image.index.v1+json"
IMAGE = random_image(1, layers=1)
WHERE = f"/v2/{NAME}/manifests/list"
KIND = {"Content-Type": INDEX}


def index(**notes: str) -> bytes:
    document: dict[str, Any] = {"schemaVersion": 2, "mediaType": INDEX, "manifests": []}
    return json.dumps({**document, "annotations": notes}).encode()


def put(registry: Registry, raw: bytes, **conditions: str) -> Answer:
    headers = {name.replace("_", "-"): value for name, value in conditions.items()}
    return call(registry, "PUT", WHERE, raw, {**KIND, **headers})


def test_referrers_come_in_pages() -> None:
    with Registry(page_size=2) as registry:
        push_image(registry, NAME, "1", IMAGE)
        made = {str(put_artifact(registry, NAME, IMAGE, bytes([n])).digest) for n in range(4)}
        put_artifact(registry, NAME, IMAGE, kind=SIGNATURE)
        path: str | None = f"/v2/{NAME}/referrers/{IMAGE.digest}?artifactType={quote(SBOM)}"
        found, pages = [], 0
        while path is not None:
            answer = call(registry, "GET", path)
            assert answer.header("OCI-Filters-Applied") == "artifactType"
            found += [one["digest"] for one in answer.json["manifests"]]
            link = answer.headers["Link"]
            path = None if link is None else link.partition(">")[0].removeprefix("<")
            pages += 1
        assert (sorted(found), pages) == (sorted(made), 2)


def test_a_registry_that_does_not_filter_says_nothing_of_filters() -> None:
    with Registry(referrer_filters=False) as registry:
        put_artifact(registry, NAME, IMAGE)
        path = f"/v2/{NAME}/referrers/{IMAGE.digest}?artifactType={quote(SIGNATURE)}"
        answer = call(registry, "GET", path)
        assert answer.headers["OCI-Filters-Applied"] is None
        assert len(answer.json["manifests"]) == 1


@pytest.mark.parametrize(
    ("deletes", "tag", "manifest", "blob"),
    [("all", 202, 202, 202), ("digests", 400, 202, 202), ("none", 405, 405, 405)],
)
def test_what_can_be_deleted_is_chosen(deletes: Any, tag: int, manifest: int, blob: int) -> None:
    with Registry(deletes=deletes) as registry:
        push_image(registry, NAME, "1", IMAGE)
        of = next(iter(IMAGE.blobs))
        for what, status in (
            ("manifests/1", tag),
            (f"manifests/{IMAGE.digest}", manifest),
            (f"blobs/{of}", blob),
        ):
            assert call(registry, "DELETE", f"/v2/{NAME}/{what}").status == status
        assert registry.tags(NAME) == (["1"] if deletes == "none" else [])


def test_there_is_no_other_choice_of_deletes() -> None:
    with pytest.raises(ValueError, match="deletes is 'all', 'digests' or 'none'"):
        Registry(deletes="some")  # type: ignore[arg-type]


def test_a_change_of_something_else_than_there_is_is_refused() -> None:
    with Registry() as registry:
        assert put(registry, index(n="0"), If_Match='"x"').status == 412
        assert put(registry, index(n="1"), If_None_Match="*").status == 201
        assert put(registry, index(n="2"), If_None_Match="*").status == 412
        etag = call(registry, "GET", WHERE).header("ETag")
        assert put(registry, index(n="3"), If_Match=etag).status == 201
        assert put(registry, index(n="4"), If_Match=etag).status == 412
        assert put(registry, index(n="5"), If_Match="*").status == 201
        assert call(registry, "DELETE", WHERE, headers={"If-Match": etag}).status == 412
        assert call(registry, "GET", WHERE).json["annotations"] == {"n": "5"}


def test_a_registry_without_conditions_heeds_none() -> None:
    with Registry(conditions=False) as registry:
        assert put(registry, index(n="1"), If_Match='"x"').status == 201
        assert put(registry, index(n="2"), If_None_Match="*").status == 201
        assert call(registry, "GET", WHERE).headers["ETag"] is None
