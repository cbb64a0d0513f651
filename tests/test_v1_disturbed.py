"""Sessions of V1 while the servers fail at random: what ends well is right."""

from __future__ import annotations

import concurrent.futures
import contextlib
from collections.abc import Sequence

import pytest
from support_session_v1 import ANN, CHAIN, LAYERS, Hub, session

from registry_service import (
    AlreadyExistsError,
    ImgData,
    RegistryHTTPError,
    RegistrySettings,
    Session,
)
from registry_service.errors import ConnectionBrokenError
from registry_service.testing.v1 import V1Registry, images

PATIENT = RegistrySettings(retries=30, retry_wait_max=0.01, read_timeout=5)
FAULTS = (
    "drop:after=0,probability=0.15",
    "drop:after=20000,path=*/layer,probability=0.3",
    "status:code=503,probability=0.1",
    "status:code=500,probability=0.1",
    "lost-answer:probability=0.1",
)


def push_each(made: Session, repository: str, registry: str) -> None:
    """The chain, in the order of the protocol; what the registry has already is well."""
    listed = [ImgData(id=image.id) for image in CHAIN.images]
    token = made.push_image_json_index(repository, listed, False).tokens
    said = []
    for image in CHAIN.images:
        found = ImgData(id=image.id, checksum=image.tarsum, checksum_payload=image.checksum)
        said.append(found)
        try:
            made.push_image_json_registry(found, image.raw, registry, token)
            sums = made.push_image_layer_registry(image.id, image.layer, registry, token, image.raw)
            assert sums == (found.checksum, found.checksum_payload)
            made.push_image_checksum_registry(found, registry, token)
        except AlreadyExistsError:
            continue
    made.push_registry_tag(repository, CHAIN.id, "1.0", registry, token)
    made.push_image_json_index(repository, said, True, [registry])


def layer_of(made: Session, image_id: str, registry: str, token: Sequence[str], size: int) -> bytes:
    """A layer: five tries in a row without a byte can all fail, and then it is asked for anew."""
    for _ in range(20):
        with (
            contextlib.suppress(ConnectionBrokenError, RegistryHTTPError),
            made.get_remote_image_layer(image_id, registry, token, size) as layer,
        ):
            return layer.read()
    raise AssertionError("no luck")


@pytest.mark.parametrize("seed", range(6))
def test_what_is_pushed_and_pulled_through_failing_servers_is_right(seed: int) -> None:
    with Hub() as hub, session(hub.index.host, ANN, settings=PATIENT) as made:
        where = hub.registry.endpoint
        for number, fault in enumerate(FAULTS):
            hub.registry.add_fault(f"{fault},seed={seed * 10 + number}")
            if "layer" not in fault:
                hub.index.add_fault(f"{fault},seed={seed * 10 + number}")
        push_each(made, "ann/app", where)
        data = made.get_repository_data("ann/app")
        assert set(data.img_list) == set(CHAIN.ancestry)
        tags = made.get_remote_tags(data.endpoints, "ann/app", data.tokens)
        found = []
        for image_id in reversed(made.get_remote_history(tags["1.0"], where, data.tokens)):
            raw, size = made.get_remote_image_json(image_id, where, data.tokens)
            assert raw == next(one.raw for one in CHAIN.images if one.id == image_id)
            found.append(layer_of(made, image_id, where, data.tokens, size))
        assert found == LAYERS
        assert sum(len(one.faults) for one in hub.registry.requests) > 3
        for image in CHAIN.images:
            kept = hub.registry.image(image.id)
            assert kept is not None
            assert (kept.layer_bytes, kept.complete) == (image.layer, True)


def test_one_session_serves_many_threads() -> None:
    chains = [images.random_chain(seed=seed, length=2, file_size=30_000) for seed in range(8)]
    with V1Registry() as registry, session(registry.host) as made:
        for number, chain in enumerate(chains):
            images.push_chain(registry, f"test/app-{number}", "1.0", chain)

        def pull(number: int) -> list[bytes]:
            data = made.get_repository_data(f"test/app-{number}")
            where, token = data.endpoints[0], data.tokens
            tags = made.get_remote_tags(data.endpoints, f"test/app-{number}", token)
            found = []
            for image_id in made.get_remote_history(tags["1.0"], where, token):
                with made.get_remote_image_layer(image_id, where, token) as layer:
                    found.append(layer.read())
            return found

        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            for chain, found in zip(chains, pool.map(pull, range(8)), strict=True):
                assert found == [image.layer for image in reversed(chain.images)]
