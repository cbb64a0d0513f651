"""From OCI to V1 and back, through a real registry and two stores: what comes back is what went."""

from __future__ import annotations

import contextlib
import dataclasses
import gzip
import hashlib
import io
import json
import stat
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support_archives import COMPRESS
from support_real import skopeo, umoci
from support_service import Bench
from support_v1_push import Made, keep, made_image, puts, rich_archives

from registry_service.digest import Digest
from registry_service.manifest import Manifest
from registry_service.media import OCI_MANIFEST
from registry_service.testing.v1 import V1Registry


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Both:
    """The store that pushes, and the store that pulls."""

    here: Bench
    there: Bench

    def travelled(self, image: Made, name: str) -> Made:
        keep(self.here.state, name, image)
        self.here.run("push", name)
        rows = self.there.run("pull", name, platform="all")
        return read(self.there.state, Digest.parse(rows[-1]["digest"]))


@contextlib.contextmanager
def both(place: Path) -> Iterator[Both]:
    found = Both(here=Bench(place / "here"), there=Bench(place / "there"))
    yield found
    found.here.engine.shutdown(grace=0)
    found.there.engine.shutdown(grace=0)


def read(state: Path, digest: Digest) -> Made:
    """An image of the store of an engine; its layers are in gzip."""

    def blob(one: Digest) -> bytes:
        return (state / "images" / "blobs" / one.algorithm / one.hex).read_bytes()

    manifest = Manifest.parse(blob(digest), OCI_MANIFEST, digest)
    assert manifest.config is not None
    layers = tuple(blob(one.digest) for one in manifest.layers)
    return Made(
        config=blob(manifest.config.digest),
        manifest=manifest,
        layers=layers,
        archives=tuple(map(gzip.decompress, layers)),
    )


# the images

texts = st.text(max_size=8)
names = st.lists(
    st.text("abcé\n -.", min_size=1, max_size=6).filter(lambda one: one.strip(".")),
    min_size=1,
    max_size=40,
).map(lambda parts: "/".join(parts)[:300])


@st.composite
def entries(draw: st.DrawFn) -> tuple[tarfile.TarInfo, bytes]:
    """A member with what a layer may hold."""
    info = tarfile.TarInfo(draw(names))
    kinds = [tarfile.REGTYPE] * 3 + [
        tarfile.DIRTYPE,
        tarfile.SYMTYPE,
        tarfile.LNKTYPE,
        tarfile.FIFOTYPE,
        tarfile.CHRTYPE,
    ]
    info.type = draw(st.sampled_from(kinds))
    info.mode = draw(st.integers(0, 0o7777))
    info.uid, info.gid = draw(st.integers(0, 2**32)), draw(st.integers(0, 70_000))
    info.uname, info.gname = draw(texts), draw(texts)
    info.mtime = draw(st.integers(0, 2**33) | st.floats(0, 2e9).map(lambda one: round(one, 3)))
    data = b""
    if info.type == tarfile.REGTYPE:
        data = draw(st.binary(max_size=1500))
        info.size = len(data)
        if draw(st.booleans()):
            info.pax_headers = {"SCHILY.xattr.user.note": draw(texts)}
    elif info.type in (tarfile.SYMTYPE, tarfile.LNKTYPE):
        info.linkname = draw(names)
    elif info.type == tarfile.CHRTYPE:
        info.devmajor, info.devminor = draw(st.integers(0, 255)), draw(st.integers(0, 255))
    return info, data


@st.composite
def archives(draw: st.DrawFn) -> bytes:
    made = io.BytesIO()
    form = draw(st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]))
    with tarfile.open(fileobj=made, mode="w", format=form) as tar:
        for info, data in draw(st.lists(entries(), max_size=4)):
            with contextlib.suppress(ValueError):  # what the format has no room for
                tar.addfile(info, io.BytesIO(data))
    return made.getvalue()


configs = st.fixed_dictionaries(
    {},
    optional={
        "Cmd": st.lists(texts, max_size=2),
        "Entrypoint": st.lists(texts, max_size=2),
        "Env": st.lists(texts, max_size=2),
        "Labels": st.dictionaries(texts, texts, max_size=2),
        "ExposedPorts": st.just({"80/tcp": {}}),
        "Volumes": st.just({"/data": {}}),
        "User": texts,
        "WorkingDir": texts,
        "StopSignal": texts,
        "Healthcheck": st.just({"Test": ["CMD", "true"], "Interval": 10**10}),
        "Unknown": st.integers() | texts,
    },
)
steps = st.fixed_dictionaries(
    {"empty": st.booleans()}, optional={"created_by": texts, "author": texts, "comment": texts}
)


class Case:
    """An image of which little is shown."""

    def __init__(self, image: Made) -> None:
        self.image = image

    def __repr__(self) -> str:
        shown = [members(one) for one in self.image.archives]
        return f"Case({self.image.config!r}, {str(shown)[:2000]})"


@st.composite
def images(draw: st.DrawFn) -> Case:
    history = draw(st.lists(steps, min_size=1, max_size=4))
    layers = [draw(archives()) for step in history if not step["empty"]]
    told: list[dict[str, Any]] = []
    for number, step in enumerate(history):
        entry = {key: one for key, one in step.items() if key != "empty"}
        entry["created"] = f"2024-01-0{number + 1}T00:00:00Z"
        told.append({**entry, "empty_layer": True} if step["empty"] else entry)
    kind = draw(st.sampled_from(["plain", *COMPRESS]))
    fields: dict[str, Any] = draw(
        st.fixed_dictionaries({}, optional={"author": texts, "variant": texts})
    )
    image = made_image(
        layers, pack=COMPRESS.get(kind, bytes), config=draw(configs), history=told, **fields
    )
    return Case(image)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Both]:
    with both(tmp_path_factory.mktemp("both")) as found:
        yield found


def members(archive: bytes) -> list[dict[str, Any]]:
    """What an archive has of each member, content too."""
    found = []
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        for one in tar:
            body = tar.extractfile(one) if one.isreg() else None
            found.append({**one.get_info(), "pax": one.pax_headers, "data": body and body.read()})
    return found


@settings(deadline=None, max_examples=20)
@given(case=images())
def test_what_went_into_v1_comes_back(pair: Both, case: Case) -> None:
    image = case.image
    with V1Registry() as registry:  # another one would have layers of the same content already
        found = pair.travelled(image, f"{registry.host}/test/app:1")
    assert json.loads(found.config) == json.loads(image.config)
    for one, two in zip(found.archives, image.archives, strict=True):
        assert members(one) == members(two)  # every file, mode, owner, link and time
        assert one == two  # and every byte
    gzipped = [layer for layer in image.layers if layer[:2] == b"\x1f\x8b"]
    if len(gzipped) == len(image.layers):  # these go as they are
        assert [one.digest for one in found.manifest.layers] == [
            one.digest for one in image.manifest.layers
        ]


def test_what_came_back_is_there_already(tmp_path: Path) -> None:
    """What was pulled becomes the same chain again: nothing of it travels."""
    image = made_image(rich_archives(5, 4), author="ann", variant="v8")
    with both(tmp_path) as pair, V1Registry() as registry:
        name = f"{registry.host}/test/app:1"
        pair.travelled(image, name)
        registry.clear_requests()
        rows = pair.there.run("push", name)
        assert {row["state"] for row in rows} == {"exists"}
        assert puts(registry) == []


def test_a_chain_of_120_images_comes_back(tmp_path: Path) -> None:
    image = made_image(rich_archives(6, 120))
    with both(tmp_path) as pair, V1Registry() as registry:
        found = pair.travelled(image, f"{registry.host}/test/app:1")
        assert found.archives == image.archives
        assert found.layers == image.layers
        assert json.loads(found.config) == json.loads(image.config)


def tree(root: Path) -> dict[str, Any]:
    """All that a tree has, by its names."""
    found: dict[str, Any] = {}
    for path in sorted(root.rglob("*")):
        state = path.lstat()
        content: str = ""
        if stat.S_ISLNK(state.st_mode):
            content = str(path.readlink())
        elif stat.S_ISREG(state.st_mode):
            content = hashlib.sha256(path.read_bytes()).hexdigest()
        found[str(path.relative_to(root))] = (
            state.st_mode,
            state.st_uid,
            state.st_gid,
            state.st_mtime_ns,
            state.st_nlink,
            content,
        )
    return found


def test_other_tools_unpack_the_same_files(tmp_path: Path) -> None:
    """Of both images umoci makes the same tree, and skopeo reads the one that came back."""
    image = made_image(rich_archives(9, 4))
    with both(tmp_path) as pair, V1Registry() as registry:
        name = f"{registry.host}/test/app:1"
        pair.travelled(image, name)
        trees = []
        for side in ("here", "there"):
            layout = f"oci:{tmp_path / side / 'images'}:{name}"
            skopeo("copy", layout, f"oci:{tmp_path / f'{side}-layout'}:x")
            bundle = tmp_path / f"{side}-bundle"
            umoci("unpack", "--rootless", "--image", f"{tmp_path / f'{side}-layout'}:x", bundle)
            trees.append(tree(bundle / "rootfs"))
            inspected = json.loads(skopeo("inspect", "--config", layout))
            assert inspected["config"] == {"Cmd": ["/bin/true"], "Env": ["A=1"]}
        assert len(trees[0]) > 10
        assert trees[0] == trees[1]
