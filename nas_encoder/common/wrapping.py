"""Wraps functions of a toolkit, in place of the plug-in mechanism that it lacks."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

_MARK = "nas_encoder_wraps"


def wrap_once(place: Any, name: str, call: Callable[..., Any]) -> None:
    """Replace a function by ``call(the function, *its arguments)``; a second call changes nothing.

    Args:
        place: The module or class that gets the new function.
        name: The function's name there; it may be a class method, and inherited.
        call: Gets the original function first; of a method, the object or class second.
    """
    found = inspect.getattr_static(place, name)
    inner: Any = getattr(found, "__func__", found)
    if hasattr(inner, _MARK):
        return

    @functools.wraps(inner)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return call(inner, *args, **kwargs)

    setattr(wrapper, _MARK, True)
    setattr(place, name, classmethod(wrapper) if found is not inner else wrapper)
