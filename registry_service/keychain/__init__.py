"""The credentials that a user has already: those of Docker, of podman, and of helpers.

places        which files, in which order
forms         what a file says
config_file   files on the disk
keys          which entry serves what is asked for
helper        programs that keep secrets
keychain      all of them: found, stored, removed

It belongs to the client's side: a daemon has no user's files to read.

    from registry_service.keychain import credentials_env

    with Client() as client:
        client.run("pull", image, env=credentials_env(image)).wait()
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from ..reference import Reference
from .config_file import CONFIGFILE, ConfigFile, load_config, save_config
from .helper import Helper
from .keychain import Found, Keychain, Removed
from .places import Place, places_of

__all__ = [
    "CONFIGFILE",
    "ConfigFile",
    "Found",
    "Helper",
    "Keychain",
    "Place",
    "Removed",
    "credentials_env",
    "load_config",
    "places_of",
    "save_config",
]


def credentials_env(reference: str, environ: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The part of a job's environment that says who asks for ``reference``: ``authConfig``
    where this process's user has credentials for its registry, ``metaHeaders`` where Docker's
    configuration has headers for registries. Both are secret.

    ``environ`` is the process's own unless it is given. Raises `InvalidReferenceError` and
    what `Keychain.find` raises.
    """
    keychain = Keychain.of_user(os.environ if environ is None else environ)
    env: dict[str, Any] = {}
    found = keychain.find(Reference.parse(reference).name)
    if not found.auth_config.empty:
        env["authConfig"] = found.auth_config.to_json()
    headers = keychain.meta_headers()
    if headers:
        env["metaHeaders"] = {name: list(values) for name, values in headers.items()}
    return env
