"""Archives that are damaged or malign: nothing of them gets a name, and every wait ends."""

from __future__ import annotations

import gzip
import json
import lzma
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support_archives import (
    COMPRESS,
    NAME,
    config_of,
    docker_old,
    docker_plain,
    link,
    load,
    oci,
    packed,
    sha,
    swapped,
    write_tar,
    zeros,
)
from support_store import QUICK, make_store, names
from test_service import HERE

from registry_service.archive import Form
from registry_service.cancel import Cancellation
from registry_service.errors import (
    ArchiveError,
    CancelledError,
    RegistryError,
)
from registry_service.observe import Observer
from registry_service.operations import archives
from registry_service.reference import Reference
from registry_service.store import MemorySource, Store
from registry_service.testing.images import (
    Image,
    random_image,
)

if sys.version_info >= (3, 14):
    pass
else:
    pass


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with make_store(tmp_path / "store", retry=QUICK) as made:
        yield made


# hostile archives


def config_named(image: Image, config: Any) -> dict[str, Any]:
    raw = config if isinstance(config, bytes) else json.dumps(config).encode()
    listed = {"Config": "c.json", "RepoTags": ["a:1"], "Layers": []}
    return {"manifest.json": json.dumps([listed]).encode(), "c.json": raw}


def listing(value: Any) -> dict[str, Any]:
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return {**docker_plain(random_image(1)), "manifest.json": raw}


def without(entries: dict[str, Any], *unwanted: str) -> dict[str, Any]:
    return {name: one for name, one in entries.items() if name not in unwanted}


IMAGE = random_image(1)
LAYER = f"{packed(IMAGE)[0]}.tar"
CONFIG = f"{sha(IMAGE.config)}.json"

HOSTILE: dict[str, tuple[dict[str, Any], str]] = {
    "nothing": ({}, "is no image archive"),
    "something else": ({"a.txt": b"hello"}, "is no image archive"),
    "before 1.10": ({"repositories": b"{}"}, "before 1.10"),
    "no JSON": (listing(b"{"), "is not JSON"),
    "deep JSON": (listing(b"[" * 100_000), "is not JSON"),
    "no list": (listing({}), "a list of 1 to 1000"),
    "empty list": (listing([]), "a list of 1 to 1000"),
    "many images": (listing([{"Config": "a"}] * 1001), "a list of 1 to 1000"),
    "no config": (listing([{}]), "an object with a Config"),
    "layers of numbers": (listing([{"Config": CONFIG, "Layers": [1]}]), "Layers: a list"),
    "many layers": (listing([{"Config": CONFIG, "Layers": ["a"] * 1001}]), "1001 layers"),
    "tags of numbers": (listing([{"Config": CONFIG, "RepoTags": [1]}]), "RepoTags: a list"),
    "only tags that are none": (
        docker_plain(IMAGE, ["A:b"]),
        "no name .only the label 'A:b'.; give one with 'as'",
    ),
    "tags with control characters": (docker_plain(IMAGE, ["a\x1b[2Jb:1"]), r"label 'a\\x1b"),
    "absent config": (listing([{"Config": "x.json"}]), "'x.json' is named"),
    "absent layer": (without(docker_plain(IMAGE), LAYER), f"'{LAYER}' is named"),
    "fewer layers": (listing([{"Config": CONFIG, "Layers": []}]), "3 diff ids"),
    "config out of the archive": (listing([{"Config": "/etc/passwd"}]), "'/etc/passwd' is named"),
    "config through a link": (
        {**listing([{"Config": "c"}]), "c": link("../../../etc/passwd")},
        "leads out",
    ),
    "layer through a link": (
        {**docker_plain(IMAGE), LAYER: link("/dev/zero")},
        "leads out",
    ),
    "wrong config": ({**docker_plain(IMAGE), CONFIG: b"{}"}, f"sha256:{CONFIG[:64]}"),
    "config is text": (config_named(IMAGE, b"hello"), "no rootfs"),
    "config is a list": (config_named(IMAGE, []), "no rootfs"),
    "config has odd ids": (config_named(IMAGE, {"rootfs": {"diff_ids": ["x"]}}), "diff_ids"),
    "config has numbers": (config_named(IMAGE, {"rootfs": {"diff_ids": 5}}), "no rootfs"),
    "large config": (config_named(IMAGE, bytes(4 * 2**20 + 1)), "4194304 are allowed"),
    "large manifest.json": (listing(bytes(8 * 2**20 + 1)), "8388608 are allowed"),
    "layers swapped": (swapped(docker_plain(IMAGE)), "digest"),
    "compressed layers swapped": (swapped(docker_plain(IMAGE, unpack=False)), "digest"),
    "another layer in xz": ({**docker_plain(IMAGE), LAYER: lzma.compress(b"x")}, "digest"),
    "xz layer cut off": (
        {**docker_plain(IMAGE), LAYER: lzma.compress(gzip.decompress(IMAGE.layers[0]))[:-9]},
        "cut off",
    ),
    "bzip2 layer damaged": ({**docker_plain(IMAGE), LAYER: b"BZh9" + bytes(50)}, "damaged"),
    "gzip layer cut off": ({**docker_plain(IMAGE), LAYER: IMAGE.layers[0][:-9]}, "cut off"),
    "no index": (without(oci([("a:1", IMAGE)]), "index.json"), "is no image archive"),
    "wrong layout": (
        {**oci([("a:1", IMAGE)]), "oci-layout": b'{"imageLayoutVersion":"2.0.0"}'},
        "version '2.0.0'",
    ),
    "no layout": ({**oci([("a:1", IMAGE)]), "oci-layout": b"[]"}, "version None"),
    "large layout": ({**oci([("a:1", IMAGE)]), "oci-layout": bytes(70_000)}, "are allowed"),
    "large index": ({**oci([("a:1", IMAGE)]), "index.json": bytes(2**23 + 1)}, "are allowed"),
    "index is text": ({**oci([("a:1", IMAGE)]), "index.json": b"hello"}, "not JSON"),
    "no images": (oci([]), "has no images"),
    "blobs swapped": (swapped(oci([("a:1", IMAGE)])), "digest|not complete"),
    "manifest damaged": (
        {**oci([("a:1", IMAGE)]), f"blobs/sha256/{IMAGE.digest[7:]}": IMAGE.manifest[:-1] + b" "},
        "the archive is damaged",
    ),
    "blob absent": (
        without(oci([("a:1", IMAGE)]), f"blobs/sha256/{sha(IMAGE.layers[0])}"),
        "is not complete",
    ),
    "manifest absent": (
        without(oci([("a:1", IMAGE)]), f"blobs/sha256/{IMAGE.digest[7:]}"),
        "is not complete",
    ),
    "one name for two": (oci([("a:1", IMAGE), ("a:1", random_image(2))]), "another image"),
    "another's digest": (
        oci([(f"a@{IMAGE.digest}", random_image(2))]),
        "is the name of another image",
    ),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_archive_leaves_nothing_under_a_name(
    tmp_path: Path, store: Store, what: str
) -> None:
    entries, words = HOSTILE[what]
    path = write_tar(tmp_path / "x.tar", entries)
    with pytest.raises(RegistryError, match=words) as caught:
        load(store, path)
    assert len(str(caught.value)) < 2000
    assert store.references() == []
    for place in (store.images / "blobs").glob("*/*"):
        assert sha(place.read_bytes()) == place.name
    assert [name for name in names(store.scratch) if not name.endswith(".partial")] == []


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_a_damaged_archive_never_gives_a_wrong_byte(data: st.DataObject) -> None:
    form = data.draw(st.sampled_from(["old", "plain", "oci"]))
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        image = random_image(1, layers=2, layer_size=100)
        entries = {
            "old": lambda: docker_old(image),
            "plain": lambda: docker_plain(image, unpack=False),
            "oci": lambda: oci([("app:1", image)]),
        }[form]()
        content = bytearray(write_tar(root / "x.tar", entries).read_bytes())
        for _ in range(data.draw(st.integers(1, 4))):
            content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
        (root / "x.tar").write_bytes(content)
        with make_store(root / "store") as store:
            try:
                load(store, root / "x.tar")
            except RegistryError:
                assert store.references() == []
            else:
                for found, _ in store.references():
                    config_of(store, Reference.parse(found))


@pytest.mark.parametrize("kind", sorted(COMPRESS))
def test_a_compressed_archive_that_is_cut_off_leaves_nothing(
    tmp_path: Path, store: Store, kind: str
) -> None:
    plain = write_tar(tmp_path / "x.tar", docker_plain(random_image(1)))
    packed = COMPRESS[kind](plain.read_bytes())
    plain.write_bytes(packed[: len(packed) - 20])
    with pytest.raises(ArchiveError, match=r"cut off|damaged"):
        load(store, plain)
    assert names(store.scratch) == []


# cancelling


def large_archive(path: Path, what: str) -> Path:
    packed = zeros(2**35)
    if what == "compressed":
        path.write_bytes(packed)
        return path
    ids = ["sha256:" + "0" * 64]
    config = json.dumps({"rootfs": {"type": "layers", "diff_ids": ids}}).encode()
    listed = [{"Config": "c.json", "RepoTags": ["a:1"], "Layers": ["l.tar"]}]
    return write_tar(
        path, {"manifest.json": json.dumps(listed).encode(), "c.json": config, "l.tar": packed}
    )


@pytest.mark.parametrize("what", ["compressed", "layer"])
def test_a_cancel_ends_a_load_within_a_second(tmp_path: Path, store: Store, what: str) -> None:
    path = large_archive(tmp_path / "x.tar", what)
    cancelled_within_a_second(
        lambda cancel, observer: archives.load(path, store=store, cancel=cancel, observer=observer)
    )
    assert names(store.scratch) == []
    assert store.references() == []


def test_a_cancel_ends_a_save_within_a_second(store: Store) -> None:
    packed = zeros(2**35)
    image = random_image(1, layers=1, platform=HERE)
    config = json.loads(image.config)
    config["rootfs"]["diff_ids"] = ["sha256:" + "0" * 64]
    raw = json.dumps(config).encode()
    document = json.loads(image.manifest)
    document["config"] |= {"digest": f"sha256:{sha(raw)}", "size": len(raw)}
    document["layers"][0] |= {"digest": f"sha256:{sha(packed)}", "size": len(packed)}
    manifest = json.dumps(document).encode()
    source = MemorySource()
    for blob in (raw, packed):
        store.ensure(source.add(blob), source).wait()
    store.tag(NAME, store.put(manifest, image.media_type))
    with store.lease() as lease:
        cancelled_within_a_second(
            lambda cancel, observer: archives.save(
                [NAME],
                form=Form.DOCKER,
                store=store,
                lease=lease,
                cancel=cancel,
                observer=observer,
            )
        )


def cancelled_within_a_second(run: Callable[[Cancellation, Observer], object]) -> None:
    """``run`` is cancelled when it has made some progress."""
    cancel, reached, ended = Cancellation(), threading.Event(), threading.Event()
    errors: list[BaseException] = []

    def work() -> None:
        try:
            run(cancel, Observer(progress=lambda *_: reached.set()))
        except BaseException as error:
            errors.append(error)
        ended.set()

    thread = threading.Thread(target=work)
    thread.start()
    assert reached.wait(20)
    cancel.cancel()
    assert ended.wait(1.0)
    thread.join()
    assert [type(error) for error in errors] == [CancelledError]
