"""Files that are there whole or not at all. In a module of its own: training needs no reader of model files."""

import contextlib
import os


def write_atomically(path: os.PathLike | str, content: bytes) -> None:
    """Write beside the target and rename, so that a killed process or a power loss leaves nothing or the whole file."""
    temporary = f"{os.fspath(path)}.part"
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())  # else the name may reach the disk before the content does
        os.replace(temporary, path)
    except OSError:  # on a full disk, what could be written would go on taking the room
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
