"""The endpoints of a repository at the registry: its tags, and its end."""

from __future__ import annotations

import dataclasses
import re
import time
from typing import Any, Final

from ..exchange import Exchange
from ..message import Request, Response
from .message import V1Error, answer, read_json
from .names import is_image_id, is_tag
from .storage import V1Storage

__all__ = ["TagEndpoints"]

_AGENT: Final = re.compile(r"([^\s/]+)/([^\s/]+)")
_UNKNOWN: Final = {
    "arch": "amd64",
    "docker_go_version": None,
    "docker_version": None,
    "kernel": None,
    "last_update": None,
    "os": "linux",
}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TagEndpoints:
    """Tags, asked for, put and taken away; what is known of a repository beside them."""

    storage: V1Storage

    def respond(self, exchange: Exchange, repository: str, tag: str | None) -> Response:
        """Answer at ``tags`` or ``tags/TAG``. The client has been let in."""
        method = exchange.request.method
        if method in ("GET", "HEAD"):
            return self._tags(repository) if tag is None else self._tag(repository, tag)
        if method == "DELETE":
            return self.delete(repository) if tag is None else self._delete(repository, tag)
        if method == "PUT" and tag is not None:
            return self._put(exchange, repository, tag)
        raise V1Error("Method not allowed", 405)

    def delete(self, repository: str) -> Response:
        """Take a repository away."""
        if not self.storage.delete_repository(repository):
            raise V1Error("Repository not found", 404)
        return answer()

    def describe(self, exchange: Exchange, repository: str, tag: str | None) -> Response:
        """Answer at ``json`` and ``tags/TAG/json``: by what the tag was put, and when."""
        _read_only(exchange.request)
        return answer(self.storage.properties(repository, tag) or _UNKNOWN)

    def access(self, exchange: Exchange, repository: str) -> Response:
        """Answer at ``properties``: whether the repository is private."""
        if exchange.request.method == "PUT":
            _, data = read_json(exchange)
            if not isinstance(data, dict) or data.get("access") not in ("private", "public"):
                raise V1Error("Invalid data")
            self.storage.set_private(repository, data["access"] == "private")
            return answer()
        _read_only(exchange.request)
        return answer({"access": "private" if self.storage.is_private(repository) else "public"})

    def _tags(self, repository: str) -> Response:
        if not self.storage.has_repository(repository):
            raise V1Error("Repository not found", 404)
        return answer(self.storage.tags(repository))

    def _tag(self, repository: str, tag: str) -> Response:
        image_id = self.storage.tag(repository, tag) if is_tag(tag) else None
        if image_id is None:
            raise V1Error("Tag not found", 404)
        return answer(image_id)

    def _delete(self, repository: str, tag: str) -> Response:
        if not is_tag(tag) or not self.storage.delete_tag(repository, tag):
            raise V1Error(f"Tag not found: {tag}", 404)
        return answer()

    def _put(self, exchange: Exchange, repository: str, tag: str) -> Response:
        if not is_tag(tag):
            raise V1Error(r"Invalid tag name (must match ^[\w][\w.-]{0,127}$)")
        _, data = read_json(exchange)
        if not data or not isinstance(data, str):
            raise V1Error("Invalid data")
        if not is_image_id(data) or self.storage.raw(data) is None:
            raise V1Error("Image not found", 404)
        self.storage.put_tag(repository, tag, data, _properties(exchange.request))
        return answer()


def _properties(request: Request) -> dict[str, Any]:
    """What the client says of itself in its User-Agent."""
    agent = dict(_AGENT.findall(request.headers.get("user-agent", "")))
    found: dict[str, Any] = {"last_update": int(time.time())}
    for key, name in (("docker_version", "docker"), ("docker_go_version", "go")):
        if name in agent:
            found[key] = agent[name]
    found.update({key: agent[key].lower() for key in ("arch", "kernel", "os") if key in agent})
    return found


def _read_only(request: Request) -> None:
    if request.method not in ("GET", "HEAD"):
        raise V1Error("Method not allowed", 405)
