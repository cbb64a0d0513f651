"""The accounts of an index: who there is, whether they are active, and what they may do."""

from __future__ import annotations

import dataclasses
import fnmatch
import re
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from ..access import Grant
from ..message import Request, Response
from ..passwords import Passwords
from .gates import basic_credentials
from .message import V1Error, answer

__all__ = ["Account", "Accounts"]

_NAME: Final = re.compile(r"[a-z0-9_]{4,30}")
_EMAIL: Final = re.compile(r"[^@\s]+@[^@\s]+")
_SHORTEST_PASSWORD: Final = 5
_CHALLENGE: Final = (("WWW-Authenticate", 'Basic realm="auth required",Token'),)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """One account. It may do everything in the namespace of its name.

    ``grants`` are what it may do elsewhere, as `Grant` or in writing (``"pull:team/*"``,
    ``"library/*"``). One that is not ``active`` is known, and let in nowhere.
    """

    name: str
    password: str = dataclasses.field(repr=False)
    email: str = ""
    active: bool = True
    grants: tuple[Grant | str, ...] = ()

    def allows(self, repository: str, action: str) -> bool:
        """Whether ``pull``, ``push`` or ``delete`` of a repository is this account's to do."""
        if repository.startswith(f"{self.name}/"):
            return True
        given = (Grant.parse(one) if isinstance(one, str) else one for one in self.grants)
        return any(
            action in one.actions and fnmatch.fnmatchcase(repository, one.pattern) for one in given
        )


class Accounts:
    """All accounts. Thread-safe by one lock. Raises ValueError for a name given twice."""

    def __init__(self, accounts: Iterable[Account] = ()) -> None:
        self._lock = threading.Lock()
        self._passwords = Passwords()
        self._known: dict[str, Account] = {}
        for account in accounts:
            self.add(account)

    def add(self, account: Account) -> None:
        with self._lock:
            self._passwords.add(account.name, account.password)
            self._known[account.name] = account

    def read_htpasswd(self, path: Path) -> None:
        """Add the users of an htpasswd file, all active."""
        self._passwords.read_htpasswd(path)
        with self._lock:
            for name in self._passwords.names - self._known.keys():
                self._known[name] = Account(name=name, password="")

    def get(self, name: str) -> Account | None:
        with self._lock:
            return self._known.get(name)

    def change(self, name: str, **changes: Any) -> None:
        """Put other values in an account's fields. Raises KeyError if there is none."""
        with self._lock:
            account = dataclasses.replace(self._known[name], **changes)
            if "password" in changes:
                self._passwords.change(name, account.password)
            self._known[name] = account

    def sign_in(self, request: Request) -> Account | None:
        """Whose request it is; None for nobody's. Raises `V1Error`: 401, or 403 if inactive."""
        if request.headers.get("authorization", "").partition(" ")[0].lower() != "basic":
            return None
        credentials = basic_credentials(request)
        if credentials is None or not self._passwords.check(*credentials):
            raise unauthorized()
        account = self.get(credentials[0])
        if account is None or not account.active:
            raise V1Error("Account is not Active", 403)
        return account

    def needed(self, request: Request) -> Account:
        """Whose request it is, which is to be somebody's. Raises `V1Error`."""
        account = self.sign_in(request)
        if account is None:
            raise unauthorized()
        return account

    def register(self, data: Any, *, active: bool) -> Response:
        """Answer to the JSON of an account that is to be. Its errors are plain words."""
        if not isinstance(data, dict):
            return answer("Error Decoding JSON", status=400)
        name, password, email = (data.get(key) for key in ("username", "password", "email"))
        if not (isinstance(name, str) and isinstance(password, str) and isinstance(email, str)):
            return answer("Missing field: username, password and email are wanted", status=400)
        # Before anything else: clients try to register in order to sign in.
        with self._lock:
            emails = {one.email for one in self._known.values() if one.email}
            taken = name in self._known or email in emails
        if taken:
            return answer("Username or email already exists", status=400)
        if not _NAME.fullmatch(name):
            return answer("Username is to be 4 to 30 characters of [a-z0-9_]", status=400)
        if len(password) < _SHORTEST_PASSWORD or not _EMAIL.fullmatch(email):
            return answer("Password is too short, or email is none", status=400)
        try:
            self.add(Account(name=name, password=password, email=email, active=active))
        except ValueError:
            # Another request was faster.
            return answer("Username or email already exists", status=400)
        return answer("User Created", status=201)


def unauthorized() -> V1Error:
    """The challenge of an index, which takes passwords and tokens."""
    return V1Error("Unauthorized", 401, _CHALLENGE)
