"""Pulls from V1 that are disturbed: by the registry, by who gives up, by others who pull too.

Whatever happens, the image arrives or an error says why, and the same pull completes after.
"""

from __future__ import annotations

import concurrent.futures
import hashlib
import http.server
import json
import random
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support_disturbed import few
from support_store import eventually, make_store
from support_v1_pull import Caller, check_image, layer_requests, small_chain

from registry_service.descriptor import Descriptor
from registry_service.errors import CancelledError, RegistryError
from registry_service.observe import Settled
from registry_service.store import RetryPolicy
from registry_service.testing.v1 import Account, V1Index, V1Registry, images
from registry_service.testing.v1.images import Chain

PATIENCE = 30.0
IMPATIENT: dict[str, Any] = {"read_timeout": 0.4}
PATHS = {
    "images": "*/repositories/*/images",
    "tags": "*/repositories/*/tags",
    "json": "*/images/*/json",
    "ancestry": "*/images/*/ancestry",
    "layer": "*/images/*/layer",
}


@pytest.fixture
def registry() -> Iterator[V1Registry]:
    with V1Registry() as made:
        yield made


@pytest.fixture
def caller(tmp_path: Path) -> Iterator[Caller]:
    with make_store(tmp_path / "store") as store, Caller(store, **IMPATIENT) as made:
        yield made


PASSING = [
    "drop:after=0",
    "drop:after=40",
    "drop:after=40,reset=yes",
    "stall:seconds=20,after=40",
    "lost-answer",
    "status:code=500",
    "status:code=503",
    "status:code=429,retry-after=0",
]
OF_LAYERS = [
    "corrupt:offset=20",
    "corrupt:offset=200",
    "short:after=200",
    "no-range",
    "wrong-range",
]


@pytest.mark.parametrize("spec", PASSING)
@pytest.mark.parametrize("path", PATHS)
def test_a_fault_that_passes_is_got_over(
    caller: Caller, registry: V1Registry, path: str, spec: str
) -> None:
    chain = small_chain()
    images.push_chain(registry, "test/app", "1", chain)
    name = f"{registry.host}/test/app:1"
    switch = registry.add_fault(f"{spec}{',' if ':' in spec else ':'}path={PATHS[path]},times=1")
    check_image(caller.store, caller.pull(name), chain)
    assert switch.hits == 1


@pytest.mark.parametrize("spec", OF_LAYERS)
def test_a_layer_that_is_spoiled_is_fetched_again(
    caller: Caller, registry: V1Registry, spec: str
) -> None:
    chain = small_chain(file_size=20_000)
    images.push_chain(registry, "test/app", "1", chain)
    name = f"{registry.host}/test/app:1"
    if spec.endswith("range"):
        registry.add_fault("drop:after=3000,path=*/layer,times=3")
    switch = registry.add_fault(f"{spec}{',' if ':' in spec else ':'}path=*/layer,times=1")
    check_image(caller.store, caller.pull(name), chain)
    assert switch.hits


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("drop:after=0", "connection"),
        ("status:code=503", "503"),
        ("status:code=404", "does not exist"),
        ("status:code=401", "login|credentials|401"),
        ("stall:seconds=20,after=0", "silent"),
    ],
)
def test_a_fault_that_stays_is_said_and_no_harm_is_done(
    caller: Caller, registry: V1Registry, path: str, spec: str, words: str
) -> None:
    chain = small_chain(length=2)
    images.push_chain(registry, "test/app", "1", chain)
    name = f"{registry.host}/test/app:1"
    if (path, spec) == ("images", "status:code=404"):
        registry.add_fault(f"{spec},path={PATHS['tags']}")  # else it is taken for a static mirror
    switch = registry.add_fault(f"{spec},path={PATHS[path]}")
    with pytest.raises(RegistryError, match=rf"(?i){words}") as caught:
        caller.pull(name)
    text = str(caught.value)
    assert any(word in text for word in (registry.host, "test/app", *chain.ancestry))
    assert caller.store.references() == []
    switch.remove()
    registry.clear_faults()
    check_image(caller.store, caller.pull(name), chain)


FAULTS = st.lists(
    st.builds(
        lambda path, spec, times, skip: (
            f"{spec}{',' if ':' in spec else ':'}path={path},times={times},skip={skip}"
        ),
        st.sampled_from(sorted(PATHS.values())),
        st.one_of(
            st.builds("drop:after={}".format, st.integers(0, 9000)),
            st.builds("drop:after={},reset=yes".format, st.integers(0, 9000)),
            st.builds("short:after={}".format, st.integers(0, 9000)),
            st.sampled_from(["lost-answer", "status:code=500", "status:code=404"]),
            st.sampled_from(["no-range", "wrong-range"]),
        ),
        st.integers(1, 4),
        st.integers(0, 3),
    )
    | st.builds("corrupt:offset={},path=*/layer,times={}".format, st.integers(0, 5000), st.just(2)),
    max_size=6,
)


def pull_under_faults(
    place: Path, seed: int, ranges: Any, gzipped: bool, says: bool, faults: list[str]
) -> None:
    chain = small_chain(seed, length=4, file_size=5000, gzipped=gzipped)
    with (
        V1Registry(ranges=ranges) as registry,
        make_store(place) as store,
        Caller(store, **IMPATIENT) as caller,
    ):
        for one in chain.images:
            registry.put_image(one.raw, one.layer, checksums=None if says else [])
        registry.put_tag("test/app", "1", chain.id)
        for spec in faults:
            # Of what nobody says anything, nobody can tell that it was spoiled.
            if says or not spec.startswith("corrupt"):
                registry.add_fault(spec)
        name = f"{registry.host}/test/app:1"
        try:
            named = caller.pull(name)
        except RegistryError as error:
            assert str(error)
            assert store.references() == []
        else:
            check_image(store, named, chain)
        registry.clear_faults()
        check_image(store, caller.pull(name), chain)
        assert not list(store.scratch.glob("*.partial"))
        assert not list(store.scratch.glob("*.lease"))


@few(25)
@given(
    seed=st.integers(0, 3),
    ranges=st.sampled_from(["exact", "original", "none"]),
    gzipped=st.booleans(),
    says=st.booleans(),
    faults=FAULTS,
)
def test_whatever_happens_a_pull_is_right_or_says_why(
    tmp_path_factory: pytest.TempPathFactory,
    seed: int,
    ranges: str,
    gzipped: bool,
    says: bool,
    faults: list[str],
) -> None:
    pull_under_faults(tmp_path_factory.mktemp("pull"), seed, ranges, gzipped, says, faults)


@pytest.mark.soak
@few(600)
@given(
    seed=st.integers(0, 3),
    ranges=st.sampled_from(["exact", "original", "none"]),
    gzipped=st.booleans(),
    says=st.booleans(),
    faults=FAULTS,
)
def test_of_hundreds_of_pulls_each_is_right_or_says_why(
    tmp_path_factory: pytest.TempPathFactory,
    seed: int,
    ranges: str,
    gzipped: bool,
    says: bool,
    faults: list[str],
) -> None:
    pull_under_faults(tmp_path_factory.mktemp("pull"), seed, ranges, gzipped, says, faults)


def test_a_registry_that_asks_for_a_pause_is_left_alone_for_so_long(
    caller: Caller, registry: V1Registry
) -> None:
    chain = small_chain(length=2)
    images.push_chain(registry, "test/app", "1", chain)
    registry.add_fault("status:code=429,retry-after=1,path=*/layer,times=1")
    with make_store(caller.store.images.parent / "other", retry=RetryPolicy(first=0.0)) as store:
        caller.store = store
        check_image(store, caller.pull(f"{registry.host}/test/app:1"), chain)
    assert any("tried again in 1.0 s" in text for text in caller.log)


# a long chain


@pytest.mark.parametrize("ranges", ["exact", "original"])
def test_a_chain_of_120_layers_is_interrupted_and_completed_and_no_byte_comes_twice(
    tmp_path: Path, ranges: Any
) -> None:
    dice = random.Random(ranges)
    chain = small_chain(5, length=120, files=2, file_size=6000)
    with V1Registry(ranges=ranges) as registry:
        images.push_chain(registry, "test/app", "1", chain)
        name = f"{registry.host}/test/app:1"
        registry.add_fault("drop:after=700,path=*/layer,probability=0.2,seed=1")
        registry.add_fault("drop:after=2500,path=*/layer,probability=0.2,seed=2")
        interrupted = 0
        while True:
            had = on_disk(tmp_path / "store", chain)
            registry.clear_requests()
            with (
                # It goes on where something came: so often nothing else stops it.
                make_store(tmp_path / "store", retry=RetryPolicy(first=0.0, most=0.0)) as store,
                Caller(store) as caller,
            ):
                stop_after(caller, dice.randrange(5, 60))
                try:
                    named = caller.pull(name)
                except CancelledError:
                    interrupted += 1
                else:
                    check_image(store, named, chain)
                    break
                finally:
                    assert store.close(PATIENCE)
            check_begins(registry, chain, had)
            assert interrupted < 200
        check_begins(registry, chain, had)
        assert interrupted >= 2


def stop_after(caller: Caller, count: int) -> None:
    """Cancel when so many layers have come."""

    def settled(row: Settled) -> None:
        if caller.states.count("fetched") >= count:
            caller.cancel.cancel()

    caller.on_row = settled


class Pulling(threading.Thread):
    """A pull in a thread of its own."""

    def __init__(self, caller: Caller, name: str) -> None:
        super().__init__(daemon=True)
        self._caller = caller
        self._name = name
        self._end: concurrent.futures.Future[Descriptor] = concurrent.futures.Future()

    def run(self) -> None:
        try:
            self._end.set_result(self._caller.pull(self._name))
        except Exception as error:
            self._end.set_exception(error)

    def result(self) -> Descriptor:
        return self._end.result(PATIENCE)


def on_disk(place: Path, chain: Chain) -> dict[str, int]:
    """The bytes of each layer that are on the disk, whole or in part. What is there is right."""
    found: dict[str, int] = {}
    for one in chain.images:
        blob = place / "images" / "blobs" / "sha256"
        whole = blob / digest_of(one.layer)
        if whole.exists():
            assert whole.read_bytes() == one.layer
            found[one.id] = len(one.layer)
        for path in (place / "ingest").glob(f"layer-{one.id[:12]}-*.partial"):
            part = path.read_bytes()
            assert one.layer.startswith(part)
            found[one.id] = len(part)
    return found


def digest_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def check_begins(registry: V1Registry, chain: Chain, had: dict[str, int]) -> None:
    """Each layer is asked for from the place up to which it was there, and not at all where it was
    there whole."""
    registry.wait_for(lambda log: all(one.done for one in log))
    place = dict(had)
    sizes = {one.id: len(one.layer) for one in chain.images}
    for one in layer_requests(registry):
        image_id = one.path.split("/")[-2]
        start = re.match(r"bytes=(\d+)-", one.range)
        begin = int(start[1]) if start else 0
        assert begin < sizes[image_id]
        # The original gives no single byte: the last one comes with the one before.
        early = begin == sizes[image_id] - 2
        assert begin == place.get(image_id, 0) or (early and place[image_id] == begin + 1), str(one)
        place[image_id] = begin + one.sent


# at once


def test_twenty_callers_in_four_processes_fetch_each_layer_once(
    tmp_path: Path, registry: V1Registry
) -> None:
    chain = small_chain(length=5, file_size=100_000)
    images.push_chain(registry, "test/app", "1", chain)
    registry.add_fault("slow:rate=400000,path=*/layer")
    stores = [make_store(tmp_path / "store") for _ in range(4)]  # each knows nothing of the others
    callers = [Caller(stores[number % 4]) for number in range(20)]
    try:
        with concurrent.futures.ThreadPoolExecutor(20) as pool:
            name = f"{registry.host}/test/app:1"
            named = list(pool.map(lambda one: one.pull(name), callers))
    finally:
        for one in callers:
            one.registries.close()
        for store in stores:
            store.close()
    assert len({one.digest for one in named}) == 1
    check_image(stores[0], named[0], chain)
    asked = [one.path for one in layer_requests(registry)]
    assert sorted(asked) == sorted(f"/v1/images/{one.id}/layer" for one in chain.images)


def test_who_waits_can_give_up_and_the_others_go_on(tmp_path: Path, registry: V1Registry) -> None:
    chain = small_chain(length=1, file_size=100_000)
    images.push_chain(registry, "test/app", "1", chain)
    hold = registry.hold(path="*/layer", after=20_000)
    name = f"{registry.host}/test/app:1"
    with make_store(tmp_path) as store, Caller(store) as first, Caller(store) as second, hold:
        one, other = Pulling(first, name), Pulling(second, name)
        one.start()
        assert hold.entered.wait(PATIENCE)
        other.start()
        eventually(lambda: any("another one is bringing it" in text for text in second.log))
        second.cancel.cancel()
        with pytest.raises(CancelledError):
            other.result()
        assert one.is_alive()
        hold.release()
        check_image(store, one.result(), chain)
    assert len(layer_requests(registry)) == 1


def test_where_the_one_who_brings_it_gives_up_the_next_goes_on(
    tmp_path: Path, registry: V1Registry
) -> None:
    chain = small_chain(length=1, file_size=1_000_000)
    images.push_chain(registry, "test/app", "1", chain)
    hold = registry.hold(path="*/layer", after=700_000, times=1)
    name = f"{registry.host}/test/app:1"
    with make_store(tmp_path) as store, Caller(store) as first, Caller(store) as second, hold:
        one, other = Pulling(first, name), Pulling(second, name)
        one.start()
        assert hold.entered.wait(PATIENCE)
        eventually(lambda: sum(on_disk(tmp_path, chain).values()) > 500_000)
        other.start()
        eventually(lambda: any("another one is bringing it" in text for text in second.log))
        first.cancel.cancel()
        with pytest.raises(CancelledError):
            one.result()
        check_image(store, other.result(), chain)
    ranges = [one.range.partition("-")[0] for one in layer_requests(registry)]
    assert ranges == ["", "bytes=700000"]


def test_gc_beside_pulls_takes_nothing_that_is_wanted(tmp_path: Path, registry: V1Registry) -> None:
    chains = [small_chain(seed, length=6) for seed in range(4)]
    for number, chain in enumerate(chains):
        images.push_chain(registry, f"test/app{number}", "1", chain)
    done = threading.Event()
    with make_store(tmp_path) as store:

        def sweep() -> None:
            while not done.is_set():
                for name, _ in store.references():
                    store.untag(name)
                list(store.upkeep.collect())

        def pulls(number: int) -> None:
            with Caller(store) as caller:
                for _ in range(6):
                    caller.pull(f"{registry.host}/test/app{number}:1")

        with concurrent.futures.ThreadPoolExecutor(5) as pool:
            sweeper = pool.submit(sweep)
            try:
                for one in [pool.submit(pulls, number) for number in range(4)]:
                    one.result(120)
            finally:
                done.set()
            sweeper.result(PATIENCE)
        with Caller(store) as caller:
            for number, chain in enumerate(chains):
                named = caller.pull(f"{registry.host}/test/app{number}:1")
                check_image(store, named, chain)


# with an index


def test_who_may_not_have_it_gets_nothing_out_of_the_store(tmp_path: Path) -> None:
    chain = small_chain()
    people = [Account(name=name, password="secret") for name in ("anna", "bert")]
    with (
        V1Registry(role="registry", strict_access=True) as registry,
        V1Index(registries=[registry], accounts=people) as index,
        make_store(tmp_path) as store,
        Caller(store, "anna", "secret") as anna,
        Caller(store, "bert", "secret") as bert,
        Caller(store) as nobody,
    ):
        images.push_chain(registry, "anna/app", "1", chain)
        index.set_private("anna/app")
        for one in (bert, nobody):
            with pytest.raises(RegistryError):
                one.pull(f"{index.host}/anna/app:1")
        check_image(store, anna.pull(f"{index.host}/anna/app:1"), chain)
        registry.clear_requests()
        for one in (bert, nobody):
            with pytest.raises(RegistryError):
                one.pull(f"{index.host}/anna/app:1")
            assert one.rows == []
        # A tag of his own that stands for another one's image does not help.
        registry.put_tag("bert/app", "1", chain.id)
        index.set_private("bert/app")
        assert layer_requests(registry) == []
        # What is in both their repositories comes once, and each is told so by the registry.
        check_image(store, bert.pull(f"{index.host}/bert/app:1"), chain)
        assert layer_requests(registry) == []


@pytest.mark.parametrize("missing", [True, False])
def test_the_registries_of_an_index_are_asked_in_turn(tmp_path: Path, missing: bool) -> None:
    chain = small_chain(length=4)
    with (
        V1Registry(role="registry") as first,
        V1Registry(role="registry") as second,
        V1Index(registries=[first, second], accounts={"anna": "secret"}) as index,
        make_store(tmp_path) as store,
        Caller(store) as caller,
    ):
        images.push_chain(first, "anna/app", "1", chain)
        images.push_chain(second, "anna/app", "1", chain)
        if missing:
            first.delete_image(chain.images[1].id)
        else:
            first.add_fault("status:code=500,path=*/layer")
        check_image(store, caller.pull(f"{index.host}/anna/app:1"), chain)
        assert bool(layer_requests(first)) is not missing
        assert {one.path.split("/")[-2] for one in layer_requests(second)} == set(chain.ancestry)


def test_a_layer_that_breaks_off_or_is_wrong_at_one_registry_comes_from_the_next(
    tmp_path: Path,
) -> None:
    chain = small_chain(length=4, file_size=20_000)
    with (
        V1Registry(role="registry") as first,
        V1Registry(role="registry") as second,
        V1Index(registries=[first, second], accounts={"anna": "secret"}) as index,
        make_store(tmp_path) as store,
        Caller(store) as caller,
    ):
        images.push_chain(first, "anna/app", "1", chain)
        images.push_chain(second, "anna/app", "1", chain)
        wrong, broken = chain.images[1], chain.images[2]
        first.put_layer(wrong.id, wrong.layer[:-9] + bytes(9))
        first.add_fault(f"drop:after=3000,path=*/{broken.id}/layer")
        check_image(store, caller.pull(f"{index.host}/anna/app:1"), chain)
        assert {one.path.split("/")[-2] for one in layer_requests(second)} >= {wrong.id, broken.id}
        [one] = layer_requests(second, broken.id)
        assert one.range.startswith("bytes=3000-")
        assert len(layer_requests(first, wrong.id)) == 1


# files behind a web server


class _Files(http.server.SimpleHTTPRequestHandler):
    def end_headers(self) -> None:
        self.send_header("X-Docker-Registry-Version", "0.6.0")
        super().end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""


def test_a_directory_of_files_behind_a_web_server_is_a_registry(tmp_path: Path) -> None:
    chain = small_chain()
    root = tmp_path / "files"
    tags = root / "v1" / "repositories" / "test" / "app"
    tags.mkdir(parents=True)
    (root / "v1" / "_ping").write_text("true")
    (tags / "tags").write_text(json.dumps({"1": chain.id}))
    for place, one in enumerate(chain.images):
        image = root / "v1" / "images" / one.id
        image.mkdir(parents=True)
        (image / "json").write_bytes(one.raw)
        (image / "layer").write_bytes(one.layer)
        ids = [each.id for each in reversed(chain.images[: place + 1])]
        (image / "ancestry").write_text(json.dumps(ids))

    def handler(*args: Any) -> _Files:
        return _Files(*args, directory=str(root))

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        host = f"127.0.0.1:{server.server_address[1]}"
        try:
            with make_store(tmp_path / "store") as store, Caller(store) as caller:
                check_image(store, caller.pull(f"{host}/test/app:1"), chain)
                with pytest.raises(RegistryError, match=f"{host}/test/other does not exist"):
                    caller.pull(f"{host}/test/other:1")
        finally:
            server.shutdown()
            thread.join()
