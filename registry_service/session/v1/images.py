"""Images of a registry and their tags; their layers apart."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import urlsplit

from ...errors import (
    DoesNotExistError,
    LoginRequiredError,
    RegistryError,
    UnreachableRegistryError,
)
from ...transport import Response
from ...v1.image import JSON_LIMIT
from ..answers import absent
from .answers import (
    LIST_LIMIT,
    ImageJSON,
    read_ancestry,
    read_image,
    read_tags,
)
from .names import image_url, on_the_wire, repository_url
from .sender import Sender

__all__ = ["Images"]


class Images:
    """The images of the registries of one client; thread-safe."""

    def __init__(self, sender: Sender) -> None:
        self._sender = sender

    def ancestry(self, image_id: str, registry: str, token: Sequence[str]) -> list[str]:
        url = image_url(registry, image_id, "ancestry")
        with self._get(url, token, f"image {image_id}") as response:
            return read_ancestry(response, image_id)

    def exists(self, image_id: str, registry: str, token: Sequence[str]) -> bool:
        try:
            self.json(image_id, registry, token)  # a portal says 200 to everything
        except DoesNotExistError:
            return False
        return True

    def json(self, image_id: str, registry: str, token: Sequence[str]) -> ImageJSON:
        url = image_url(registry, image_id, "json")
        with self._get(url, token, f"image {image_id}") as response:
            return read_image(response, image_id)

    def tags(
        self,
        registries: Sequence[str],
        repository: str,
        token: Sequence[str],
        broken: dict[str, str] | None = None,
    ) -> dict[str, str]:
        """The tags, as `read_tags` gives them, from the first registry that says. Raises
        `DoesNotExistError` where that one has no such repository, and what went wrong with each
        where none says."""
        name = on_the_wire(repository)
        failures: list[tuple[str, RegistryError]] = []
        for number, registry in enumerate(registries, 1):
            url = repository_url(registry, repository, "tags")
            what = f"repository not found: {urlsplit(registry).netloc}/{name}"
            # What does not answer at once has a next one in its place.
            retries = 0 if number < len(registries) else None
            try:
                with self._get(url, token, what, LIST_LIMIT, retries) as response:
                    return read_tags(response, broken)
            except DoesNotExistError:
                raise
            except RegistryError as error:
                self._sender.cancel.check()
                failures.append((registry, error))
                self._sender.observer.log("debug", f"{registry}: {error}")
        raise _all_failed(name, failures)

    def _get(
        self,
        url: str,
        token: Sequence[str],
        what: str,
        limit: int = JSON_LIMIT,
        retries: int | None = None,
    ) -> Response:
        """An answer of status 200, read. Raises `DoesNotExistError` for 404."""
        response = self._sender.send(
            "GET",
            url,
            token=token,
            headers={"Accept": "application/json"},
            retries=retries,
            whole=limit,
        )
        if response.status == 404:
            raise absent(response, what)
        if response.status != 200:
            raise response.error()
        return response


def _all_failed(name: str, failures: Sequence[tuple[str, RegistryError]]) -> RegistryError:
    """One error for those of all registries, which it names."""
    if len(failures) == 1:
        return failures[0][1]
    tried = [f"{registry}: {error}" for registry, error in failures]
    text = f"no registry has the tags of {name}: {'; '.join(tried) or 'the index names none'}"
    refused = [error for _, error in failures if isinstance(error, LoginRequiredError)]
    if refused and len(refused) == len(failures):
        return LoginRequiredError(text, host=refused[0].host, username=refused[0].username)
    failure = UnreachableRegistryError(text, tried=tried)
    failure.retryable = any(error.retryable for _, error in failures)
    return failure
