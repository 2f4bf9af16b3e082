"""Files that are there whole or not at all. In a module of its own: training needs no reader of model files."""

import os


def write_atomically(path: os.PathLike | str, content: bytes) -> None:
    """Write beside the target and rename, so that a killed process leaves either nothing or the whole file."""
    temporary = f"{os.fspath(path)}.part"
    with open(temporary, "wb") as file:
        file.write(content)
    os.replace(temporary, path)
