"""Archives to and from the tools that people have: skopeo, umoci, podman, containerd."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support_archives import (
    COMPRESS,
    NAME,
    config_of,
    docker_plain,
    keep,
    load,
    packed,
    save,
    write_tar,
)
from support_services import require
from support_store import make_store
from test_service import HERE

from registry_service.archive import Form
from registry_service.reference import Reference
from registry_service.store import Store
from registry_service.testing.images import Image, random_image, random_index

SECOND = Reference.parse("example.org/team/second:2")


def as_root(program: str) -> None:
    """Others may lack the user namespaces that the program then wants."""
    if os.getuid() != 0:
        pytest.skip(f"{program} needs root")


class Tools:
    """The programs, with nothing of the machine's user in reach. ``short`` is a directory with
    a short path, which podman wants."""

    def __init__(self, root: Path, short: str) -> None:
        self.root = root
        self._short = short
        (root / "home").mkdir()
        self._environ = {
            "HOME": str(root / "home"),
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            "XDG_RUNTIME_DIR": str(root / "home"),
            "TMPDIR": str(root),
        }

    def run(self, program: str, *args: str | Path) -> str:
        done = subprocess.run(
            [require(program), *map(str, args)],
            capture_output=True,
            text=True,
            timeout=100,
            cwd=self.root,
            env=self._environ,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def skopeo(self, *args: str | Path) -> str:
        return self.run("skopeo", "--insecure-policy", *args)

    def podman(self, *args: str | Path) -> str:
        as_root("podman")
        places = ["--root", str(self.root / "podman"), "--runroot", self._short]
        driver = ["--storage-driver", "vfs", "--cgroup-manager", "cgroupfs"]
        return self.run("podman", *places, *driver, *args)

    def archive(self, store: Store, *names: Reference, form: Form) -> Path:
        path = self.root / f"ours-{form.value}.tar"
        path.write_bytes(save(store, *names, form=form))
        return path


@pytest.fixture
def tools(tmp_path: Path) -> Iterator[Tools]:
    with tempfile.TemporaryDirectory(prefix="podman-") as short:
        yield Tools(tmp_path, short)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with make_store(tmp_path / "store") as made:
        yield made


@pytest.fixture
def other(tmp_path: Path) -> Iterator[Store]:
    with make_store(tmp_path / "other") as made:
        yield made


def image(seed: int = 1) -> Image:
    return random_image(seed, platform=HERE, layer_size=50_000)


# what we write


@pytest.mark.parametrize(
    ("form", "transport"),
    [
        (Form.DOCKER, "docker-archive"),
        (Form.DOCKER, "oci-archive"),
        (Form.OCI, "oci-archive"),
    ],
)
def test_skopeo_reads_what_we_write(tools: Tools, store: Store, form: Form, transport: str) -> None:
    keep(store, NAME, image())
    keep(store, SECOND, image(2))
    path = tools.archive(store, NAME, SECOND, form=form)
    tools.skopeo("copy", f"{transport}:{path}:{SECOND}", "dir:copied")
    document = json.loads((tools.root / "copied" / "manifest.json").read_bytes())
    config = (tools.root / "copied" / document["config"]["digest"][7:]).read_bytes()
    assert config == image(2).config
    layers = [one["digest"][7:] for one in document["layers"]]
    if form is Form.DOCKER:
        assert layers == packed(image(2))
    else:
        assert len(layers) == len(image(2).layers)


def test_skopeo_and_umoci_read_an_index_that_we_write(tools: Tools, store: Store) -> None:
    index = random_index(1, platforms=[HERE, "linux/s390x"])
    keep(store, NAME, index)
    path = tools.archive(store, NAME, form=Form.OCI)
    tools.skopeo("copy", "--all", f"oci-archive:{path}:{NAME}", "oci:layout:x")
    listed = json.loads((tools.root / "layout" / "index.json").read_bytes())
    assert [one["digest"] for one in listed["manifests"]] == [index.digest]
    tools.skopeo("copy", f"oci-archive:{path}:{NAME}", "oci:single:x")
    tools.run("umoci", "unpack", "--rootless", "--image", "single:x", "bundle")
    assert list((tools.root / "bundle" / "rootfs").glob("data-*"))


@pytest.mark.parametrize("form", list(Form))
def test_podman_loads_what_we_write(tools: Tools, store: Store, form: Form) -> None:
    keep(store, NAME, image())
    keep(store, SECOND, image(2))
    # of an OCI archive with several images podman takes none
    names = [NAME, SECOND] if form is Form.DOCKER else [NAME]
    said = tools.podman("load", "-i", tools.archive(store, *names, form=form))
    assert all(f"Loaded image: {name}" in said for name in names)
    found = json.loads(tools.podman("image", "inspect", str(NAME)))[0]
    assert [one[7:] for one in found["RootFS"]["Layers"]] == packed(image())


@pytest.mark.parametrize("form", list(Form))
def test_containerd_imports_what_we_write(tools: Tools, store: Store, form: Form) -> None:
    keep(store, NAME, image())
    keep(store, SECOND, image(2))
    path = tools.archive(store, NAME, SECOND, form=form)
    with containerd(tools) as ctr:
        ctr("images", "import", "--no-unpack", path)
        assert set(ctr("images", "ls", "-q").split()) == {str(NAME), str(SECOND)}
        listed = ctr("images", "ls")
    if form is Form.OCI:
        assert image().digest in listed


@contextlib.contextmanager
def containerd(tools: Tools) -> Iterator[Callable[..., str]]:
    """`ctr` for a containerd of its own."""
    as_root("containerd")
    program, root = require("containerd"), tools.root / "containerd"
    address = root / "socket"
    places = ["--root", root / "root", "--state", root / "state", "--address", address]
    root.mkdir()
    with (root / "log").open("w") as log:
        process = subprocess.Popen([program, *map(str, places)], stdout=log, stderr=log, cwd=root)
    try:
        deadline = time.monotonic() + 30
        pause = threading.Event()
        while "containerd successfully booted" not in (root / "log").read_text():
            if process.poll() is not None or time.monotonic() > deadline:
                pytest.fail((root / "log").read_text()[-2000:])
            pause.wait(0.05)
        yield lambda *args: tools.run("ctr", "--address", str(address), *args)
    finally:
        process.terminate()
        process.wait(20)


# what they write


@pytest.mark.parametrize("transport", ["docker-archive", "oci-archive"])
def test_we_read_what_skopeo_writes(
    tools: Tools, store: Store, other: Store, transport: str
) -> None:
    keep(store, NAME, image())
    ours = tools.archive(store, NAME, form=Form.OCI)
    path = tools.root / "theirs.tar"
    tools.skopeo("copy", f"oci-archive:{ours}:{NAME}", f"{transport}:{path}:{SECOND}")
    load(other, path)
    assert [name for name, _ in other.references()] == [str(SECOND)]
    config, layers = config_of(other, SECOND)
    assert config == image().config
    if transport == "docker-archive":
        assert layers == packed(image())
    else:
        assert other.resolve(SECOND) == store.resolve(NAME)


@pytest.mark.parametrize("kind", sorted(COMPRESS))
def test_skopeo_and_podman_make_the_same_of_compressed_layers(
    tools: Tools, store: Store, kind: str
) -> None:
    entries = docker_plain(image(), ("example.org/app:1",))
    for name, content in list(entries.items()):
        if name.endswith(".tar"):
            assert isinstance(content, bytes)
            entries[name] = COMPRESS[kind](content)
    path = write_tar(tools.root / "packed.tar", entries)
    load(store, path)
    ours, _ = config_of(store, Reference.parse("example.org/app:1"))
    theirs = tools.skopeo("inspect", "--config", "--raw", f"docker-archive:{path}")
    assert json.loads(theirs) == json.loads(ours)
    tools.podman("load", "-i", path)
    (found,) = json.loads(tools.podman("image", "inspect", "example.org/app:1"))
    assert found["RootFS"]["Layers"] == [f"sha256:{one}" for one in packed(image())]


@pytest.mark.parametrize("form", ["docker-archive", "oci-archive"])
def test_we_read_what_podman_writes(tools: Tools, store: Store, other: Store, form: str) -> None:
    keep(store, NAME, image())
    tools.podman("load", "-i", tools.archive(store, NAME, form=Form.DOCKER))
    path = tools.root / "theirs.tar"
    tools.podman("save", "--format", form, "-o", path, str(NAME))
    load(other, path)
    assert [name for name, _ in other.references()] == [str(NAME)]
    config, layers = config_of(other, NAME)
    assert json.loads(config)["rootfs"] == json.loads(image().config)["rootfs"]
    if form == "docker-archive":
        assert layers == packed(image())


def test_podman_writes_several_images_and_we_read_them(
    tools: Tools, store: Store, other: Store
) -> None:
    keep(store, NAME, image())
    keep(store, SECOND, image(2))
    tools.podman("load", "-i", tools.archive(store, NAME, SECOND, form=Form.DOCKER))
    path = tools.root / "theirs.tar"
    tools.podman("save", "-m", "-o", path, str(NAME), str(SECOND))
    load(other, path)
    assert {name for name, _ in other.references()} == {str(NAME), str(SECOND)}


def test_we_read_what_containerd_exports(tools: Tools, store: Store, other: Store) -> None:
    keep(store, NAME, image())
    with containerd(tools) as ctr:
        ctr("images", "import", "--no-unpack", tools.archive(store, NAME, form=Form.OCI))
        path = tools.root / "theirs.tar"
        ctr("images", "export", path, str(NAME))
    load(other, path)
    assert other.references() == store.references()
