"""Authentication at a registry.

scope           what a token is asked for
flow            how a token is got, with no network in it
cache           tokens that are still good, each fetched once
authenticator   what to send, and what to do when it is refused
"""

from __future__ import annotations

from .authenticator import Authenticator
from .cache import TokenCache, TokenKey
from .flow import Token, TokenAnswer, TokenRequest, check_realm, token_flow

__all__ = [
    "Authenticator",
    "Token",
    "TokenAnswer",
    "TokenCache",
    "TokenKey",
    "TokenRequest",
    "check_realm",
    "token_flow",
]
