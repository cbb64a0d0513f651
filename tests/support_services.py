"""Programs that a test needs and that a machine may lack: skip where people work, fail in CI."""

from __future__ import annotations

import os
import shutil

import pytest

__all__ = ["require"]


def require(program: str) -> str:
    """The path of ``program``; skips the calling test if the machine has none.

    With the environment variable ``CI`` set to anything but nothing, ``0`` or ``false``, a
    missing program fails the test: a run that is to prove something may leave nothing out.
    """
    found = shutil.which(program)
    if found is not None:
        return found
    message = f"{program} is not installed; install it to run this test"
    if os.environ.get("CI", "").lower() not in ("", "0", "false"):
        pytest.fail(message, pytrace=False)
    pytest.skip(message)
