"""Credential helpers: programs ``docker-credential-NAME`` that keep secrets for their user.

The protocol is that of docker-credential-helpers: one action an invocation, its input on
standard input, its answer or its complaint on standard output. Secrets go through the pipes
only. What a helper writes to standard error is not read: it may hold a secret.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
from collections.abc import Mapping
from typing import Any, Final

from ..credentials import AuthConfig
from ..errors import CredentialsError, CredentialStoreError
from .keys import host_of_key

__all__ = ["HELPER_SECONDS", "Helper"]

#: How long a helper may take; it may have to ask its user something.
HELPER_SECONDS: Final = 60.0
_ANSWER_LIMIT: Final = 1024 * 1024  # bytes
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_NOT_FOUND: Final = "credentials not found"
_TOKEN_USER: Final = "<token>"  # says that the secret is an identity token
_SHOWN: Final = 200


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Helper:
    """The helper ``name`` as the user of ``environ`` would run it, found on his PATH.

    Every method raises `CredentialStoreError`, which names the program: where it is missing,
    fails, is silent for longer than ``timeout`` seconds (it is then killed), or answers what
    is no answer. No error shows a secret.
    """

    name: str
    environ: Mapping[str, str] = dataclasses.field(repr=False)
    timeout: float = HELPER_SECONDS

    @property
    def program(self) -> str:
        return f"docker-credential-{self.name}"

    def get(self, server: str) -> AuthConfig | None:
        """What it keeps for ``server``, a key as files have them; None where there is nothing."""
        status, answer = self._run("get", server)
        if status != 0:
            if _NOT_FOUND in answer.lower():
                return None
            raise self._failed("get", server, answer)
        document = self._document(answer, "get")
        username, secret = document.get("Username"), document.get("Secret")
        if not isinstance(username, str) or not isinstance(secret, str):
            raise self._error("its answer to 'get' lacks 'Username' or 'Secret'")
        named = document.get("ServerURL")
        if isinstance(named, str) and named and host_of_key(named) != host_of_key(server):
            raise self._error(
                f"its answer to 'get' for {server} is for another server, {named[:_SHOWN]!r}"
            )
        try:
            found = AuthConfig(username=username, password=secret, server_address=server)
        except CredentialsError as error:
            raise self._error(f"its answer to 'get': {error}") from None
        return None if found.empty else found

    def store(self, server: str, auth: AuthConfig) -> None:
        """Keep the credentials for ``server``: the identity token where there is one."""
        username, secret = auth.username, auth.password
        if auth.identity_token:
            username, secret = _TOKEN_USER, auth.identity_token
        text = json.dumps({"ServerURL": server, "Username": username, "Secret": secret})
        status, answer = self._run("store", text)
        if status != 0:
            raise self._failed("store", server, answer, hidden=secret)

    def erase(self, server: str) -> bool:
        """Forget what is kept for ``server``. False where there was nothing."""
        if self.get(server) is None:
            return False
        status, answer = self._run("erase", server)
        if status != 0:
            if _NOT_FOUND in answer.lower():
                return False
            raise self._failed("erase", server, answer)
        return True

    def list(self) -> dict[str, str]:
        """The servers that it keeps something for, and the user name for each."""
        status, answer = self._run("list", "")
        if status != 0:
            raise self._failed("list", "", answer)
        found = self._document(answer, "list")
        return {server: name for server, name in found.items() if isinstance(name, str)}

    def _run(self, action: str, text: str) -> tuple[int, str]:
        path = None
        if _NAME.fullmatch(self.name):
            path = shutil.which(self.program, path=self.environ.get("PATH", os.defpath))
        if path is None:
            raise self._error("there is no such program on the PATH")
        from .conversation import OverflowingError, converse  # for the few who have a helper

        try:
            status, answer = converse(
                [path, action],
                text.encode("utf-8", "backslashreplace"),
                environ=self.environ,
                timeout=self.timeout,
                limit=_ANSWER_LIMIT,
            )
        except TimeoutError:
            raise self._error(
                f"no answer to {action!r} for {self.timeout:g} s; it was ended"
            ) from None
        except OverflowingError:
            raise self._error(
                f"its answer to {action!r} is longer than {_ANSWER_LIMIT} bytes"
            ) from None
        except OSError as error:
            raise self._error(f"it cannot be run: {error.strerror}") from None
        return status, answer.decode("utf-8", "replace").strip()

    def _document(self, answer: str, action: str) -> dict[str, Any]:
        try:
            document = json.loads(answer)
        except (ValueError, RecursionError):  # the parser's words would show a piece of it
            document = None
        if not isinstance(document, dict):
            raise self._error(f"its answer to {action!r} is not a JSON map")
        return document

    def _failed(
        self, action: str, server: str, answer: str, *, hidden: str = ""
    ) -> CredentialStoreError:
        what = f"{action!r} for {server}" if server else repr(action)
        said = answer.splitlines()[0] if answer else ""
        # a complaint is a line of words; what looks like an answer may hold the secret
        if "{" in said or len(said) > _SHOWN or (hidden and hidden in answer):
            said = ""
        return self._error(f"{what} failed" + (f": {said}" if said else ""))

    def _error(self, problem: str) -> CredentialStoreError:
        shown = self.program if self.program.isprintable() else repr(self.program)
        return CredentialStoreError(f"the credential helper {shown}: {problem}", where=shown)
