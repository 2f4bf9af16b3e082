"""Things users name KIND or KIND:REST, such as targets and trackers: from the name to an object of its class."""

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from dlmo.errors import UserError, did_you_mean


def make(name: str, known: Mapping[str, str], refused: str) -> Any:
    """An object of the class of KIND, made with REST, which is empty where the name has none.

    known: module and class, as in "package.module:Class", by kind; loaded when asked for. refused: how the UserError
    about an unknown kind begins.
    """
    kind, _, rest = name.partition(":")
    if kind not in known:
        raise UserError(f"{refused}{did_you_mean(kind, known)}; known: {', '.join(known)}")
    module, _, name_of_class = known[kind].partition(":")
    return getattr(import_module(module), name_of_class)(rest)
