"""One exchange with a program: its whole input, its whole output, bounded in time and size."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from typing import Final

__all__ = ["OverflowingError", "converse"]

_CHUNK: Final = 65536


class OverflowingError(Exception):
    """The program writes more than is allowed."""


def converse(
    command: Sequence[str],
    given: bytes,
    *,
    environ: Mapping[str, str],
    timeout: float,
    limit: int,
) -> tuple[int, bytes]:
    """Run ``command`` with ``given`` on its standard input; its exit status and its output.

    Standard error is thrown away. The program is ended, with all that it started, when it
    takes longer than ``timeout`` seconds, writes more than ``limit`` bytes, or the wait is
    interrupted. Raises TimeoutError, `OverflowingError`, OSError.
    """
    deadline = time.monotonic() + timeout
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=dict(environ),
        process_group=0,
    ) as process:
        try:
            output = _exchange(process, given, deadline, limit)
            status = process.wait(max(deadline - time.monotonic(), 0.0))
        except subprocess.TimeoutExpired:
            _end(process)
            raise TimeoutError from None
        except BaseException:
            _end(process)
            raise
    return status, output


def _exchange(process: subprocess.Popen[bytes], given: bytes, deadline: float, limit: int) -> bytes:
    assert process.stdin is not None
    assert process.stdout is not None
    output = bytearray()
    rest = memoryview(given)
    os.set_blocking(process.stdin.fileno(), False)
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        if rest:
            selector.register(process.stdin, selectors.EVENT_WRITE)
        else:
            process.stdin.close()
        while selector.get_map():
            ready = selector.select(max(deadline - time.monotonic(), 0.0))
            if not ready:
                raise TimeoutError
            for key, _ in ready:
                if key.fileobj is process.stdout:
                    chunk = os.read(key.fd, _CHUNK)
                    output += chunk
                    if len(output) > limit:
                        raise OverflowingError
                    if not chunk:
                        selector.unregister(process.stdout)
                    continue
                rest = rest[_written(key.fd, rest) :]
                if not rest:
                    selector.unregister(process.stdin)
                    process.stdin.close()
    return bytes(output)


def _written(descriptor: int, data: memoryview) -> int:
    try:
        return os.write(descriptor, data)
    except BlockingIOError:
        return 0
    except BrokenPipeError:  # it wants no more; what it answers is what counts
        return len(data)


def _end(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
