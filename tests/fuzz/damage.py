"""What happens to any file on a disk."""

from __future__ import annotations

import random


def damaged_bytes(choose: random.Random, content: bytes) -> tuple[str, bytes]:
    """What was done to the content, and what it is then."""
    at, kind = choose.randrange(len(content)), choose.randrange(7)
    if kind == 0:
        return f"cut off at byte {at}", content[:at]
    if kind == 1:
        flipped = bytes([content[at] ^ 1 << choose.randrange(8)])
        return f"a bit of byte {at} flipped", content[:at] + flipped + content[at + 1 :]
    if kind == 2:
        junk = choose.randbytes(choose.choice([1, 20, 3000]))
        return f"{len(junk)} bytes of junk at byte {at}", content[:at] + junk + content[at:]
    if kind == 3:
        nuls = bytes(choose.choice([1, 4096]))
        return f"{len(nuls)} NULs at byte {at}", content[:at] + nuls + content[at:]
    if kind == 4:
        junk = choose.randbytes(5000)
        other = choose.choice(
            [junk, b"PK\x03\x04" + junk, b"\x1f\x8b" + junk, b"", b"\n", bytes(900)]
        )
        return f"{len(other)} other bytes, {other[:4]!r}", other
    if kind == 5:
        end = min(len(content), at + choose.choice([1, 40, 400]))
        return f"bytes {at} to {end} are missing", content[:at] + content[end:]
    return "twice", content + content


def pick(choose: random.Random, names: str) -> str:
    """One of the names, which stand in a line with commas between them."""
    return choose.choice(names.split(", "))
