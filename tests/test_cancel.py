from __future__ import annotations

import threading

import pytest

from registry_service.cancel import Cancellation
from registry_service.errors import CancelledError


def test_check_raises_only_after_the_cancellation() -> None:
    cancel = Cancellation()
    cancel.check()
    cancel.cancel()
    with pytest.raises(CancelledError) as caught:
        cancel.check()
    assert (caught.value.code, caught.value.status) == ("cancelled", 130)


def test_callbacks_run_once_and_not_when_taken_back() -> None:
    cancel, ran = Cancellation(), []
    cancel.on_cancel(lambda: ran.append("kept"))
    remove = cancel.on_cancel(lambda: ran.append("removed"))
    remove()
    remove()
    cancel.cancel()
    cancel.cancel()
    assert ran == ["kept"]


def test_a_late_callback_runs_at_once() -> None:
    cancel, ran = Cancellation(), []
    cancel.cancel()
    cancel.on_cancel(lambda: ran.append("late"))()
    assert ran == ["late"]


def test_a_callback_that_raises_keeps_no_other_from_running() -> None:
    cancel, ran = Cancellation(), []

    def bad() -> None:
        raise ValueError("bad")

    cancel.on_cancel(bad)
    cancel.on_cancel(lambda: ran.append("good"))
    with pytest.raises(ValueError, match="bad"):
        cancel.cancel()
    assert ran == ["good"]


def test_wait_ends_with_the_cancellation() -> None:
    cancel, answers = Cancellation(), []
    thread = threading.Thread(target=lambda: answers.append(cancel.wait(10)))
    thread.start()
    cancel.cancel()
    thread.join(5)
    assert answers == [True]
    assert Cancellation().wait(0) is False


def test_calling_takes_its_callback_back() -> None:
    cancel, ran = Cancellation(), []
    with cancel.calling(lambda: ran.append(1)):
        pass
    cancel.cancel()
    assert ran == []
