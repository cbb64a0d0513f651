"""A library for image registries (Docker registry V2 and V1, OCI distribution 1.1), and the
Service that installs it on an engine.

::

    from registry_service import AuthConfig, Endpoint, HTTPRequestFactory, Session

    with Endpoint.discover("registry.example.com") as endpoint:
        with Session(AuthConfig(), HTTPRequestFactory(), endpoint) as session:
            manifest = session.get_v2_image_manifest("team/app", "1.0")

Errors are in `registry_service.errors`, a registry for tests in `registry_service.testing`. The
names below are loaded when they are first used.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .cancel import Cancellation
    from .constants import (
        CONFIGFILE,
        DEFAULT_API_VERSION,
        INDEXSERVER,
        REGISTRYSERVER,
        APIVersion,
        TimeoutType,
        index_server_address,
    )
    from .credentials import AuthConfig
    from .descriptor import Descriptor
    from .digest import Digest
    from .endpoint import Endpoint, RegistryInfo
    from .errors import (
        AlreadyExistsError,
        ConfigFileMissingError,
        DigestMismatchError,
        DoesNotExistError,
        InvalidRepositoryNameError,
        InvalidTarSumError,
        LoginRequiredError,
        RegistryError,
        RegistryHTTPError,
        TarError,
    )
    from .headers import HTTPRequestFactory, add_required_headers_to_redirected_requests
    from .keychain.config_file import ConfigFile, load_config, save_config
    from .manifest import Manifest
    from .observe import Observer
    from .operations.login import LoginResult, login
    from .reference import Reference
    from .schema1 import FSLayer, ManifestData, ManifestHistory
    from .service import Service
    from .session.search import SearchResult, SearchResults
    from .session.session import Session
    from .settings import RegistrySettings
    from .tarsums import LayerSummer, TarSum, TarSummer, TarSumVersion, tarsum
    from .v1.names import resolve_repository_name
    from .v1.values import ImgData, RepositoryData
else:
    _HOMES = {
        "APIVersion": "constants",
        "AlreadyExistsError": "errors",
        "AuthConfig": "credentials",
        "CONFIGFILE": "constants",
        "Cancellation": "cancel",
        "ConfigFile": "keychain.config_file",
        "ConfigFileMissingError": "errors",
        "DEFAULT_API_VERSION": "constants",
        "Descriptor": "descriptor",
        "Digest": "digest",
        "DigestMismatchError": "errors",
        "DoesNotExistError": "errors",
        "Endpoint": "endpoint",
        "FSLayer": "schema1",
        "HTTPRequestFactory": "headers",
        "INDEXSERVER": "constants",
        "ImgData": "v1.values",
        "InvalidRepositoryNameError": "errors",
        "InvalidTarSumError": "errors",
        "LayerSummer": "tarsums",
        "LoginRequiredError": "errors",
        "LoginResult": "operations.login",
        "Manifest": "manifest",
        "ManifestData": "schema1",
        "ManifestHistory": "schema1",
        "Observer": "observe",
        "REGISTRYSERVER": "constants",
        "Reference": "reference",
        "RegistryError": "errors",
        "RegistryHTTPError": "errors",
        "RegistryInfo": "endpoint",
        "RegistrySettings": "settings",
        "RepositoryData": "v1.values",
        "SearchResult": "session.search",
        "SearchResults": "session.search",
        "Service": "service",
        "Session": "session.session",
        "TarError": "errors",
        "TarSum": "tarsums",
        "TarSumVersion": "tarsums",
        "TarSummer": "tarsums",
        "TimeoutType": "constants",
        "add_required_headers_to_redirected_requests": "headers",
        "index_server_address": "constants",
        "load_config": "keychain.config_file",
        "login": "operations.login",
        "resolve_repository_name": "v1.names",
        "save_config": "keychain.config_file",
        "tarsum": "tarsums",
    }

    def __getattr__(name: str) -> Any:
        from importlib import import_module

        home = _HOMES.get(name)
        if home is None:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(f"{__name__}.{home}"), name)
        globals()[name] = value  # from now on without this function
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *_HOMES})


__all__ = [
    "CONFIGFILE",
    "DEFAULT_API_VERSION",
    "INDEXSERVER",
    "REGISTRYSERVER",
    "APIVersion",
    "AlreadyExistsError",
    "AuthConfig",
    "Cancellation",
    "ConfigFile",
    "ConfigFileMissingError",
    "Descriptor",
    "Digest",
    "DigestMismatchError",
    "DoesNotExistError",
    "Endpoint",
    "FSLayer",
    "HTTPRequestFactory",
    "ImgData",
    "InvalidRepositoryNameError",
    "InvalidTarSumError",
    "LayerSummer",
    "LoginRequiredError",
    "LoginResult",
    "Manifest",
    "ManifestData",
    "ManifestHistory",
    "Observer",
    "Reference",
    "RegistryError",
    "RegistryHTTPError",
    "RegistryInfo",
    "RegistrySettings",
    "RepositoryData",
    "SearchResult",
    "SearchResults",
    "Service",
    "Session",
    "TarError",
    "TarSum",
    "TarSumVersion",
    "TarSummer",
    "TimeoutType",
    "add_required_headers_to_redirected_requests",
    "index_server_address",
    "load_config",
    "login",
    "resolve_repository_name",
    "save_config",
    "tarsum",
]
