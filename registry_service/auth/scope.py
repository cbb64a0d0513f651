"""Scopes: what a token is asked for (``repository:test/app:pull,push``)."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["CATALOG", "merge", "repository"]

CATALOG = "registry:catalog:*"


def repository(name: str, *actions: str) -> str:
    """The scope for ``actions`` (``pull``, ``push``) on a repository."""
    return f"repository:{name}:{','.join(actions)}"


def merge(*groups: Iterable[str]) -> tuple[str, ...]:
    """All scopes of the groups, in order, with the actions on one resource put together.

    Order counts: some token servers read only the first scope. What is no scope is kept as
    it is.

    >>> merge(["repository:a:pull"], ["repository:b:pull", "repository:a:push,pull"])
    ('repository:a:pull,push', 'repository:b:pull')
    """
    found: dict[str, list[str]] = {}
    for scope in (scope for group in groups for scope in group):
        resource, colon, actions = scope.rpartition(":")
        if not colon:
            resource, actions = scope, ""
        known = found.setdefault(resource, [])
        known += [action for action in actions.split(",") if action and action not in known]
    return tuple(
        f"{resource}:{','.join(actions)}" if actions else resource
        for resource, actions in found.items()
    )
