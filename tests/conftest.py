"""Fixtures that several files share."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from support_daemon import Daemon, running_daemon
from trial_service import installed

TESTS = Path(__file__).parent

# No test is about how long an example takes, which on a busy machine is any time.
settings.register_profile("suite", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("suite")


def pytest_configure() -> None:
    """What the programs that tests start must not inherit."""
    # A shell starts what it runs in the background with SIGINT ignored.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    # It hides what a program leaves in its buffers, and people do not have it.
    os.environ.pop("PYTHONUNBUFFERED", None)


@pytest.fixture(scope="session")
def trial_path(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A PYTHONPATH on which `trial_service` is installed."""
    place = installed(tmp_path_factory.mktemp("installed"))
    inherited = os.environ.get("PYTHONPATH", "")
    return os.pathsep.join(filter(None, [str(place), str(TESTS), inherited]))


@pytest.fixture(scope="session")
def trial_daemon(tmp_path_factory: pytest.TempPathFactory, trial_path: str) -> Iterator[Daemon]:
    """One `engined` with the jobs of `trial_service`, for all tests that leave it as it was."""
    state = tmp_path_factory.mktemp("trial") / "state"
    with running_daemon(state, environ={"PYTHONPATH": trial_path}) as daemon:
        yield daemon
