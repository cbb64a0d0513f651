"""The session's V1 half, against the shipped V1 index and registries."""

from __future__ import annotations

import gzip
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme
from support_session_v1 import (
    ANN,
    BASE,
    CHAIN,
    FAST,
    LAYERS,
    MIDDLE,
    OTHER,
    TOP,
    Hub,
    pull,
    push,
    session,
)

from registry_service import (
    AlreadyExistsError,
    AuthConfig,
    DoesNotExistError,
    Endpoint,
    HTTPRequestFactory,
    ImgData,
    LoginRequiredError,
    Observer,
    RegistryHTTPError,
    RegistrySettings,
    Session,
    tarsum,
)
from registry_service.errors import (
    ConnectionBrokenError,
    UnreachableRegistryError,
)
from registry_service.headers import HTTPRequest
from registry_service.testing import TLSFiles
from registry_service.testing.v1 import V1Registry, images
from registry_service.transport import BodyError


@pytest.fixture
def registry() -> Iterator[V1Registry]:
    """A registry with one repository, which stands alone."""
    with V1Registry() as started:
        images.push_chain(started, "test/app", ["1.0", "latest"], CHAIN)
        yield started


@pytest.fixture
def at(registry: V1Registry) -> Iterator[Session]:
    with session(registry.host) as made:
        yield made


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub() as started:
        yield started


# whole ways


def test_what_is_pushed_to_a_registry_that_stands_alone_comes_back() -> None:
    with V1Registry() as registry, session(registry.host) as made:
        push(made, "test/app")
        assert pull(made, "test/app") == LAYERS
        assert registry.tags("test/app") == {"1.0": TOP.id}


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("one_use", [False, True])
def test_what_is_pushed_through_an_index_comes_back(one_use: bool, strict: bool) -> None:
    """With tokens that are good for one request it is the cookie that lets in."""
    with Hub(one_use=one_use, registry={"strict_access": strict}) as hub:
        where = hub.registry.endpoint
        with session(hub.index.host, ANN) as made:
            push(made, "ann/app", where)
        listed = hub.index.images("ann/app")
        assert listed is not None
        sums = {one["id"]: one["checksum"] for one in listed}
        assert sums == {image.id: image.tarsum for image in CHAIN.images}
        with session(hub.index.host) as made:
            data = made.get_repository_data("ann/app")
            assert data.endpoints == (hub.down, where)
            tags = made.get_remote_tags(data.endpoints, "ann/app", data.tokens)
            assert tags == {"1.0": TOP.id}
            if not one_use:
                assert pull(made, "ann/app", where) == LAYERS
            else:
                for image in CHAIN.images:
                    layer = made.get_remote_image_layer(image.id, where, data.tokens)
                    with layer:
                        assert layer.read() == image.layer
        schemes = {one.scheme.lower() for one in hub.registry.requests}
        assert schemes == {"token"}


def test_the_first_registry_is_down_and_the_second_says(hub: Hub) -> None:
    images.push_chain(hub.registry, "ann/app", "1.0", CHAIN)
    with session(hub.index.host, ANN) as made:
        data = made.get_repository_data("ann/app")
        tags = made.get_remote_tags(data.endpoints, "ann/app", data.tokens)
        assert tags == {"1.0": TOP.id}
        with pytest.raises(UnreachableRegistryError):
            made.get_remote_history(TOP.id, hub.down, data.tokens)
        with pytest.raises(UnreachableRegistryError, match="no connection"):
            made.get_remote_tags([hub.down], "ann/app", data.tokens)


def test_a_private_registry_over_https_gets_the_password_with_each_request(
    tmp_path: Path,
) -> None:
    authority = trustme.CA()
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(
        tmp_path / "server.pem"
    )
    files = TLSFiles(cert=tmp_path / "server.pem", key=tmp_path / "server.pem")
    with V1Registry(tls=files, users={"ann": "open sesame"}) as registry:
        folder = tmp_path / "certs" / registry.host
        folder.mkdir(parents=True)
        authority.cert_pem.write_to_path(folder / "ca.crt")
        settings = RegistrySettings(retries=0, certs_dirs=(tmp_path / "certs",))
        with session(registry.host, ANN, settings=settings) as made:
            push(made, "test/app")
            assert pull(made, "test/app") == LAYERS
        asked = [one for one in registry.requests if not one.path.endswith("_ping")]
        assert {one.scheme.lower() for one in asked} == {"basic"}
        for auth in (None, AuthConfig(username="ann", password="wrong one")):
            with (
                session(registry.host, auth, settings=settings) as made,
                pytest.raises(LoginRequiredError) as caught,
            ):
                made.get_remote_history(TOP.id, registry.endpoint, None)
            assert "wrong one" not in str(caught.value)


def test_over_http_a_password_stays_here() -> None:
    with V1Registry(users={"ann": "open sesame"}) as registry:
        with (
            session(registry.host, ANN) as made,
            pytest.raises(LoginRequiredError, match="do not travel over http"),
        ):
            made.push_image_json_registry(
                ImgData(id=BASE.id), BASE.raw, registry.endpoint, ["token"]
            )
        assert registry.requests[-1].scheme.lower() == "token"


def test_an_index_knows_its_users(hub: Hub) -> None:
    hub.index.add_images("ann/secret", [{"id": TOP.id}])
    hub.index.set_private("ann/secret")
    with session(hub.index.host, ANN) as made:
        assert set(made.get_repository_data("ann/secret").img_list) == {TOP.id}
    with (
        session(hub.index.host, AuthConfig(username="ann", password="guess")) as made,
        pytest.raises(LoginRequiredError, match="'ann' or its password"),
    ):
        made.get_repository_data("ann/secret")
    with session(hub.index.host) as made:
        with pytest.raises(LoginRequiredError, match="asks for a login"):
            made.get_repository_data("ann/secret")
        with pytest.raises(LoginRequiredError):
            made.push_image_json_index("ann/app", [], False)
        with pytest.raises(DoesNotExistError, match="ann/none"):
            made.get_repository_data("ann/none")


def test_a_token_that_has_run_out(hub: Hub) -> None:
    images.push_chain(hub.registry, "ann/app", "1.0", CHAIN)
    with session(hub.index.host, ANN) as made:
        data = made.get_repository_data("ann/app")
        hub.index.expire_tokens()
        for ask in (made.get_remote_history, made.lookup_remote_image):
            with pytest.raises(LoginRequiredError):
                ask(TOP.id, hub.registry.endpoint, data.tokens)


def test_layers_are_fetched_from_another_origin_without_credentials() -> None:
    factory = HTTPRequestFactory({"X-Meta": ["mine"]})
    with Hub(registry={"redirect_layers": True}) as hub:
        images.push_chain(hub.registry, "ann/app", "1.0", CHAIN)
        with session(hub.index.host, ANN, factory=factory) as made:
            assert pull(made, "ann/app", hub.registry.endpoint) == LAYERS
        origin = hub.registry.origin
        assert origin is not None and origin.requests
        for one in origin.requests:
            assert not one.scheme
            assert "x-meta" not in one.headers
        assert all(one.headers.get("x-meta") == "mine" for one in hub.registry.requests)


@pytest.mark.parametrize("ranges", ["exact", "original", "none"])
def test_a_layer_whose_connection_breaks(ranges: Any) -> None:
    with V1Registry(ranges=ranges) as registry, session(registry.host) as made:
        images.push_chain(registry, "test/app", "1.0", CHAIN)
        size = len(TOP.layer)
        registry.add_fault(f"drop:path=*/layer,after={size // 3},times=3")
        with made.get_remote_image_layer(TOP.id, registry.endpoint, None, size) as layer:
            if ranges == "none":
                with pytest.raises(ConnectionBrokenError):
                    layer.read()
            else:
                assert layer.read() == TOP.layer


def test_search_on_an_index_goes_by_who_asks(hub: Hub) -> None:
    hub.index.add_images("ann/application", [])
    hub.index.add_images("ann/app-secret", [])
    hub.index.describe("ann/application", description="words", star_count=3)
    hub.index.set_private("ann/app-secret")

    def added(request: HTTPRequest) -> HTTPRequest:
        return request.with_headers({"X-Added": "by a decorator"})

    factory = HTTPRequestFactory({"X-Meta": ["mine"]}, decorators=[added])
    with session(hub.index.host, ANN, factory=factory) as made:
        found = made.search_repositories("app")
        assert {one.name for one in found.results} == {"ann/application", "ann/app-secret"}
        assert len(made.search_repositories("app", limit=1).results) == 1
    with session(hub.index.host) as made:
        (one,) = made.search_repositories("app").results
    assert (one.name, one.description, one.star_count) == ("ann/application", "words", 3)
    asked = [one for one in hub.index.requests if one.path == "/v1/search"]
    assert all(one.headers["x-docker-token"] == "true" for one in asked)
    assert asked[0].query["q"] == ("app",)
    assert (asked[0].headers["x-meta"], asked[0].headers["x-added"]) == ("mine", "by a decorator")


def test_the_public_index_is_not_pinged() -> None:
    with Endpoint.discover("https://index.docker.io/v1/", settings=FAST) as endpoint:
        assert str(endpoint) == "https://index.docker.io/v1/"
        assert not endpoint.info.standalone


# method after method


def test_history(at: Session, registry: V1Registry) -> None:
    assert at.get_remote_history(TOP.id, registry.endpoint, None) == CHAIN.ancestry
    with pytest.raises(DoesNotExistError, match=OTHER):
        at.get_remote_history(OTHER, registry.endpoint, None)


def test_lookup(at: Session, registry: V1Registry) -> None:
    assert at.lookup_remote_image(TOP.id, registry.endpoint, None) is True
    assert at.lookup_remote_image(OTHER, registry.endpoint, "a token") is False
    half = images.random_chain(seed=10, length=1).images[0]
    registry.put_image(half.raw, half.layer, complete=False)
    with pytest.raises(RegistryHTTPError, match="being uploaded"):
        at.lookup_remote_image(half.id, registry.endpoint, None)


@pytest.mark.parametrize("listed", [False, True])
def test_json(listed: bool) -> None:
    with V1Registry(listed_checksums=listed) as registry, session(registry.host) as made:
        registry.put_image(BASE.raw, BASE.layer)
        registry.put_image(MIDDLE.raw, None)
        found = made.get_remote_image_json(BASE.id, registry.endpoint, None)
        assert found == (BASE.raw, len(BASE.layer))
        assert made.get_remote_image_json(MIDDLE.id, registry.endpoint, None) == (MIDDLE.raw, -1)
        with pytest.raises(DoesNotExistError):
            made.get_remote_image_json(OTHER, registry.endpoint, None)


def test_tags(at: Session, registry: V1Registry) -> None:
    found = at.get_remote_tags([registry.endpoint], "test/app", None)
    assert found == {"1.0": TOP.id, "latest": TOP.id}
    registry.put_tag("bare", "1", BASE.id)
    assert at.get_remote_tags([registry.endpoint], "bare", None) == {"1": BASE.id}
    with pytest.raises(DoesNotExistError, match=f"repository not found: {registry.host}/test/none"):
        at.get_remote_tags([registry.endpoint], "test/none", None)


def test_a_layer_that_is_iterated_or_bytes() -> None:
    plain = BASE.archive
    for given in (plain, io.BytesIO(plain), iter([plain[:700], plain[700:]]), BASE.layer):
        with V1Registry() as registry, session(registry.host) as made:
            made.push_image_json_registry(ImgData(id=BASE.id), BASE.raw, registry.endpoint, None)
            checksum, payload = made.push_image_layer_registry(
                BASE.id, given, registry.endpoint, None, BASE.raw
            )
            assert checksum == tarsum(plain, json=BASE.raw)
            kept = registry.image(BASE.id)
            assert kept is not None and kept.layer_bytes is not None
            assert gzip.decompress(kept.layer_bytes) == plain
            made.push_image_checksum_registry(
                ImgData(id=BASE.id, checksum=checksum, checksum_payload=payload),
                registry.endpoint,
                None,
            )
            if isinstance(given, io.BytesIO):
                assert not given.closed


def test_a_file_is_sent_from_where_it_stands_and_again() -> None:
    file = io.BytesIO(b"before" + BASE.layer)
    file.seek(6)
    with V1Registry(faults=["drop:path=*/layer,times=2"]) as registry:
        with session(registry.host) as made:
            made.push_image_json_registry(ImgData(id=BASE.id), BASE.raw, registry.endpoint, None)
            made.push_image_layer_registry(BASE.id, file, registry.endpoint, None, BASE.raw)
        kept = registry.image(BASE.id)
    assert kept is not None and kept.layer_bytes == BASE.layer


def test_what_is_iterated_is_sent_once(at: Session, registry: V1Registry) -> None:
    new = images.random_chain(seed=11, length=1).images[0]
    at.push_image_json_registry(ImgData(id=new.id), new.raw, registry.endpoint, None)
    registry.add_fault("drop:path=*/layer,times=1")
    with pytest.raises(ConnectionBrokenError):
        at.push_image_layer_registry(new.id, iter([new.layer]), registry.endpoint, None, new.raw)
    registry.clear_faults()
    registry.add_fault(f"redirect:to={registry.url}/elsewhere,code=307,path=*/layer,times=1")
    with pytest.raises(BodyError, match="only once"):
        at.push_image_layer_registry(new.id, iter([new.layer]), registry.endpoint, None, new.raw)


def test_an_image_that_exists(at: Session, registry: V1Registry) -> None:
    image = ImgData(id=TOP.id, checksum=TOP.tarsum, checksum_payload=TOP.checksum)
    calls: list[Callable[[], object]] = [
        lambda: at.push_image_json_registry(image, TOP.raw, registry.endpoint, None),
        lambda: at.push_image_layer_registry(TOP.id, TOP.layer, registry.endpoint, None, TOP.raw),
        lambda: at.push_image_checksum_registry(image, registry.endpoint, None),
    ]
    for call in calls:
        with pytest.raises(AlreadyExistsError):
            call()


def test_sessions_show_no_secret_and_end_together(registry: V1Registry) -> None:
    told: list[str] = []

    def log(level: str, text: str, /, **fields: Any) -> None:
        told.append(text)

    registry.add_fault("status:code=500,path=*/ancestry,times=1")
    factory = HTTPRequestFactory({"X-Meta": ["my secret"]})
    with session(registry.host, ANN, factory=factory, observer=Observer(log=log)) as made:
        made.get_remote_history(TOP.id, registry.endpoint, ["token secret"])
        assert "secret" not in repr(made)
    assert told and not any("secret" in text for text in told)
