"""Modules of dlmo that also run where dlmo is not installed: in a package, on a device."""

import re
from importlib import resources


def shipped_source(module: str, name: str) -> str:
    """The file `name` of a package of dlmo, importing its neighbours in one folder instead of dlmo's modules."""
    source = (resources.files(module) / name).read_text(encoding="utf-8")
    return re.sub(r"^( *)from dlmo\.(?:\w+\.)*(\w+) import", r"\1from \2 import", source, flags=re.MULTILINE)
