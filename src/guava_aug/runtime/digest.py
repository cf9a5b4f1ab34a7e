"""Digests of files."""

from __future__ import annotations

import hashlib
from pathlib import Path

_BLOCK = 2**20  # bytes


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file, 64 hexadecimal digits.

    Raises:
        OSError: The file cannot be read.
    """
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()
