"""Media types: of manifests, configurations and layers, and which of Docker's is which of OCI's.

The pairs are those of the OCI image specification, 'Compatibility matrix'; the types with zstd
are the ones that builders write.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

__all__ = [
    "DOCKER_CONFIG",
    "DOCKER_LIST",
    "DOCKER_MANIFEST",
    "FOREIGN_LAYERS",
    "INDEX_TYPES",
    "MANIFEST_TYPES",
    "OCI_ARTIFACT",
    "OCI_CONFIG",
    "OCI_EMPTY",
    "OCI_INDEX",
    "OCI_LAYER",
    "OCI_MANIFEST",
    "SCHEMA1_SIGNED",
    "SCHEMA1_TYPES",
    "SCHEMA1_UNSIGNED",
    "TO_DOCKER",
    "TO_OCI",
    "VAGUE_TYPES",
    "is_layer",
]

OCI_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX: Final = "application/vnd.oci.image.index.v1+json"
OCI_ARTIFACT: Final = "application/vnd.oci.artifact.manifest.v1+json"
OCI_CONFIG: Final = "application/vnd.oci.image.config.v1+json"
OCI_EMPTY: Final = "application/vnd.oci.empty.v1+json"
#: A layer without compression; ``+gzip`` and ``+zstd`` follow where there is one.
OCI_LAYER: Final = "application/vnd.oci.image.layer.v1.tar"
_OCI_FOREIGN: Final = "application/vnd.oci.image.layer.nondistributable.v1.tar"

DOCKER_MANIFEST: Final = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST: Final = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_CONFIG: Final = "application/vnd.docker.container.image.v1+json"
_DOCKER_LAYER: Final = "application/vnd.docker.image.rootfs.diff.tar"
_DOCKER_FOREIGN: Final = "application/vnd.docker.image.rootfs.foreign.diff.tar"

SCHEMA1_UNSIGNED: Final = "application/vnd.docker.distribution.manifest.v1+json"
SCHEMA1_SIGNED: Final = "application/vnd.docker.distribution.manifest.v1+prettyjws"
#: The two kinds of schema 1, unsigned and signed.
SCHEMA1_TYPES: Final = (SCHEMA1_UNSIGNED, SCHEMA1_SIGNED)

#: What is kept as it is, in the order in which it is preferred.
MANIFEST_TYPES: Final = (OCI_INDEX, DOCKER_LIST, OCI_MANIFEST, DOCKER_MANIFEST, OCI_ARTIFACT)
INDEX_TYPES: Final = frozenset({OCI_INDEX, DOCKER_LIST})
#: What servers send that have no idea of the type.
VAGUE_TYPES: Final = frozenset({"", "text/plain", "application/json", "application/octet-stream"})

_COMPRESSIONS: Final = (("", ""), (".gzip", "+gzip"), (".zstd", "+zstd"))

#: Docker's type -> OCI's.
TO_OCI: Final[Mapping[str, str]] = {
    DOCKER_MANIFEST: OCI_MANIFEST,
    DOCKER_LIST: OCI_INDEX,
    DOCKER_CONFIG: OCI_CONFIG,
    **{f"{_DOCKER_LAYER}{docker}": f"{OCI_LAYER}{oci}" for docker, oci in _COMPRESSIONS},
    **{f"{_DOCKER_FOREIGN}{docker}": f"{_OCI_FOREIGN}{oci}" for docker, oci in _COMPRESSIONS},
}
#: OCI's type -> Docker's.
TO_DOCKER: Final[Mapping[str, str]] = {oci: docker for docker, oci in TO_OCI.items()}

#: Layers that a registry need not have: they come from where their ``urls`` say.
FOREIGN_LAYERS: Final = frozenset(
    name
    for docker, oci in _COMPRESSIONS
    for name in (f"{_DOCKER_FOREIGN}{docker}", f"{_OCI_FOREIGN}{oci}")
)

_LAYERS: Final = (OCI_LAYER, _OCI_FOREIGN, _DOCKER_LAYER, _DOCKER_FOREIGN)


def is_layer(media_type: str) -> bool:
    """Whether it is a tar archive of files, compressed in any way; not one that is encrypted."""
    return media_type.startswith(_LAYERS) and not media_type.endswith("+encrypted")
