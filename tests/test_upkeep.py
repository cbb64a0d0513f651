"""The jobs that keep the store in order: remove, gc, verify."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support_real import make_layout, skopeo, umoci
from support_service import Bench
from support_store import age

from engine import State, Status
from registry_service.cancel import Cancellation
from registry_service.commands import commands
from registry_service.digest import Digest
from registry_service.errors import CancelledError
from registry_service.manifest import OCI_MANIFEST
from registry_service.observe import Observer, Settled
from registry_service.operations.access import Access, Registries
from registry_service.operations.pull import pull as pull_image
from registry_service.operations.verify import verify
from registry_service.platform import Platform
from registry_service.reference import Reference
from registry_service.store import Store
from registry_service.testing import Registry
from registry_service.testing.images import Image, push_image, random_image, random_index

HERE = str(Platform.here())
OTHER = "linux/s390x"


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path / "state")
    yield made
    made.engine.shutdown(grace=0)
    assert not [t for t in threading.enumerate() if t.name.startswith(("transfer", "verify"))]


@pytest.fixture
def registry() -> Iterator[Registry]:
    with Registry() as made:
        yield made


def pull(bench: Bench, registry: Registry, name: str, image: Image) -> str:
    repository, _, tag = name.partition(":")
    push_image(registry, repository, tag, image)
    reference = f"{registry.host}/{name}"
    bench.run("pull", reference)
    return reference


def path_of(bench: Bench, digest: str) -> Path:
    algorithm, _, hexadecimal = digest.partition(":")
    return bench.state / "images" / "blobs" / algorithm / hexadecimal


def blobs(bench: Bench) -> set[str]:
    return {
        f"{path.parent.name}:{path.name}" for path in (bench.state / "images" / "blobs").glob("*/*")
    }


def damage(bench: Bench, digest: str) -> None:
    path = path_of(bench, digest)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


def digests(image: Image) -> set[str]:
    return {*image.blobs, image.digest}


# remove


def test_remove_takes_the_name_and_leaves_the_content(bench: Bench, registry: Registry) -> None:
    image = random_image(1, platform=HERE)
    first = pull(bench, registry, "a:1", image)
    second = pull(bench, registry, "a:2", image)
    before = blobs(bench)
    assert bench.run("remove", first) == [
        {"reference": first, "digest": image.digest, "state": "untagged"}
    ]
    assert bench.names == [second]
    assert blobs(bench) == before


def test_a_digest_removes_every_name_of_its_repository(bench: Bench, registry: Registry) -> None:
    image = random_image(1, platform=HERE)
    first, second = (pull(bench, registry, name, image) for name in ("a:1", "a:2"))
    elsewhere = pull(bench, registry, "b:1", image)
    other = pull(bench, registry, "a:3", random_image(2, platform=HERE))
    by_digest = f"{registry.host}/a@{image.digest}"
    bench.run("pull", by_digest)
    rows = bench.run("remove", by_digest)
    assert {row["reference"] for row in rows} == {first, second, by_digest}
    assert bench.names == sorted([other, elsewhere])


def test_a_tag_with_a_digest_removes_that_tag_if_it_stands_for_it(
    bench: Bench, registry: Registry
) -> None:
    image = random_image(1, platform=HERE)
    first = pull(bench, registry, "a:1", image)
    second = pull(bench, registry, "a:2", image)
    wrong = Digest.of(b"other")
    assert bench.fail("remove", f"{first}@{wrong}")[0] is Status.ERROR
    bench.run("remove", f"{first}@{image.digest}")
    assert bench.names == [second]


def test_where_one_name_is_unknown_nothing_is_removed(bench: Bench, registry: Registry) -> None:
    reference = pull(bench, registry, "a:1", random_image(1, platform=HERE))
    status, message = bench.fail("remove", reference, f"{registry.host}/a:9")
    assert status is Status.ERROR
    assert f"no image {registry.host}/a:9, and nothing was removed" in message
    assert bench.names == [reference]
    assert bench.fail("remove")[0] is Status.USAGE
    assert bench.fail("remove", reference, "A")[0] is Status.USAGE
    assert bench.names == [reference]


def test_prune_takes_what_only_these_names_led_to(bench: Bench, registry: Registry) -> None:
    one, two = random_image(1, platform=HERE), random_image(2, platform=HERE)
    first, second = pull(bench, registry, "a:1", one), pull(bench, registry, "b:1", two)
    left = pull(bench, registry, "c:1", random_image(3, platform=HERE))
    bench.run("remove", left)  # its content is for gc
    before = blobs(bench)
    rows = bench.run("remove", first, prune=True)
    assert rows[0]["state"] == "untagged"
    assert {row["digest"] for row in rows[1:]} == digests(one)
    assert {(row["reference"], row["state"]) for row in rows[1:]} == {(None, "removed")}
    assert blobs(bench) == before - digests(one)
    assert bench.names == [second]
    bench.run("pull", first)
    assert bench.broken() == []


# gc


def test_gc_removes_what_no_name_leads_to(bench: Bench, registry: Registry) -> None:
    one, two = random_image(1, platform=HERE), random_image(2, platform=HERE)
    first, second = pull(bench, registry, "a:1", one), pull(bench, registry, "b:1", two)
    assert bench.run("gc", grace=0) == []
    bench.run("remove", first)
    young = bench.run("gc")
    assert {row["digest"] for row in young} == digests(one)
    assert {row["state"] for row in young} == {"kept"}
    dry = bench.run("gc", grace=0, dryRun=True)
    assert {row["state"] for row in dry} == {"removable"}
    assert blobs(bench) == digests(one) | digests(two)
    rows = bench.run("gc", grace=0)
    assert {row["digest"]: row["size"] for row in rows} == {
        row["digest"]: row["size"] for row in dry
    }
    assert {row["media_type"] for row in rows if row["digest"] == one.digest} == {one.media_type}
    assert blobs(bench) == digests(two)
    assert bench.run("verify", second)[-1]["state"] == "ok"


def test_of_an_index_what_was_pulled_stays(bench: Bench, registry: Registry) -> None:
    index = random_index(3, platforms=[HERE, OTHER])
    push_image(registry, "a", "1", index)
    bench.run("pull", f"{registry.host}/a:1")
    before = blobs(bench)
    assert bench.run("gc", grace=0) == []
    assert blobs(bench) == before


def test_signatures_that_were_pulled_along_stay_and_go_with_their_image(
    bench: Bench, registry: Registry
) -> None:
    image = random_image(1, platform=HERE)
    push_image(registry, "a", "1", image)
    config = registry.put_blob("a", b"{}")
    document = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "artifactType": "application/vnd.example.signature",
        "config": {"mediaType": "application/json", "digest": config, "size": 2},
        "layers": [],
        "subject": {
            "mediaType": image.media_type,
            "digest": image.digest,
            "size": len(image.manifest),
        },
    }
    signature = registry.put_manifest("a", None, json.dumps(document).encode(), OCI_MANIFEST)
    reference = f"{registry.host}/a:1"
    bench.run("pull", reference, referrers=True)
    assert blobs(bench) == {*digests(image), signature, config}
    assert bench.run("gc", grace=0) == []
    rows = bench.run("verify")
    assert {row["state"] for row in rows} == {"ok"}
    assert {signature, config} <= {row["digest"] for row in rows}
    bench.run("remove", reference, prune=True)
    assert blobs(bench) == set()
    index = json.loads((bench.state / "images" / "index.json").read_text())
    assert index["manifests"] == []


def test_gc_gives_up_what_transfers_left_long_ago(bench: Bench) -> None:
    path = bench.state / "ingest" / f"sha256-{'a' * 64}.partial"
    path.write_bytes(b"12345")
    bench.run("gc")
    assert path.exists()
    age(path, 8 * 86400)
    job = bench.job("gc")
    assert job.run() is Status.OK
    assert not path.exists()


@pytest.mark.parametrize("option", ["grace", "partialAge"])
def test_seconds_that_are_none_are_wrong_usage(bench: Bench, option: str) -> None:
    for value in ("-1", "soon"):
        status, message = bench.fail("gc", **{option: value})
        assert status is Status.USAGE
        assert option in message


def test_a_pull_beside_gc_ends_with_all_it_needs(bench: Bench, registry: Registry) -> None:
    """The pull has some blobs and waits for one when everything without a name is swept."""
    image = random_image(4, layers=4, platform=HERE)
    push_image(registry, "a", "1", image)
    last = list(image.blobs)[-1]
    job = bench.job("pull", f"{registry.host}/a:1")
    with registry.hold(path=last) as hold:
        runner = threading.Thread(target=job.run)
        runner.start()
        assert hold.entered.wait(10)
        bench.run("gc", grace=0, partialAge=0)
        hold.release()
        runner.join(20)
    assert job.status is Status.OK, job.stderr.text()
    fetched = [one.path for one in registry.requests if "/blobs/" in one.path]
    assert len(fetched) == len(image.blobs)  # what it had was pinned
    assert {row["state"] for row in bench.run("verify")} == {"ok"}


def test_a_pull_whose_blobs_were_there_and_went_fetches_them(
    bench: Bench, registry: Registry
) -> None:
    """It finds all blobs there, and before it names its image, they are swept."""
    image = random_image(5, platform=HERE)
    reference = pull(bench, registry, "a:1", image)
    bench.run("remove", reference)
    told: list[str] = []

    def settled(one: Settled) -> None:
        told.append(one.state)
        if len(told) == len(image.blobs):
            rows = bench.run("gc", grace=0)
            assert {row["digest"] for row in rows} >= set(image.blobs)

    observer = Observer(settled=settled)
    registries = Registries()
    with Store(bench.state / "images", bench.state / "ingest") as store:
        cancel = Cancellation()
        client = registries.client(registry.host, Access(), cancel=cancel, observer=observer)
        registry.clear_requests()
        pull_image(
            Reference.parse(reference),
            client=client,
            store=store,
            cancel=cancel,
            observer=observer,
        )
    registries.close()
    assert set(told) == {"exists"}
    fetched = [one.path for one in registry.requests if "/blobs/" in one.path]
    assert len(fetched) == len(image.blobs)
    assert {row["state"] for row in bench.run("verify")} == {"ok"}
    assert bench.names == [reference]


def test_a_push_goes_on_when_its_name_is_removed(bench: Bench, registry: Registry) -> None:
    image = random_image(6, platform=HERE)
    reference = pull(bench, registry, "a:1", image)
    with Registry() as other:
        target = f"{other.host}/a:1"
        bench.run("tag", reference, target)
        job = bench.job("push", target)
        with other.hold(path="/uploads/", method="POST") as hold:
            runner = threading.Thread(target=job.run)
            runner.start()
            assert hold.entered.wait(10)
            bench.run("remove", reference, target, prune=True)
            rows = bench.run("gc", grace=0)
            assert {row["state"] for row in rows} == {"kept"}
            hold.release()
            runner.join(20)
        assert job.status is Status.OK, job.stderr.text()
        stored = other.manifest("a", "1")
        assert stored is not None and stored.digest == image.digest
    bench.run("gc", grace=0)
    assert blobs(bench) == set()


def test_what_gc_leaves_skopeo_and_umoci_read(
    bench: Bench, registry: Registry, tmp_path: Path
) -> None:
    tree = tmp_path / "files"
    tree.mkdir()
    (tree / "one").write_bytes(b"1" * 100_000)
    make_layout(tmp_path / "layout", [tree])
    layout = bench.state / "images"
    skopeo("copy", f"oci:{tmp_path / 'layout'}:latest", f"oci:{layout}:theirs")
    gone = pull(bench, registry, "a:1", random_image(7, platform=HERE))
    kept = pull(bench, registry, "b:1", random_image(8, platform=HERE))
    bench.run("remove", gone)
    assert len(bench.run("gc", grace=0)) == len(digests(random_image(7, platform=HERE)))
    for name in ("theirs", kept):
        shown = json.loads(skopeo("inspect", f"oci:{layout}:{name}"))
        assert shown["Digest"].startswith("sha256:")
        skopeo("copy", f"oci:{layout}:{name}", f"oci:{tmp_path / 'out'}:x")
    assert "theirs" in umoci("ls", "--layout", layout)
    umoci("unpack", "--rootless", "--image", f"{layout}:theirs", tmp_path / "bundle")
    assert (tmp_path / "bundle" / "rootfs" / "files" / "one").stat().st_size == 100_000
    assert {row["state"] for row in bench.run("verify")} == {"ok"}


# verify


def test_verify_tells_each_blob_once_with_the_name_that_leads_to_it(
    bench: Bench, registry: Registry
) -> None:
    image = random_image(1, platform=HERE)
    first = pull(bench, registry, "a:1", image)
    pull(bench, registry, "b:1", image)
    loose = random_image(2, platform=HERE)
    bench.run("remove", pull(bench, registry, "c:1", loose))
    rows = bench.run("verify")
    assert {row["digest"] for row in rows} == digests(image) | digests(loose)
    assert len(rows) == len(digests(image) | digests(loose))
    found = {row["digest"]: row for row in rows}
    assert {found[one]["state"] for one in digests(image)} == {"ok"}
    assert {found[one]["reference"] for one in digests(image)} == {first}
    assert {found[one]["state"] for one in digests(loose)} == {"unreferenced"}
    assert {row["digest"] for row in bench.run("verify", first)} == digests(image)
    assert bench.fail("verify", "nothing:1")[0] is Status.ERROR


@pytest.mark.parametrize("what", ["manifest", "config", "layer"])
def test_damage_is_told_repaired_and_healed_by_a_pull(
    bench: Bench, registry: Registry, what: str
) -> None:
    image = random_image(1, platform=HERE)
    reference = pull(bench, registry, "a:1", image)
    config, *layers = image.blobs
    damaged = {"manifest": image.digest, "config": config, "layer": layers[0]}[what]
    damage(bench, damaged)
    job = bench.job("verify")
    assert job.run() is Status.ERROR
    states = {row["digest"]: row["state"] for row in job.stdout.table().to_dicts()}
    assert states[damaged] == "damaged"
    assert job.end is not None and "1 damaged" in job.end.message
    assert bench.broken() == [damaged.removeprefix("sha256:")]
    job = bench.job("verify", repair=True)
    assert job.run() is Status.ERROR
    states = {row["digest"]: row["state"] for row in job.stdout.table().to_dicts()}
    assert states[damaged] == "quarantined"
    assert not path_of(bench, damaged).exists()
    assert len(list((bench.state / "ingest" / "quarantine").iterdir())) == 1
    status, message = bench.fail("verify", reference)
    assert status is Status.ERROR
    assert "1 missing" in message
    rows = bench.run("pull", reference)
    assert {row["digest"] for row in rows if row["state"] == "fetched"} == {damaged}
    assert {row["state"] for row in bench.run("verify")} == {"ok"}


def test_a_pull_heals_a_damaged_manifest_by_itself(bench: Bench, registry: Registry) -> None:
    index = random_index(3, platforms=[HERE, OTHER])
    push_image(registry, "a", "1", index)
    reference = f"{registry.host}/a:1"
    bench.run("pull", reference)
    for digest in (index.digest, index.images[0].digest):
        damage(bench, digest)
        rows = bench.run("pull", reference)
        assert rows[-1]["digest"] == index.digest
        assert bench.broken() == []


def test_a_pull_that_names_a_platform_heals_a_damaged_configuration(
    bench: Bench, registry: Registry
) -> None:
    image = random_image(1, platform=HERE)
    reference = pull(bench, registry, "a:1", image)
    damage(bench, next(iter(image.blobs)))
    bench.run("pull", reference, platform=HERE)
    assert bench.broken() == []


def test_truncated_and_missing_blobs_are_told(bench: Bench, registry: Registry) -> None:
    image = random_image(1, platform=HERE)
    pull(bench, registry, "a:1", image)
    _, short, gone, *_ = image.blobs
    path_of(bench, short).write_bytes(b"short")
    path_of(bench, gone).unlink()
    job = bench.job("verify")
    assert job.run() is Status.ERROR
    states = {row["digest"]: row["state"] for row in job.stdout.table().to_dicts()}
    assert (states[short], states[gone]) == ("damaged", "missing")


def test_what_of_an_index_was_not_pulled_is_not_missing(bench: Bench, registry: Registry) -> None:
    index = random_index(3, platforms=[HERE, OTHER])
    push_image(registry, "a", "1", index)
    bench.run("pull", f"{registry.host}/a:1")
    states = {row["digest"]: row["state"] for row in bench.run("verify")}
    assert states.pop(index.images[1].digest) == "absent"
    assert set(states.values()) == {"ok"}


def test_a_cancel_ends_a_verify_within_a_blob(tmp_path: Path) -> None:
    cancel = Cancellation()
    seen: list[int] = []

    def progress(key: str, phase: str, done: int, total: int, /) -> None:
        assert phase == "verifying"
        seen.append(done)
        cancel.cancel()

    with Store(tmp_path / "images", tmp_path / "ingest") as store:
        blob = store.put(bytes(7 * 1024 * 1024), "a/b")
        store.tag("h.io/a:1", blob)
        with pytest.raises(CancelledError):
            list(verify(store, cancel=cancel, observer=Observer(progress=progress)))
    assert len(seen) == 1


def test_a_cancelled_verify_job_is_cancelled(bench: Bench, registry: Registry) -> None:
    pull(bench, registry, "a:1", random_image(1, platform=HERE))
    job = bench.job("verify")
    job.cancel()
    job.run()
    assert job.state is State.CANCELLED


def test_upkeep_of_an_empty_store(bench: Bench) -> None:
    for name in ("gc", "verify"):
        rows: list[dict[str, Any]] = bench.run(name)
        assert rows == []


# the commands


class Submitted:
    """Stands for a session of enginectl; keeps what was submitted."""

    def __init__(self) -> None:
        self.job: tuple[Any, ...] = ()

    def submit(self, name: str, args: Any, env: dict[str, Any], options: object) -> int:
        set_ones = {key: value for key, value in env.items() if value is not None}
        self.job = name, tuple(args), set_ones
        return 0


@pytest.mark.parametrize(
    ("words", "job"),
    [
        ("remove a b:1 --prune", ("remove", ("a", "b:1"), {"prune": True})),
        ("remove a", ("remove", ("a",), {})),
        ("gc", ("gc", (), {})),
        ("gc --dry-run --grace 0", ("gc", (), {"dryRun": True, "grace": 0})),
        ("gc --partial-age 60", ("gc", (), {"partialAge": 60})),
        ("verify", ("verify", (), {})),
        ("verify a --repair", ("verify", ("a",), {"repair": True})),
    ],
)
def test_commands_submit_their_jobs(words: str, job: tuple[Any, ...]) -> None:
    name, *rest = words.split()
    (command,) = (one for one in commands() if one.name == name)
    session = Submitted()
    assert command.main(rest, obj=session, standalone_mode=False) == 0
    assert session.job == job
