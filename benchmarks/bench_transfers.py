"""Pull and push against skopeo and a bare loop: few large layers, many small ones, nothing new.

``BENCH_SCALE=0.1`` makes the layers smaller; ``BENCH_RUNS`` says how many runs are counted.
"""

from __future__ import annotations

import os
import shutil
from functools import partial
from pathlib import Path

from common import (
    RUNS,
    bare_pull,
    blob_digests,
    daemon,
    make_layout,
    registry,
    report,
    scratch,
    skopeo,
    timed,
)

from engine.client import Client

SCALE = float(os.environ.get("BENCH_SCALE", "1"))


def pulls(root: Path, host: str, name: str, digests: list[str], threads: int) -> None:
    """Each run takes the three in turn; the first run warms up and is not counted."""
    reference = f"{host}/bench/{name}:1"
    times: dict[str, list[float]] = {"ours": [], "skopeo": [], "bare": []}
    again: dict[str, list[float]] = {"ours": [], "skopeo": []}
    for run in range(RUNS + 1):
        place = root / f"pull-{run}"
        place.mkdir()
        ours = _ours(place / "state", host, reference)
        theirs = _theirs(place / "skopeo", reference)
        bare = timed(partial(bare_pull, host, f"bench/{name}", digests, place / "bare", threads))
        shutil.rmtree(place)
        if run:
            for side, value in (("ours", ours[0]), ("skopeo", theirs[0]), ("bare", bare)):
                times[side].append(value)
            again["ours"].append(ours[1])
            again["skopeo"].append(theirs[1])
    report(f"pull {name}", times)
    report(f"pull {name} again, nothing new", again)


def _ours(state: Path, host: str, reference: str) -> tuple[float, float]:
    """A pull and the same again, from a connected client; the daemon is warm: it has pulled
    another image."""
    with daemon(state) as endpoint, Client(endpoint) as client:
        client.run("pull", f"{host}/bench/warm:1").wait()
        return (
            timed(lambda: client.run("pull", reference).wait()),
            timed(lambda: client.run("pull", reference).wait()),
        )


def _theirs(layout: Path, reference: str) -> tuple[float, float]:
    copy = partial(
        skopeo, "copy", "--src-tls-verify=false", f"docker://{reference}", f"oci:{layout}:x"
    )
    return timed(copy), timed(copy)


def pushes(root: Path, name: str, layout: Path) -> None:
    times: dict[str, list[float]] = {"ours": [], "skopeo": []}
    for run in range(RUNS + 1):
        place = root / f"push-{run}"
        place.mkdir()
        with registry(place) as host, daemon(place / "state") as endpoint:
            skopeo("copy", f"oci:{layout}:x", f"oci:{place}/state/images:{host}/bench/{name}:1")
            with Client(endpoint) as client:
                client.run("info").wait()
                ours = timed(lambda: client.run("push", f"{host}/bench/{name}:1").wait())
        other = root / f"push-other-{run}"
        other.mkdir()
        with registry(other) as host:
            copy = timed(
                lambda: skopeo(
                    "copy",
                    "--dest-tls-verify=false",
                    f"oci:{layout}:x",
                    f"docker://{host}/bench/{name}:1",
                )
            )
        shutil.rmtree(place)
        shutil.rmtree(other)
        if run:
            times["ours"].append(ours)
            times["skopeo"].append(copy)
    report(f"push {name}", times)


def main() -> None:
    shapes = {
        "8x128m": (8, int(128 * 1024 * 1024 * SCALE), 3),
        "60x8k": (60, 8 * 1024, 4),
    }
    for name, (layers, size, threads) in shapes.items():
        with scratch() as root:
            layout = root / "layout"
            make_layout(layout, layers=layers, size=size)
            make_layout(root / "warm", layers=4, size=4096)
            with registry(root) as host:
                for source, image in ((layout, name), (root / "warm", "warm")):
                    skopeo(
                        "copy",
                        "--dest-tls-verify=false",
                        f"oci:{source}:x",
                        f"docker://{host}/bench/{image}:1",
                    )
                pulls(root, host, name, blob_digests(layout), threads)
            shutil.rmtree(root / "registry")
            pushes(root, name, layout)


if __name__ == "__main__":
    main()
