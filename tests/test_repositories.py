"""What is done in registries: catalog and delete, against the shipped registry."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from scripted import scripted
from support_referrers import put_artifact, put_fallback
from support_service import Bench

from engine import Status
from registry_service.descriptor import Descriptor
from registry_service.digest import Digest
from registry_service.manifest import OCI_INDEX
from registry_service.referrers import describe
from registry_service.testing import Registry
from registry_service.testing.images import push_image, random_image, random_index

NAME = "test/app"
IMAGE = random_image(1, layers=1)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path / "state")
    yield made
    made.engine.shutdown(grace=0)
    assert not [t for t in threading.enumerate() if t.name.startswith("delete")]


def row(registry: Registry, tag: str, digest: str, state: str) -> dict[str, Any]:
    mark = "@" if ":" in tag else ":"
    return {"reference": f"{registry.host}/{NAME}{mark}{tag}", "digest": digest, "state": state}


# catalog


def test_the_catalog_is_listed_page_after_page(bench: Bench) -> None:
    with Registry(page_size=2) as registry:
        names = [f"team/app-{n}" for n in range(5)]
        for name in names:
            registry.put_blob(name, b"x")
        rows = bench.run("catalog", registry.host)
        assert rows == [{"registry": registry.host, "repository": name} for name in names]
        registry.clear_requests()
        assert len(bench.run("catalog", registry.host, limit=3)) == 3
        assert len([one for one in registry.requests if one.path == "/v2/_catalog"]) == 2
        status, message = bench.fail("catalog", registry.host, limit=-1)
        assert (status, "limit" in message) == (Status.USAGE, True)


def test_a_catalog_is_a_registry_s_and_no_repository_s(bench: Bench) -> None:
    with Registry() as registry:
        status, message = bench.fail("catalog", f"{registry.host}/team")
        assert (status, "without a repository" in message) == (Status.USAGE, True)
        for address in (f"http://{registry.host}", f"http://{registry.host}/v2/"):
            assert bench.run("catalog", address) == []


def test_a_registry_without_a_catalog_is_told_so(bench: Bench) -> None:
    with Registry(faults=["status:code=404,path=/v2/_catalog"]) as registry:
        status, message = bench.fail("catalog", registry.host)
        assert status is Status.ERROR
        assert f"{registry.host} does not list its repositories" in message


# delete


def test_a_tag_is_deleted_alone(bench: Bench) -> None:
    with Registry() as registry:
        for tag in ("1", "2"):
            push_image(registry, NAME, tag, IMAGE)
        rows = bench.run("delete", f"{registry.host}/{NAME}:1")
        assert rows == [row(registry, "1", IMAGE.digest, "untagged")]
        assert registry.tags(NAME) == ["2"]
        assert registry.manifest(NAME, "2") is not None


def test_a_tag_that_cannot_go_alone_goes_with_its_manifest_if_it_is_the_last(
    bench: Bench,
) -> None:
    with Registry(deletes="digests") as registry:
        push_image(registry, NAME, "1", IMAGE)
        push_image(registry, NAME, "2", random_image(2, layers=1))
        rows = bench.run("delete", f"{registry.host}/{NAME}:1")
        assert rows == [row(registry, "1", IMAGE.digest, "deleted")]
        assert registry.tags(NAME) == ["2"]


@pytest.mark.parametrize("what", [":1", f"@{IMAGE.digest}"])
def test_other_tags_are_not_taken_along_unless_that_is_asked_for(bench: Bench, what: str) -> None:
    with Registry(deletes="digests", page_size=2) as registry:
        for tag in ("1", "2", "3", "other"):
            push_image(registry, NAME, tag, random_image(9) if tag == "other" else IMAGE)
        reference = f"{registry.host}/{NAME}{what}"
        status, message = bench.fail("delete", reference)
        assert status is Status.ERROR
        assert "2, 3" in message
        assert "other" not in message.partition("lead to:")[2].partition(";")[0]
        assert "force" in message
        assert registry.tags(NAME) == ["1", "2", "3", "other"]
        status, message = bench.fail("delete", reference, force="off")
        assert status is Status.USAGE
        assert "force: 'off' is not true or false" in message
        rows = bench.run("delete", reference, force=True)
        assert rows[0] == row(registry, what[1:], IMAGE.digest, "deleted")
        gone = {one["reference"].rpartition(":")[2] for one in rows[1:]}
        assert gone == {"2", "3"} | ({"1"} if what.startswith("@") else set())
        assert registry.tags(NAME) == ["other"]


def test_a_digest_is_protected_where_tags_can_be_deleted_too(bench: Bench) -> None:
    with Registry() as registry:
        push_image(registry, NAME, "1", IMAGE)
        reference = f"{registry.host}/{NAME}@{IMAGE.digest}"
        _, message = bench.fail("delete", reference)
        assert ": 1;" in message
        bench.run("delete", f"{registry.host}/{NAME}:1")
        assert bench.run("delete", reference) == [
            row(registry, IMAGE.digest, IMAGE.digest, "deleted")
        ]
        assert registry.manifest(NAME, IMAGE.digest) is None


def test_a_part_of_an_index_that_has_a_tag_is_protected(bench: Bench) -> None:
    index = random_index(1, layers=1)
    part = index.images[0].digest
    with Registry() as registry:
        push_image(registry, NAME, "multi", index)
        _, message = bench.fail("delete", f"{registry.host}/{NAME}@{part}")
        assert "multi (an index that has it)" in message
        rows = bench.run("delete", f"{registry.host}/{NAME}@{part}", force=True)
        assert rows == [row(registry, part, part, "deleted")]
        assert registry.tags(NAME) == ["multi"]


def test_a_part_of_an_index_within_an_index_that_has_a_tag_is_protected(bench: Bench) -> None:
    with Registry() as registry:
        part = put_artifact(registry, NAME, None)
        inner = put_index(registry, None, part.descriptor)
        middle = put_index(registry, None, inner)
        put_index(registry, "outer", middle)
        status, message = bench.fail("delete", f"{registry.host}/{NAME}@{part.digest}")
        assert (status, "lead to: outer (an index" in message) == (Status.ERROR, True)
        assert registry.manifest(NAME, str(part.digest)) is not None


def put_index(registry: Registry, tag: str | None, *parts: Descriptor) -> Descriptor:
    entries = [part.to_json() for part in parts]
    raw = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}).encode()
    registry.put_manifest(NAME, tag, raw, OCI_INDEX)
    return Descriptor(media_type=OCI_INDEX, digest=Digest.of(raw), size=len(raw))


def test_names_that_are_no_tags_lead_nowhere(bench: Bench) -> None:
    """Some servers list digests as tags: of what is deleted too."""
    names = [None, IMAGE.digest, "a b", "x" * 200]
    with (
        scripted(lambda request: request.answer(200, {"tags": names})) as server,
        Registry(faults=[f"redirect:to=http://{server.host}/tags,path=/tags/list"]) as registry,
    ):
        push_image(registry, NAME, None, IMAGE)
        rows = bench.run("delete", f"{registry.host}/{NAME}@{IMAGE.digest}")
        assert rows == [row(registry, IMAGE.digest, IMAGE.digest, "deleted")]


def test_what_is_of_no_known_kind_or_damaged_can_be_deleted(bench: Bench) -> None:
    odd = b'{"mediaType": "application/x.notary", "blobs": []}'
    with Registry(any_type=True) as registry:
        for tag, raw in (("odd", odd), ("text", b"no manifest")):
            registry.put_manifest(NAME, tag, raw, "application/x.notary")
        push_image(registry, NAME, "1", IMAGE)
        push_image(registry, NAME, None, IMAGE)
        rows = bench.run("delete", f"{registry.host}/{NAME}:odd")
        assert rows == [row(registry, "odd", str(Digest.of(odd)), "untagged")]
        bench.run("delete", f"{registry.host}/{NAME}@{Digest.of(odd)}")
        # the other one does not keep anything from being deleted
        bench.run("delete", f"{registry.host}/{NAME}:1")
        registry.add_fault(f"corrupt:offset=9,path=/manifests/{IMAGE.digest}")
        bench.run("delete", f"{registry.host}/{NAME}@{IMAGE.digest}")
        assert registry.manifest(NAME, IMAGE.digest) is None


def test_a_tag_that_cannot_be_read_may_lead_anywhere(bench: Bench) -> None:
    with Registry(any_type=True) as registry:
        registry.put_manifest(NAME, "dark", b"what is this", "text/plain")
        push_image(registry, NAME, None, IMAGE)
        reference = f"{registry.host}/{NAME}@{IMAGE.digest}"
        status, message = bench.fail("delete", reference)
        assert (status, "dark (which cannot be read" in message) == (Status.ERROR, True)
        rows = bench.run("delete", reference, force=True)
        assert rows == [row(registry, IMAGE.digest, IMAGE.digest, "deleted")]


def test_a_tag_with_a_digest_is_deleted_only_while_it_stands_for_that(bench: Bench) -> None:
    with Registry() as registry:
        push_image(registry, NAME, "1", IMAGE)
        moved = random_image(2, layers=1)
        push_image(registry, NAME, "1", moved)
        _, message = bench.fail("delete", f"{registry.host}/{NAME}:1@{IMAGE.digest}")
        assert f"stands for {moved.digest}" in message
        assert registry.tags(NAME) == ["1"]
        bench.run("delete", f"{registry.host}/{NAME}:1@{moved.digest}")
        assert registry.tags(NAME) == []


@pytest.mark.parametrize("what", [":1", f"@{IMAGE.digest}"])
def test_where_nothing_can_be_deleted_the_words_say_what_to_switch_on(
    bench: Bench, what: str
) -> None:
    with Registry(deletes="none") as registry:
        push_image(registry, NAME, "1" if what == ":1" else None, IMAGE)
        status, message = bench.fail("delete", f"{registry.host}/{NAME}{what}")
        assert status is Status.ERROR
        assert "REGISTRY_STORAGE_DELETE_ENABLED=true" in message
        assert registry.host in message


def test_a_referrer_is_deleted_in_spite_of_the_list_that_has_it(bench: Bench) -> None:
    with Registry(referrers=False, deletes="digests") as registry:
        push_image(registry, NAME, "1", IMAGE)
        sbom = put_artifact(registry, NAME, IMAGE)
        tag = put_fallback(registry, NAME, IMAGE.digest, describe(sbom).to_json())
        bench.run("delete", f"{registry.host}/{NAME}@{sbom.digest}")
        found = registry.manifest(NAME, tag)
        assert found is not None
        assert found.media_type == OCI_INDEX
        assert json.loads(found.raw)["manifests"] == []
        assert registry.manifest(NAME, str(sbom.digest)) is None


@pytest.mark.parametrize(
    ("reference", "status", "words"),
    [
        ("/test/app", Status.USAGE, "Usage: delete REFERENCE"),
        ("/test/app:none", Status.ERROR, "test/app:none does not exist"),
        (f"/test/app@sha256:{'0' * 64}", Status.ERROR, "does not exist"),
        ("/test/app@sha256:1", Status.USAGE, "64 hexadecimal digits"),
    ],
)
def test_what_cannot_be_deleted_is_told(
    bench: Bench, reference: str, status: Status, words: str
) -> None:
    with Registry() as registry:
        push_image(registry, NAME, "1", IMAGE)
        found, message = bench.fail("delete", registry.host + reference)
        assert (found, words in message) == (status, True), message
        assert registry.tags(NAME) == ["1"]


def test_the_scope_delete_is_asked_for(bench: Bench) -> None:
    access = {"ann": ["pull,push,delete:*"], "bob": ["pull,push:*"]}
    users = {"ann": "secret", "bob": "secret"}
    with Registry(auth="token", users=users, access=access) as registry:
        for tag in ("1", "2"):
            push_image(registry, NAME, tag, IMAGE)
        refused, message = bench.fail(
            "delete",
            f"{registry.host}/{NAME}:1",
            authConfig={"username": "bob", "password": "secret"},
        )
        assert refused is Status.ERROR
        assert "delete" in message
        bench.run(
            "delete",
            f"{registry.host}/{NAME}:1",
            authConfig={"username": "ann", "password": "secret"},
        )
        asked = [one.query.get("scope", ()) for one in registry.requests if one.path == "/token"]
        assert any("repository:test/app:pull,delete" in scopes for scopes in asked)
        assert registry.tags(NAME) == ["2"]


def test_a_cancel_ends_the_look_over_the_tags(bench: Bench) -> None:
    with Registry(deletes="digests") as registry:
        for n in range(20):
            push_image(registry, NAME, f"t{n}", IMAGE)
        hold = registry.hold(path="/manifests/t1", method="HEAD")
        job = bench.job("delete", f"{registry.host}/{NAME}:t0")
        thread = threading.Thread(target=job.run)
        thread.start()
        assert hold.entered.wait(10)
        job.cancel()
        thread.join(10)
        assert not thread.is_alive()
        assert job.status is Status.CANCELLED
        assert len(registry.tags(NAME)) == 20
        hold.release()
