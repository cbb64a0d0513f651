"""The jobs save and load, and push from an archive, in the process."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support_archives import (
    Entry,
    docker_old,
    docker_plain,
    oci,
    packed,
    sha,
    swapped,
    write_tar,
)
from support_service import Bench
from test_service import HERE

from engine import Status
from registry_service.archive import Form
from registry_service.operations.archives import ArchivePath
from registry_service.testing import Registry
from registry_service.testing.images import (
    push_image,
    random_image,
    random_index,
)

if sys.version_info >= (3, 14):
    pass
else:
    pass


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path / "state", save_dirs=[str(tmp_path)])
    yield made
    made.engine.shutdown(grace=0)


@pytest.fixture
def registry() -> Iterator[Registry]:
    with Registry() as made:
        yield made


# the jobs


def test_the_jobs_save_and_load(bench: Bench, registry: Registry, tmp_path: Path) -> None:
    image = random_image(1, platform=HERE)
    push_image(registry, "test/app", "1", image)
    name = f"{registry.host}/test/app:1"
    bench.run("pull", name)
    for form in ("docker", "oci"):
        job = bench.job("save", name, format=form)
        assert job.run() is Status.OK, job.stderr.text()
        path = tmp_path / f"{form}.tar"
        assert bench.run("save", name, format=form, path=str(path)) == []
        assert path.read_bytes() == job.stdout.data()
        target = f"{registry.host}/loaded/{form}:1"
        rows = bench.run("load", str(path), **{"as": target})
        assert rows[-1]["reference"] == target
        assert {row["state"] for row in rows} == (
            {"exists"} if form == "oci" else {"loaded", "exists"}
        )
    assert bench.broken() == []


@pytest.mark.parametrize(
    ("job", "args", "env", "status", "words"),
    [
        ("save", ["absent:1"], {}, 1, "no image"),
        ("save", ["absent:1"], {"format": "zip"}, 2, "docker, oci"),
        ("save", ["absent:1"], {"force": True}, 2, "it goes with 'path'"),
        ("save", ["absent:1"], {"path": "x.tar"}, 2, "absolute path"),
        ("save", ["absent:1"], {"path": "/x.tar"}, 126, "save_dirs"),
        ("save", ["UPPER"], {}, 2, "lower case"),
        ("save", [], {}, 2, "IMAGE is missing"),
        ("load", [], {}, 2, "FILE is missing"),
        ("load", ["x.tar"], {}, 2, "absolute path"),
        ("load", ["/absent/x.tar"], {}, 1, "No such file"),
        ("load", ["/dev/null"], {}, 2, "not a plain file"),
        ("load", ["/x.tar"], {"as": "UPPER"}, 2, "lower case"),
        ("push", ["127.0.0.1:1/x"], {"from": "/x.tar"}, 2, "docker-archive:PATH"),
        ("save", ["absent:1"], {"referrers": True}, 2, "the format 'oci' has one"),
        ("push", ["127.0.0.1:1/x"], {"from": "oci-archive:"}, 2, "docker-archive:PATH"),
        ("push", ["127.0.0.1:1/x"], {"from": "oci-archive:/absent"}, 1, "No such file"),
    ],
)
def test_wrong_input_has_its_status_and_its_words(
    bench: Bench, job: str, args: list[str], env: dict[str, Any], status: int, words: str
) -> None:
    found, message = bench.fail(job, *args, **env)
    assert (int(found), words in message) == (status, True), message


@pytest.mark.parametrize("settings", [{"save_dirs": "x"}, {"save_dirs": ["x"]}, {"load_dirs": [1]}])
def test_settings_of_places_are_checked(tmp_path: Path, settings: dict[str, Any]) -> None:
    with pytest.raises(Exception, match="_dirs"):
        Bench(tmp_path / "other", **settings)


# push from an archive


def test_an_image_of_an_archive_is_pushed_and_the_store_keeps_nothing(
    bench: Bench, registry: Registry, tmp_path: Path
) -> None:
    image, index = random_image(1), random_index(2)
    archive = write_tar(tmp_path / "x.tar", oci([("a:1", image), ("b:1", index)], "containerd"))
    for source, target, wanted in (
        (f"oci-archive:{archive}:a:1", "to/a:1", image),
        (f"oci-archive:{archive}:docker.io/library/b:1", "to/b:2", index),
    ):
        rows = bench.run("push", f"{registry.host}/{target}", **{"from": source})
        assert rows[-1]["digest"] == wanted.digest
        assert {row["state"] for row in rows} == {"pushed"}
        repository, _, tag = target.partition(":")
        found = registry.manifest(repository, tag)
        assert found is not None
        assert found.raw == wanted.manifest
    assert bench.names == []
    assert list((bench.state / "images" / "blobs").glob("*/*")) == []
    again = bench.run("push", f"{registry.host}/to/a:1", **{"from": f"oci-archive:{archive}:a:1"})
    assert {row["state"] for row in again} == {"exists"}


@pytest.mark.parametrize("compressed", [False, True])
def test_a_docker_archive_is_pushed_as_an_oci_image(
    bench: Bench, registry: Registry, tmp_path: Path, compressed: bool
) -> None:
    image = random_image(1)
    archive = write_tar(tmp_path / "x.tar", docker_old(image), "w:gz" if compressed else "w")
    bench.run("push", f"{registry.host}/to/a:1", **{"from": f"docker-archive:{archive}"})
    found = registry.manifest("to/a", "1")
    assert found is not None
    document = json.loads(found.raw)
    assert document["mediaType"] == "application/vnd.oci.image.manifest.v1+json"
    assert [layer["digest"][7:] for layer in document["layers"]] == packed(image)
    assert registry.blob("to/a", document["config"]["digest"]) == image.config


def test_an_image_is_loaded_without_its_tags_that_are_none(bench: Bench, tmp_path: Path) -> None:
    image = random_image(1, platform=HERE)
    path = write_tar(
        tmp_path / "x.tar", docker_plain(image, ["App:1", "<none>:<none>", "app:1", "B"])
    )
    job = bench.job("load", str(path))
    assert job.run() is Status.OK, job.stderr.text()
    assert bench.names == ["docker.io/library/app:1"]
    (line,) = job.stderr.text().splitlines()
    assert "'App' is not in lower case" in line
    assert "(and 1 more)" in line
    assert "<none>" not in line


def manifest_json(entries: dict[str, Entry]) -> bytes:
    raw = entries["manifest.json"]
    assert isinstance(raw, bytes)
    return raw


def test_an_image_without_a_name_keeps_no_other_from_being_loaded(
    bench: Bench, registry: Registry, tmp_path: Path
) -> None:
    named, bare = random_image(1, platform=HERE), random_image(2, platform=HERE)
    layouts = [docker_plain(bare, ["<none>:<none>"]), docker_plain(named, ["app:1"])]
    listed = [entry for one in layouts for entry in json.loads(manifest_json(one))]
    path = write_tar(
        tmp_path / "x.tar",
        {**layouts[0], **layouts[1], "manifest.json": json.dumps(listed).encode()},
    )
    job = bench.job("load", str(path))
    assert job.run() is Status.OK, job.stderr.text()
    assert bench.names == ["docker.io/library/app:1"]
    assert "has no name, and is left out" in job.stderr.text()
    for wrong in (f"docker-archive:{path}:<none>:<none>", f"docker-archive:{path}"):
        bench.fail("push", f"{registry.host}/to/a:1", **{"from": wrong})


def test_no_image_with_a_name_is_an_error(bench: Bench, tmp_path: Path) -> None:
    listed = [(tag, random_image(seed)) for seed, tag in enumerate(["", "latest"])]
    path = write_tar(tmp_path / "x.tar", oci(listed))
    _, message = bench.fail("load", str(path))
    assert "nor has any other of the 2 images" in message


def test_an_image_is_pushed_by_a_tag_that_is_no_name(
    bench: Bench, registry: Registry, tmp_path: Path
) -> None:
    image = random_image(1)
    path = write_tar(tmp_path / "x.tar", docker_plain(image, ["App:1"]))
    bench.run("push", f"{registry.host}/to/a:1", **{"from": f"docker-archive:{path}:App:1"})
    found = registry.manifest("to/a", "1")
    assert found is not None
    assert json.loads(found.raw)["config"]["digest"] == f"sha256:{sha(image.config)}"


def test_which_image_of_an_archive_is_meant_must_be_clear(
    bench: Bench, registry: Registry, tmp_path: Path
) -> None:
    archive = write_tar(
        tmp_path / "x.tar", oci([("a:1", random_image(1)), ("b:1", random_image(2))])
    )
    for name, words in (("", "has 2 images"), (":c:1", "no image called 'c:1'")):
        _, message = bench.fail(
            "push", f"{registry.host}/x:1", **{"from": f"oci-archive:{archive}{name}"}
        )
        assert words in message
        assert "docker.io/library/a:1" in message


@pytest.mark.parametrize("layout", ["oci", "docker"])
def test_a_damaged_archive_is_not_pushed(
    bench: Bench, registry: Registry, tmp_path: Path, layout: str
) -> None:
    entries = swapped(
        oci([("a:1", random_image(1))]) if layout == "oci" else docker_plain(random_image(1))
    )
    archive = write_tar(tmp_path / "x.tar", entries)
    _, message = bench.fail(
        "push", f"{registry.host}/x:1", **{"from": f"{layout}-archive:{archive}"}
    )
    assert "digest" in message or "not have all" in message
    assert registry.manifest("x", "1") is None


def test_an_archive_s_path_ends_with_its_colon() -> None:
    found = ArchivePath.parse("docker-archive:/a/b.tar:host:5000/x:1")
    assert (found.form, found.path, found.name) == (Form.DOCKER, Path("/a/b.tar"), "host:5000/x:1")
