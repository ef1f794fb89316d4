"""The one place that imports river, and only what is needed of it.

`import river.drift` loads pandas, scipy and scikit-learn for data sets and detectors that are
not used here: 135 MB and more than a second on a gateway that has 220 MB. The two detectors
themselves need none of it. So their packages are put in place empty, as it were, while the
two modules are imported, and taken away again: whoever imports river properly later in the
same process gets all of it, with the very same classes.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fedge.errors import SettingError

_BARE = ("river.drift", "river.stats")


def river_class(name: str) -> Any:
    """A detector class of river: `ADWIN` or `PageHinkley`.

    The first call is not for a moment in which another thread imports river.

    Raises:
        SettingError: river is not installed, or is no version that this works with.
    """
    module = {"ADWIN": "river.drift.adwin", "PageHinkley": "river.drift.page_hinkley"}[name]
    try:
        if module not in sys.modules:
            with _bare_packages():
                # What Page-Hinkley takes from `river.stats`, whose other statistics need scipy.
                importlib.import_module("river.stats.base")
                mean = importlib.import_module("river.stats.mean")
                vars(sys.modules["river.stats"])["Mean"] = mean.Mean
                importlib.import_module(module)
        return getattr(sys.modules[module], name)
    except (ImportError, AttributeError) as error:
        if getattr(error, "name", None) == "river":
            raise SettingError(
                "the local fast path needs river: pip install 'fedge[drift]'"
            ) from error
        raise SettingError(f"this version of river cannot be used: {error}") from error


@contextlib.contextmanager
def _bare_packages() -> Iterator[None]:
    """Let modules of these packages be imported without running the packages' own code."""
    found = importlib.util.find_spec("river")
    if found is None or not found.submodule_search_locations:
        raise ModuleNotFoundError("river is not installed", name="river")
    (root,) = found.submodule_search_locations
    bare = [name for name in _BARE if name not in sys.modules]
    for name in bare:
        package = types.ModuleType(name)
        package.__path__ = [str(Path(root, name.partition(".")[2]))]
        sys.modules[name] = package
    try:
        yield
    finally:
        for name in bare:
            del sys.modules[name]
