"""An engine with the service installed, and its jobs run in the process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from engine import Engine, Job, Status
from registry_service.digest import Digest
from registry_service.service import Service

__all__ = ["Bench"]


class Bench:
    def __init__(self, state: Path, **settings: Any) -> None:
        self.state = state
        self.engine = Engine(state_dir=state)
        self.service = Service()
        self.engine.install(self.service, name="registry", settings={"retries": 0, **settings})

    def job(self, name: str, *args: str, **env: Any) -> Job:
        return self.engine.job(name, *args, env=env)

    def run(self, name: str, *args: str, **env: Any) -> list[dict[str, Any]]:
        job = self.job(name, *args, **env)
        assert job.run() is Status.OK, job.stderr.text()
        return job.stdout.table().to_dicts()

    def fail(self, name: str, *args: str, **env: Any) -> tuple[Status, str]:
        job = self.job(name, *args, **env)
        status = job.run()
        assert status is not Status.OK
        assert job.end is not None
        return status, job.end.message

    @property
    def names(self) -> list[str]:
        return [row["reference"] for row in self.run("images")]

    def broken(self) -> list[str]:
        """Blobs in the store that are not what their names say."""
        return [
            path.name
            for path in (self.state / "images" / "blobs").glob("*/*")
            if str(Digest.of(path.read_bytes(), path.parent.name)) != f"sha256:{path.name}"
        ]
