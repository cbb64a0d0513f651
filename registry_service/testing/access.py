"""Who may do what: scopes, grants, and the policy that decides. Values and pure functions."""

from __future__ import annotations

import dataclasses
import fnmatch
from collections.abc import Iterable, Mapping
from typing import Final

__all__ = ["ACTIONS", "ANONYMOUS", "AccessPolicy", "Grant", "Scope"]

ACTIONS: Final[frozenset[str]] = frozenset({"pull", "push", "delete"})
ANONYMOUS: Final = ""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """Actions on one thing: ``repository:NAME:pull,push`` or ``registry:catalog:*``."""

    type: str
    name: str
    actions: frozenset[str]

    @classmethod
    def parse(cls, text: str) -> Scope:
        """Read ``TYPE:NAME:ACTIONS``; the name may have colons. Raises ValueError."""
        kind, _, rest = text.partition(":")
        name, colon, actions = rest.rpartition(":")
        if not (kind and name and colon):
            raise ValueError(f"scope {text!r} is not of the form type:name:actions")
        # A class in brackets, as in repository(plugin), says nothing about access.
        return cls(
            type=kind.partition("(")[0],
            name=name,
            actions=frozenset(action for action in actions.split(",") if action),
        )

    @classmethod
    def repository(cls, name: str, *actions: str) -> Scope:
        return cls(type="repository", name=name, actions=frozenset(actions))

    def __str__(self) -> str:
        order: list[str] = [one for one in ("pull", "push", "delete") if one in self.actions]
        order += sorted(self.actions - ACTIONS)
        return f"{self.type}:{self.name}:{','.join(order)}"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """Actions on the repositories whose names match a pattern, in which ``*`` is anything."""

    pattern: str
    actions: frozenset[str] = ACTIONS

    @classmethod
    def parse(cls, text: str) -> Grant:
        """Read ``PATTERN`` (all actions) or ``pull,push:PATTERN``. Raises ValueError."""
        words, colon, pattern = text.rpartition(":")
        actions = frozenset(words.split(",")) if colon else ACTIONS
        if not pattern or not actions <= ACTIONS:
            raise ValueError(
                f"grant {text!r} is not of the form PATTERN or ACTIONS:PATTERN, "
                "the actions being of pull, push, delete"
            )
        return cls(pattern=pattern, actions=actions)


class AccessPolicy:
    """What each user may do.

    A user with no grants of his own may do everything, and one with an empty list nothing.
    Anonymous users (the name ``""``) may pull where ``anonymous_pull`` says so, everything or
    what their grants name. Every known user may list the catalog.
    """

    def __init__(
        self,
        grants: Mapping[str, Iterable[Grant | str]] | None = None,
        *,
        anonymous_pull: bool = False,
    ) -> None:
        self.anonymous_pull = anonymous_pull
        self._grants = {
            user: tuple(Grant.parse(one) if isinstance(one, str) else one for one in given)
            for user, given in (grants or {}).items()
        }

    @property
    def users(self) -> frozenset[str]:
        """Those that grants name."""
        return frozenset(self._grants)

    def allowed(self, user: str, scope: Scope) -> frozenset[str]:
        """Of the scope's actions, those that this user may do."""
        if scope.type == "registry" and scope.name == "catalog":
            return scope.actions & {"*"} if user != ANONYMOUS else frozenset()
        if scope.type != "repository":
            return frozenset()
        limit = ACTIONS
        if user == ANONYMOUS:
            limit = frozenset({"pull"}) if self.anonymous_pull else frozenset()
        grants = self._grants.get(user, (Grant(pattern="*"),))
        granted: frozenset[str] = frozenset().union(
            *(one.actions for one in grants if fnmatch.fnmatchcase(scope.name, one.pattern))
        )
        return scope.actions & limit & granted

    def allows(self, user: str, scopes: Iterable[Scope]) -> bool:
        """Whether this user may do everything that the scopes name."""
        return all(self.allowed(user, scope) == scope.actions for scope in scopes)
