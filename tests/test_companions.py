"""What belongs to an image: listed, pulled and pushed along, against the shipped registry."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support_referrers import SBOM, SIGNATURE, put_artifact, put_fallback
from support_service import Bench

from engine import Status
from registry_service.descriptor import Descriptor
from registry_service.digest import Digest
from registry_service.manifest import OCI_MANIFEST, Manifest
from registry_service.platform import Platform
from registry_service.referrers import Companion, describe
from registry_service.store import Store
from registry_service.testing import Registry
from registry_service.testing.images import (
    Image,
    ImageIndex,
    push_image,
    random_image,
    random_index,
)

HERE = str(Platform.here())
OTHER = "linux/s390x"
NAME = "test/app"
IMAGE = random_image(1, layers=1, platform=HERE)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path / "state")
    yield made
    made.engine.shutdown(grace=0)
    assert not [t for t in threading.enumerate() if t.name.startswith(("transfer", "push"))]


@pytest.fixture(params=[True, False], ids=["api", "fallback"])
def registry(request: pytest.FixtureRequest) -> Iterator[Registry]:
    with Registry(referrers=request.param) as made:
        yield made


@pytest.fixture(params=[True, False], ids=["to-api", "to-fallback"])
def other(request: pytest.FixtureRequest) -> Iterator[Registry]:
    with Registry(referrers=request.param) as made:
        yield made


def add(
    registry: Registry, subject: Image | ImageIndex | Manifest, content: bytes, **more: Any
) -> Manifest:
    """A referrer, listed in either way: the fallback tag is no harm where there is the API."""
    made = put_artifact(registry, NAME, subject, content, **more)
    digest = str(subject.digest)
    found = registry.manifest(NAME, digest.replace(":", "-"))
    before = json.loads(found.raw)["manifests"] if found else []
    put_fallback(registry, NAME, digest, *before, describe(made).to_json())
    return made


def retag(bench: Bench, registry: Registry, other: Registry, tag: str = "1") -> str:
    target = f"{other.host}/moved/app:{tag}"
    bench.run("tag", f"{registry.host}/{NAME}:{tag}", target)
    return target


def shown(rows: list[dict[str, Any]]) -> set[str]:
    return {row["digest"] for row in rows}


def entries(state: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((state / "images" / "index.json").read_text())[
        "manifests"
    ]
    return found


# referrers


def test_the_job_lists_what_belongs_to_an_image(bench: Bench, registry: Registry) -> None:
    push_image(registry, NAME, "1", IMAGE)
    sbom = add(registry, IMAGE, b"sbom", annotations={"by": "me"})
    signed = add(registry, IMAGE, b"sig", kind=SIGNATURE, typed=False)
    rows = bench.run("referrers", f"{registry.host}/{NAME}:1")
    assert {row["digest"]: row for row in rows} == {
        str(sbom.digest): {
            "subject": IMAGE.digest,
            "digest": str(sbom.digest),
            "media_type": OCI_MANIFEST,
            "artifact_type": SBOM,
            "size": len(sbom.raw),
            "annotations": {"by": "me"},
        },
        str(signed.digest): {
            "subject": IMAGE.digest,
            "digest": str(signed.digest),
            "media_type": OCI_MANIFEST,
            "artifact_type": SIGNATURE,
            "size": len(signed.raw),
            "annotations": {},
        },
    }
    of_kind = bench.run(
        "referrers", f"{registry.host}/{NAME}@{IMAGE.digest}", artifactType=SIGNATURE
    )
    assert shown(of_kind) == {str(signed.digest)}


def test_the_referrers_of_nothing_are_an_error_that_names_it(
    bench: Bench, registry: Registry
) -> None:
    push_image(registry, NAME, "1", IMAGE)
    status, message = bench.fail("referrers", f"{registry.host}/{NAME}:2")
    assert (status, message) == (
        Status.ERROR,
        f"manifest {registry.host}/{NAME}:2 does not exist",
    )


# pull and push


def test_what_belongs_to_an_image_goes_along_and_that_of_it_too(
    bench: Bench, registry: Registry, other: Registry
) -> None:
    push_image(registry, NAME, "1", IMAGE)
    sbom = add(registry, IMAGE, b"sbom")
    signed = add(registry, sbom, b"signature of the sbom", kind=SIGNATURE)
    rows = bench.run("pull", f"{registry.host}/{NAME}:1", referrers=True)
    assert {str(sbom.digest), str(signed.digest)} <= shown(rows)
    assert rows[-1]["digest"] == IMAGE.digest
    assert {row["state"] for row in rows} == {"fetched"}
    again = bench.run("pull", f"{registry.host}/{NAME}:1", referrers=True)
    assert {row["state"] for row in again} == {"exists"}
    assert shown(again) == shown(rows)

    target = retag(bench, registry, other)
    pushed = bench.run("push", target, referrers=True)
    assert shown(pushed) == shown(rows)
    assert len(pushed) == len(shown(pushed))
    assert pushed[-1]["digest"] == IMAGE.digest
    assert {row["state"] for row in pushed} == {"pushed"}
    (found,) = bench.run("referrers", target)
    assert (found["digest"], found["artifact_type"]) == (str(sbom.digest), SBOM)
    (inner,) = bench.run("referrers", f"{other.host}/moved/app@{sbom.digest}")
    assert inner["digest"] == str(signed.digest)
    repeated = bench.run("push", target, referrers=True)
    assert {row["state"] for row in repeated} == {"exists"}
    assert bench.broken() == []


def test_without_the_wish_nothing_goes_along(
    bench: Bench, registry: Registry, other: Registry
) -> None:
    push_image(registry, NAME, "1", IMAGE)
    sbom = add(registry, IMAGE, b"sbom")
    rows = bench.run("pull", f"{registry.host}/{NAME}:1")
    assert str(sbom.digest) not in shown(rows)
    assert not [one for one in registry.requests if "referrers" in one.path]
    bench.run("pull", f"{registry.host}/{NAME}:1", referrers=True)
    pushed = bench.run("push", retag(bench, registry, other))
    assert str(sbom.digest) not in shown(pushed)
    assert bench.run("referrers", f"{other.host}/moved/app:1") == []


def test_of_an_index_the_chosen_parts_count_and_the_index(
    bench: Bench, registry: Registry, other: Registry
) -> None:
    index = random_index(3, platforms=[HERE, OTHER])
    push_image(registry, NAME, "1", index)
    of_index = add(registry, index, b"index")
    of_here, of_other = (add(registry, one, one.digest.encode()) for one in index.images)
    rows = bench.run("pull", f"{registry.host}/{NAME}:1", referrers=True)
    assert {str(of_index.digest), str(of_here.digest)} <= shown(rows)
    assert str(of_other.digest) not in shown(rows)
    rows = bench.run("pull", f"{registry.host}/{NAME}:1", referrers=True, platform="all")
    assert str(of_other.digest) in shown(rows)
    target = retag(bench, registry, other)
    pushed = bench.run("push", target, referrers=True, platform=OTHER)
    assert str(of_other.digest) in shown(pushed)
    assert not {str(of_index.digest), str(of_here.digest)} & shown(pushed)
    pushed = bench.run("push", target, referrers=True)
    assert {str(of_index.digest), str(of_here.digest), str(of_other.digest)} <= shown(pushed)


def test_what_cosign_keeps_under_tags_goes_along(
    bench: Bench, registry: Registry, other: Registry
) -> None:
    push_image(registry, NAME, "1", IMAGE)
    tag = IMAGE.digest.replace(":", "-")
    made = {
        suffix: put_artifact(registry, NAME, None, suffix.encode(), tag=f"{tag}.{suffix}")
        for suffix in ("sig", "att", "sbom")
    }
    rows = bench.run("pull", f"{registry.host}/{NAME}:1", referrers=True)
    assert {str(one.digest) for one in made.values()} <= shown(rows)
    bench.run("push", retag(bench, registry, other), referrers=True)
    for suffix, manifest in made.items():
        found = other.manifest("moved/app", f"{tag}.{suffix}")
        assert found is not None
        assert found.digest == str(manifest.digest)
    # a signature that was made anew takes the place of the old one
    anew = put_artifact(registry, NAME, None, b"anew", tag=f"{tag}.sig")
    bench.run("pull", f"{registry.host}/{NAME}:1", referrers=True)
    bench.run("push", f"{other.host}/moved/app:1", referrers=True)
    found = other.manifest("moved/app", f"{tag}.sig")
    assert found is not None
    assert found.digest == str(anew.digest)


def test_every_tag_brings_what_belongs_to_it_and_lists_are_no_images(
    bench: Bench, registry: Registry
) -> None:
    images = [random_image(n, layers=1, platform=HERE) for n in (1, 2)]
    for n, image in enumerate(images):
        push_image(registry, NAME, str(n), image)
    sboms = {str(add(registry, image, image.digest.encode()).digest) for image in images}
    assert len(registry.tags(NAME)) == 4
    rows = bench.run("pull", f"{registry.host}/{NAME}", referrers=True, allTags=True)
    assert {*sboms, *(image.digest for image in images)} <= shown(rows)
    assert bench.names == [f"{registry.host}/{NAME}:0", f"{registry.host}/{NAME}:1"]


def test_the_store_keeps_it_without_a_name(bench: Bench, registry: Registry) -> None:
    push_image(registry, NAME, "1", IMAGE)
    sbom = add(registry, IMAGE, b"sbom", annotations={"by": "me"})
    bench.run("pull", f"{registry.host}/{NAME}:1", referrers=True)
    assert bench.names == [f"{registry.host}/{NAME}:1"]
    (entry,) = [one for one in entries(bench.state) if one["digest"] == str(sbom.digest)]
    assert entry["annotations"] == {"by": "me", "registry-engine.referrer.subject": IMAGE.digest}
    assert entry["artifactType"] == SBOM
    with Store(bench.state / "images", bench.state / "ingest") as store:
        (kept,) = store.companions()
        wanted = Companion(subject=Digest.parse(IMAGE.digest), descriptor=describe(sbom))
        assert kept == wanted
        store.keep_companion(wanted)
        assert store.companions() == [wanted]
        assert store.forget_companions(lambda one: one.subject == Digest.of(b"other")) == 0
        assert store.forget_companions(lambda one: one == wanted) == 1
        assert store.companions() == []
        assert len(store.references()) == 1


def test_what_a_list_names_wrongly_is_passed_over(bench: Bench) -> None:
    with Registry(referrers=False) as registry:
        push_image(registry, NAME, "1", IMAGE)
        stranger = random_image(9, layers=1)
        push_image(registry, NAME, "9", stranger)
        odd = {"mediaType": "text/plain", "digest": str(Digest.of(b"odd")), "size": 3}
        entry = Descriptor(
            media_type=stranger.media_type,
            digest=Digest.parse(stranger.digest),
            size=len(stranger.manifest),
        ).to_json()
        put_fallback(registry, NAME, IMAGE.digest, entry, odd)
        job = bench.job("pull", f"{registry.host}/{NAME}:1", referrers=True)
        assert job.run() is Status.OK, job.stderr.text()
        assert stranger.digest not in shown(job.stdout.table().to_dicts())


def test_a_referrer_that_cannot_be_had_fails_the_pull_and_names_nothing(
    bench: Bench, registry: Registry
) -> None:
    push_image(registry, NAME, "1", IMAGE)
    sbom = add(registry, IMAGE, b"sbom")
    layer = sbom.layers[0]
    registry.delete_blob(NAME, str(layer.digest))
    status, message = bench.fail("pull", f"{registry.host}/{NAME}:1", referrers=True)
    assert status is Status.ERROR
    assert str(layer.digest) in message
    assert bench.names == []


def test_a_push_that_broke_before_the_list_was_written_puts_it_right(bench: Bench) -> None:
    with Registry(referrers=False) as registry, Registry(referrers=False) as target:
        push_image(registry, NAME, "1", IMAGE)
        sbom = add(registry, IMAGE, b"sbom")
        bench.run("pull", f"{registry.host}/{NAME}:1", referrers=True)
        name = retag(bench, registry, target)
        tag = IMAGE.digest.replace(":", "-")
        target.add_fault(f"status:code=400,path=/manifests/{tag},method=PUT")
        bench.fail("push", name, referrers=True)
        target.clear_faults()
        assert target.manifest("moved/app", str(sbom.digest)) is not None
        assert target.manifest("moved/app", tag) is None
        bench.run("push", name, referrers=True)
        (row,) = bench.run("referrers", name)
        assert row["digest"] == str(sbom.digest)
