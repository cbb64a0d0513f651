"""Referrers at a registry: listed by the API or the fallback tag, kept right on push and delete."""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted import Request, scripted
from support_referrers import (
    SBOM,
    SIGNATURE,
    artifact,
    client,
    digests,
    put_artifact,
    put_fallback,
)

from registry_service.cancel import Cancellation
from registry_service.capabilities import CapabilityTable
from registry_service.descriptor import Descriptor
from registry_service.digest import Digest
from registry_service.errors import (
    CancelledError,
    DoesNotExistError,
    ManifestError,
    ProtocolError,
    RegistryError,
    RegistryHTTPError,
)
from registry_service.manifest import OCI_INDEX, OCI_MANIFEST, Manifest
from registry_service.referrers import (
    cosign_tag,
    describe,
    fallback_tag,
    index_document,
    is_fallback_tag,
    listed,
    with_entry,
    without_entries,
)
from registry_service.session.turns import Turns
from registry_service.session.v2 import V2Client
from registry_service.settings import RegistrySettings
from registry_service.testing import Registry
from registry_service.testing.images import push_image, random_image, random_index
from registry_service.transport import Transport

NAME = "test/app"
IMAGE = random_image(1, layers=1)
SUBJECT = Digest.parse(IMAGE.digest)
FALLBACK = fallback_tag(SUBJECT)


@pytest.fixture
def transport() -> Iterator[Transport]:
    settings = RegistrySettings(retries=2)
    with Transport(settings, sleep=lambda seconds, cancel: None, dice=lambda: 0.0) as transport:
        yield transport


def send(one: V2Client, registry: Registry, manifest: Manifest, blobs: dict[str, bytes]) -> None:
    for blob in blobs.values():
        registry.put_blob(NAME, blob)
    one.put_manifest(NAME, manifest.digest, manifest)


def under(registry: Registry, tag: str = FALLBACK) -> list[dict[str, Any]]:
    """The entries under a fallback tag."""
    found = registry.manifest(NAME, tag)
    assert found is not None
    assert found.media_type == OCI_INDEX
    entries: list[dict[str, Any]] = json.loads(found.raw)["manifests"]
    return entries


# forms


def test_the_fallback_tag_is_cut_to_what_a_tag_may_be() -> None:
    assert fallback_tag(SUBJECT) == IMAGE.digest.replace(":", "-")
    long = Digest.of(b"x", "sha512")
    assert fallback_tag(long) == f"sha512-{long.hex[:64]}"
    odd = Digest(algorithm="a+b." + "c" * 40, hex="x=y")
    assert fallback_tag(odd) == "a-b." + "c" * 28 + "-x-y"
    assert is_fallback_tag(fallback_tag(long))
    assert not is_fallback_tag("1.0")
    assert not is_fallback_tag(cosign_tag(SUBJECT, "sig"))
    assert cosign_tag(SUBJECT, "sig") == FALLBACK + ".sig"


hexes = st.integers(0, 6).map(lambda n: Digest.of(bytes([n])))


@given(st.lists(st.tuples(st.booleans(), hexes)))
def test_a_list_has_each_entry_once_and_only_what_was_put_last(
    steps: list[tuple[bool, Digest]],
) -> None:
    document = index_document(None)
    there: set[str] = set()
    for add, digest in steps:
        if add:
            entry = Descriptor(media_type=OCI_MANIFEST, digest=digest, size=1)
            document = with_entry(document, entry)
            there.add(str(digest))
        else:
            document = without_entries(document, [digest])
            there.discard(str(digest))
        raw = json.dumps(document).encode()
        assert index_document(raw) == document
        found = [str(one.digest) for one in listed(document["manifests"])]
        assert sorted(found) == sorted(there)


def test_an_entry_has_the_kind_and_the_annotations_of_its_manifest() -> None:
    typed, _ = artifact(IMAGE, kind=SBOM, annotations={"by": "me"})
    assert describe(typed).artifact_type == SBOM
    assert describe(typed).annotations == {"by": "me"}
    untyped, _ = artifact(IMAGE, kind=SIGNATURE, typed=False)
    assert describe(untyped).artifact_type == SIGNATURE
    index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []}
    assert describe(Manifest.parse(json.dumps(index).encode())).artifact_type == ""


# listing


@pytest.mark.parametrize("filters", [True, False])
def test_the_api_is_listed_page_after_page_and_filtered(
    transport: Transport, filters: bool
) -> None:
    with Registry(page_size=2, referrer_filters=filters) as registry:
        push_image(registry, NAME, "1", IMAGE)
        sboms = {str(put_artifact(registry, NAME, IMAGE, bytes([n])).digest) for n in range(3)}
        signed = put_artifact(registry, NAME, IMAGE, b"s", kind=SIGNATURE, typed=False)
        put_artifact(registry, NAME, None, b"other")
        one = client(transport, registry.host)
        assert digests(one.referrers(NAME, SUBJECT)) == {*sboms, str(signed.digest)}
        assert digests(one.referrers(NAME, SUBJECT, SBOM)) == sboms
        (entry,) = one.referrers(NAME, SUBJECT, SIGNATURE)
        assert entry == describe(signed)
        asked = [one.query for one in registry.requests if "referrers" in one.path]
        assert sum("artifactType" in query for query in asked) >= 2
        assert list(one.referrers(NAME, Digest.of(b"nobody"))) == []


def test_without_the_api_the_fallback_tag_is_listed_and_filtered(transport: Transport) -> None:
    with Registry(referrers=False) as registry:
        push_image(registry, NAME, "1", IMAGE)
        one = client(transport, registry.host)
        assert list(one.referrers(NAME, SUBJECT)) == []
        sbom = put_artifact(registry, NAME, IMAGE)
        signed = put_artifact(registry, NAME, IMAGE, kind=SIGNATURE)
        entries = [describe(each).to_json() for each in (sbom, signed, sbom)]
        put_fallback(registry, NAME, IMAGE.digest, *entries)
        assert list(one.referrers(NAME, SUBJECT)) == [describe(sbom), describe(signed)]
        assert list(one.referrers(NAME, SUBJECT, SIGNATURE)) == [describe(signed)]
        api = [request for request in registry.requests if "referrers" in request.path]
        assert len(api) == 1  # it is known after the first


@pytest.mark.parametrize(
    ("status", "kind"), [(404, ""), (400, ""), (405, ""), (406, ""), (200, "text/html")]
)
def test_how_servers_say_that_they_have_no_api(
    transport: Transport, status: int, kind: str
) -> None:
    entry = Descriptor(media_type=OCI_MANIFEST, digest=SUBJECT, size=1)
    index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry.to_json()]}

    def answer(request: Request) -> None:
        if "/referrers/" in request.path:
            request.answer(status, body="<p>hello", headers={"Content-Type": kind} if kind else {})
        else:
            assert request.path.endswith(f"/manifests/{FALLBACK}")
            request.answer(body=json.dumps(index), headers={"Content-Type": OCI_INDEX})

    with scripted(answer) as server:
        assert list(client(transport, server.host).referrers(NAME, SUBJECT)) == [entry]


def test_an_answer_that_is_an_error_is_no_missing_api(transport: Transport) -> None:
    with (
        scripted(lambda request: request.answer(403)) as server,
        pytest.raises(RegistryHTTPError, match="403"),
    ):
        list(client(transport, server.host).referrers(NAME, SUBJECT))


@pytest.mark.parametrize(
    ("body", "link", "message"),
    [
        ("{}", "<http://evil.example/v2/a>; rel=next", "another server"),
        ("{}", f'</v2/{NAME}/referrers/{SUBJECT}>; rel="next"', "in a circle"),
        ('{"manifests": [{"digest": 1}]}', "", r"manifests\[0\]"),
        ('{"manifests": {}}', "", "a list is expected"),
        ("[", "", "not JSON"),
    ],
)
def test_lists_that_break_the_protocol(
    transport: Transport, body: str, link: str, message: str
) -> None:
    headers = {"Content-Type": OCI_INDEX, **({"Link": link} if link else {})}
    with (
        scripted(lambda request: request.answer(body=body, headers=headers)) as server,
        pytest.raises(ProtocolError, match=message),
    ):
        list(client(transport, server.host).referrers(NAME, SUBJECT))


def test_pages_without_an_end_are_given_up(transport: Transport) -> None:
    entry = Descriptor(media_type=OCI_MANIFEST, digest=SUBJECT, size=1).to_json()

    def handler(request: Request) -> None:
        link = {"Link": f"<?last={len(server.requests)}>; rel=next"}
        body = {"manifests": [entry, entry]}
        request.answer(body=body, headers={"Content-Type": OCI_INDEX, **link})

    with scripted(handler) as server, pytest.raises(ProtocolError, match="brought nothing new"):
        list(client(transport, server.host).referrers(NAME, SUBJECT))


def test_a_null_list_is_empty(transport: Transport) -> None:
    headers = {"Content-Type": OCI_INDEX}
    with scripted(
        lambda request: request.answer(body='{"manifests": null}', headers=headers)
    ) as server:
        assert list(client(transport, server.host).referrers(NAME, SUBJECT)) == []


def test_a_tag_that_is_the_subject_itself_is_no_list(transport: Transport) -> None:
    index = random_index(1, layers=1)
    with Registry(referrers=False) as registry:
        push_image(registry, NAME, index.digest.replace(":", "-"), index)
        one = client(transport, registry.host)
        assert list(one.referrers(NAME, Digest.parse(index.digest))) == []
        manifest, blobs = artifact(index)
        send(one, registry, manifest, blobs)
        assert list(one.referrers(NAME, Digest.parse(index.digest))) == [describe(manifest)]


def test_a_fallback_tag_with_something_else_lists_nothing_and_is_not_overwritten(
    transport: Transport,
) -> None:
    with Registry(referrers=False) as registry:
        other = random_image(2, layers=1)
        push_image(registry, NAME, FALLBACK, other)
        one = client(transport, registry.host)
        assert list(one.referrers(NAME, SUBJECT)) == []
        manifest, blobs = artifact(IMAGE)
        with pytest.raises(ManifestError, match="remove that tag first"):
            send(one, registry, manifest, blobs)
        one.delete_manifest(NAME, manifest.digest)
        found = registry.manifest(NAME, FALLBACK)
        assert found is not None
        assert found.digest == other.digest


# kept right


@pytest.mark.parametrize("conditions", [True, False])
def test_a_push_puts_a_referrer_on_the_list_once(transport: Transport, conditions: bool) -> None:
    with Registry(referrers=False, conditions=conditions) as registry:
        push_image(registry, NAME, "1", IMAGE)
        one = client(transport, registry.host)
        first, blobs = artifact(IMAGE, b"1", annotations={"by": "me"})
        second, more = artifact(IMAGE, b"2", kind=SIGNATURE, typed=False)
        for _ in range(2):
            send(one, registry, first, blobs)
            send(one, registry, second, more)
        assert under(registry) == [describe(first).to_json(), describe(second).to_json()]
        puts = [each for each in registry.requests if each.method == "PUT"]
        lists = [each for each in puts if each.path.endswith(FALLBACK)]
        assert len(lists) == 2  # what is listed already is not written again


def test_a_registry_that_keeps_the_list_is_left_to_it(
    transport: Transport,
) -> None:
    with Registry() as registry:
        push_image(registry, NAME, "1", IMAGE)
        one = client(transport, registry.host)
        manifest, blobs = artifact(IMAGE)
        send(one, registry, manifest, blobs)
        assert registry.tags(NAME) == ["1"]
        assert list(one.referrers(NAME, SUBJECT)) == [describe(manifest)]


def test_what_is_not_understood_of_a_list_stays(transport: Transport) -> None:
    with Registry(referrers=False) as registry:
        other = put_artifact(registry, NAME, IMAGE, b"other")
        entry = {**describe(other).to_json(), "x-ours": [1]}
        document = {
            "schemaVersion": 2,
            "mediaType": OCI_INDEX,
            "manifests": [entry],
            "annotations": {"kept": "yes"},
        }
        registry.put_manifest(NAME, FALLBACK, json.dumps(document).encode(), OCI_INDEX)
        manifest, blobs = artifact(IMAGE)
        send(client(transport, registry.host), registry, manifest, blobs)
        found = registry.manifest(NAME, FALLBACK)
        assert found is not None
        wanted = {**document, "manifests": [entry, describe(manifest).to_json()]}
        assert json.loads(found.raw) == wanted


@pytest.mark.parametrize("conditions", [True, False])
def test_many_at_once_lose_no_entry(transport: Transport, conditions: bool) -> None:
    with Registry(referrers=False, conditions=conditions) as registry:
        made = [artifact(IMAGE, bytes([n])) for n in range(12)]

        def one(pair: tuple[Manifest, dict[str, bytes]]) -> None:
            with client(transport, registry.host) as own:
                send(own, registry, *pair)

        with concurrent.futures.ThreadPoolExecutor(6) as pool:
            list(pool.map(one, made))
        assert {entry["digest"] for entry in under(registry)} == {
            str(manifest.digest) for manifest, _ in made
        }


def test_a_list_that_another_process_changes_meanwhile_is_read_again(
    transport: Transport,
) -> None:
    with Registry(referrers=False) as registry:
        theirs = put_artifact(registry, NAME, IMAGE, b"theirs")
        ours, blobs = artifact(IMAGE, b"ours")
        hold = registry.hold(path=f"/manifests/{FALLBACK}", method="PUT", times=1)
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            future = pool.submit(send, client(transport, registry.host), registry, ours, blobs)
            assert hold.entered.wait(10)
            put_fallback(registry, NAME, IMAGE.digest, describe(theirs).to_json())
            hold.release()
            future.result(20)
        assert under(registry) == [describe(theirs).to_json(), describe(ours).to_json()]
        answers = [r.status for r in registry.requests if r.path.endswith(FALLBACK)]
        assert 412 in answers


def test_an_entry_whose_manifest_is_gone_does_not_block_the_list(transport: Transport) -> None:
    with Registry(referrers=False) as registry:
        gone, _ = artifact(IMAGE, b"gone")
        there = put_artifact(registry, NAME, IMAGE, b"there")
        put_fallback(
            registry, NAME, IMAGE.digest, describe(gone).to_json(), describe(there).to_json()
        )
        ours, blobs = artifact(IMAGE, b"ours")
        send(client(transport, registry.host), registry, ours, blobs)
        assert under(registry) == [describe(there).to_json(), describe(ours).to_json()]


def test_a_server_that_refuses_each_change_is_not_asked_for_ever(transport: Transport) -> None:
    index = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []})
    manifest, _ = artifact(IMAGE)

    def answer(request: Request) -> None:
        if request.command == "PUT":
            request.read_body()
            request.answer(412 if request.path.endswith(FALLBACK) else 201)
        else:
            request.answer(body=index, headers={"Content-Type": OCI_INDEX, "ETag": '"1"'})

    with scripted(answer) as server:
        with pytest.raises(RegistryError, match="somebody else") as caught:
            client(transport, server.host).put_manifest(NAME, manifest.digest, manifest)
        assert caught.value.retryable
        assert len(server.paths("PUT")) < 12


def test_deleting_a_referrer_takes_it_off_the_list(transport: Transport) -> None:
    with Registry(referrers=False) as registry:
        one = client(transport, registry.host)
        first, blobs = artifact(IMAGE, b"1")
        second, more = artifact(IMAGE, b"2")
        send(one, registry, first, blobs)
        send(one, registry, second, more)
        one.delete_manifest(NAME, first.digest)
        assert under(registry) == [describe(second).to_json()]
        assert registry.manifest(NAME, str(first.digest)) is None
        one.delete_manifest(NAME, second.digest)
        assert under(registry) == []
        with pytest.raises(DoesNotExistError):
            one.delete_manifest(NAME, second.digest)


def test_a_referrer_that_cannot_be_deleted_stays_on_the_list(transport: Transport) -> None:
    with Registry(referrers=False, deletes="none") as registry:
        one = client(transport, registry.host)
        manifest, blobs = artifact(IMAGE)
        send(one, registry, manifest, blobs)
        with pytest.raises(RegistryHTTPError, match="405"):
            one.delete_manifest(NAME, manifest.digest)
        assert under(registry) == [describe(manifest).to_json()]


def test_what_a_registry_can_do_is_learned(transport: Transport) -> None:
    for there in (True, False):
        table = CapabilityTable()
        deletes = "all" if there else "none"
        with Registry(referrers=there, deletes=deletes) as registry:  # type: ignore[arg-type]
            push_image(registry, NAME, "1", IMAGE)
            one = client(transport, registry.host, capabilities=table)
            list(one.referrers(NAME, SUBJECT))
            with contextlib.suppress(RegistryHTTPError):
                one.delete_manifest(NAME, SUBJECT)
            known = table.of(registry.host)
            assert (known.referrers, known.deletes) == (there, there)


# turns


def test_a_cancel_ends_the_wait_for_a_turn() -> None:
    turns, cancel = Turns(), Cancellation()
    waiting = threading.Event()

    def wait() -> None:
        waiting.set()
        with turns.hold("a", cancel):
            raise AssertionError("it was not free")

    with (
        concurrent.futures.ThreadPoolExecutor(1) as pool,
        turns.hold("a", Cancellation()),
        turns.hold("b", Cancellation()),  # another key is free
    ):
        future = pool.submit(wait)
        assert waiting.wait(10)
        cancel.cancel()
        with pytest.raises(CancelledError):
            future.result(10)
    with turns.hold("a", Cancellation()):
        pass
