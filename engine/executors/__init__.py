"""Where handlers run."""

from .local import LocalExecutor

__all__ = ["LocalExecutor"]
