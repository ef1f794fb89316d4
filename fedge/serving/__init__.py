"""Inference on a gateway: the worker process, its HTTP protocol, and the observation ring.

For callers in Python there is `EmbeddedModel`, the same without HTTP. It is loaded when
it is first asked for: importing this package loads nothing heavy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedge.serving.embedded import EmbeddedModel, Prediction

__all__ = ["EmbeddedModel", "Prediction"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from fedge.serving import embedded

        return getattr(embedded, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
