"""Seeds from names. Imports nothing, as flows ask for some of them, too."""

from __future__ import annotations

import hashlib


def derive_seed(*key: int | str) -> int:
    """A 63-bit seed from a tuple of integers and names; the same on every platform and version."""
    digest = hashlib.blake2b("\x1f".join(map(str, key)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
