"""How many threads NumPy's products take, where its library can be told: OpenBLAS, which comes with NumPy's wheels.

torch.set_num_threads does not reach it, and OpenBLAS reads OMP_NUM_THREADS only when it is loaded. A NumPy with another
library keeps its own number.
"""

from __future__ import annotations

import ctypes
import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import NamedTuple

_NAMES = (
    "scipy_openblas_{}_num_threads64_",
    "scipy_openblas_{}_num_threads",
    "openblas_{}_num_threads64_",
    "openblas_{}_num_threads",
)
"""As NumPy's wheels call the two functions, then as distributions do."""


@contextmanager
def blas_threads(number: int) -> Iterator[None]:
    """Within it so many, in the whole process; then as many as before."""
    library = _library()
    before = library.number() if library is not None else number
    if library is None or before == number:
        yield
        return
    library.limit(number)
    try:
        yield
    finally:
        library.limit(before)


class _Library(NamedTuple):
    number: Callable[[], int]
    limit: Callable[[int], object]


@cache
def _library() -> _Library | None:
    try:
        path = importlib.import_module("numpy._core._multiarray_umath").__file__
        linked = ctypes.CDLL(path)  # the one that is loaded; names are looked for in what it is linked with, too
    except (ImportError, OSError):
        return None
    for name in _NAMES:
        if hasattr(linked, name.format("set")) and hasattr(linked, name.format("get")):
            return _Library(getattr(linked, name.format("get")), getattr(linked, name.format("set")))
    return None
