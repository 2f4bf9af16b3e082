"""File sizes."""

import zlib


def compressed_bytes(content: bytes) -> int:
    """Size after DEFLATE at level 9, the compression of zip archives."""
    return len(zlib.compress(content, 9))
