"""Who a user is: passwords given as they are, or hashed in an htpasswd file."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
import secrets
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import bcrypt

__all__ = ["Passwords"]

_Check = Callable[[bytes], bool]
_BCRYPT: Final = re.compile(r"\$2[aby]\$(?:0[4-9]|[12][0-9]|3[01])\$[./A-Za-z0-9]{53}")
# bcrypt reads no more; the tools that write htpasswd files cut there silently, so this does too.
_BCRYPT_LENGTH: Final = 72


class Passwords:
    """Users and how each one's password is checked. Thread-safe.

    A password once found right is remembered, as a keyed hash, so that a slow hash costs once
    and not with each request; one lock guards what is remembered.
    """

    def __init__(self, users: Mapping[str, str] | None = None) -> None:
        self._key = secrets.token_bytes(32)
        self._lock = threading.Lock()
        self._known: set[bytes] = set()
        self._checks: dict[str, _Check] = {}
        for name, password in (users or {}).items():
            self.add(name, password)

    @property
    def names(self) -> frozenset[str]:
        return frozenset(self._checks)

    def add(self, name: str, password: str) -> None:
        """Add a user. Raises ValueError for a name that cannot be, or is given twice."""
        self._add(name, _plain_check(self._mac("", password), self._mac))

    def change(self, name: str, password: str) -> None:
        """Give a user another password, or add him."""
        with self._lock:
            self._known.clear()
            self._checks.pop(name, None)
        self.add(name, password)

    def read_htpasswd(self, path: Path) -> None:
        """Add the users of an htpasswd file: bcrypt (``htpasswd -B``) or ``{SHA}`` lines.

        Raises OSError if the file cannot be read, ValueError that names the line otherwise.
        """
        try:
            text = path.read_text("utf-8")
        except UnicodeDecodeError:
            raise ValueError(f"{path}: not a text file in UTF-8") from None
        for number, line in enumerate(text.splitlines(), start=1):
            entry = line.strip()
            if not entry or entry.startswith("#"):
                continue
            name, colon, hashed = entry.partition(":")
            try:
                if not colon:
                    raise ValueError("is not of the form user:hash")
                self._add(name, _hashed_check(hashed))
            except ValueError as error:
                raise ValueError(f"{path}, line {number}: {error}") from None

    def check(self, name: str, password: str) -> bool:
        """Whether this is the password of this user."""
        check = self._checks.get(name)
        if check is None:
            return False
        mac = self._mac(name, password)
        with self._lock:
            if mac in self._known:
                return True
        if not check(password.encode()):
            return False
        with self._lock:
            self._known.add(mac)
        return True

    def _add(self, name: str, check: _Check) -> None:
        if not name or ":" in name:
            raise ValueError(f"{name!r} cannot be a user's name: it is empty or has a colon")
        if name in self._checks:
            raise ValueError(f"user {name!r} is given twice")
        self._checks[name] = check

    def _mac(self, name: str, password: str) -> bytes:
        return hmac.digest(self._key, f"{name}:{password}".encode(), "sha256")


def _plain_check(expected: bytes, mac: Callable[[str, str], bytes]) -> _Check:
    def check(password: bytes) -> bool:
        return hmac.compare_digest(expected, mac("", password.decode()))

    return check


def _hashed_check(hashed: str) -> _Check:
    if _BCRYPT.fullmatch(hashed):
        stored = hashed.encode()
        return lambda password: _bcrypt_check(password, stored)
    if hashed.startswith("{SHA}"):
        try:
            digest = base64.b64decode(hashed.removeprefix("{SHA}"), validate=True)
        except binascii.Error:
            digest = b""
        if len(digest) != hashlib.sha1(usedforsecurity=False).digest_size:
            raise ValueError("a {SHA} hash that is not 20 bytes in base64")
        return lambda password: hmac.compare_digest(
            digest, hashlib.sha1(password, usedforsecurity=False).digest()
        )
    raise ValueError("the hash is neither bcrypt (htpasswd -B) nor {SHA} (htpasswd -s)")


def _bcrypt_check(password: bytes, stored: bytes) -> bool:
    try:
        return bcrypt.checkpw(password[:_BCRYPT_LENGTH], stored)
    except ValueError:
        # A password that bcrypt cannot hash, one with a NUL byte say, is nobody's.
        return False
