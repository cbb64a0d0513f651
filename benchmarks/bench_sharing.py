"""Twenty clients that pull the same image at once, against one client alone."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Sequence
from pathlib import Path

from common import RUNS, daemon, make_layout, registry, report, scratch, skopeo, timed

from engine.client import Client

CLIENTS = 20
LAYERS, SIZE = 8, 64 * 1024 * 1024


def pull_by(clients: Sequence[Client], reference: str) -> None:
    """All of them at once; returns when the last one has its end."""
    failed: list[str] = []

    def pull(client: Client) -> None:
        end = client.run("pull", reference).wait()
        if end.status:
            failed.append(end.message)

    threads = [threading.Thread(target=pull, args=(client,)) for client in clients]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed, failed


def measure(root: Path, host: str, count: int) -> float:
    state = root / f"state-{count}"
    with daemon(state) as endpoint:
        clients = [Client(endpoint) for _ in range(count)]
        try:
            clients[0].run("pull", f"{host}/bench/warm:1").wait()
            taken = timed(lambda: pull_by(clients, f"{host}/bench/shared:1"))
        finally:
            for client in clients:
                client.close()
    shutil.rmtree(state)
    return taken


def main() -> None:
    with scratch() as root, registry(root) as host:
        make_layout(root / "shared", layers=LAYERS, size=SIZE)
        make_layout(root / "warm", layers=4, size=4096)
        for name in ("shared", "warm"):
            skopeo(
                "copy",
                "--dest-tls-verify=false",
                f"oci:{root / name}:x",
                f"docker://{host}/bench/{name}:1",
            )
        times: dict[str, list[float]] = {"ours": [], "one": []}
        for run in range(RUNS + 1):
            pair = {"one": measure(root, host, 1), "ours": measure(root, host, CLIENTS)}
            if run:
                for side, value in pair.items():
                    times[side].append(value)
        report(f"{CLIENTS} clients pull {LAYERS}x{SIZE >> 20}m at once", times)


if __name__ == "__main__":
    main()
