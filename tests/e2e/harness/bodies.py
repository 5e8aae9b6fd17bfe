"""Bodies that both ends can compute: a keystream without a period, so that a piece that is lost,
repeated, moved or taken from another body always changes the digest."""

import functools
import hashlib
from collections.abc import Iterator

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB
PIECE_LEN = 256 * KIB


def pieces(length: int, seed: int = 0, piece_len: int = PIECE_LEN) -> Iterator[bytes]:
    """Yields the body `seed` of `length` bytes, piece by piece."""
    key = hashlib.sha256(b"ringway body %d" % seed).digest()
    keystream = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor()
    zeros = bytes(piece_len)
    while length > 0:
        take = min(length, piece_len)
        yield keystream.update(zeros if take == piece_len else zeros[:take])
        length -= take


def body(length: int, seed: int = 0) -> bytes:
    """Returns the whole body; for small ones."""
    return b"".join(pieces(length, seed))


@functools.cache
def digest(length: int, seed: int = 0) -> str:
    """Returns the SHA-256 of the body, in hex."""
    sha = hashlib.sha256()
    for piece in pieces(length, seed):
        sha.update(piece)
    return sha.hexdigest()


def demo_body(length: int) -> bytes:
    """Returns what the demonstration's origin serves under /bytes/N: byte i is i mod 251."""
    block = bytes(range(251))
    return (block * (length // 251 + 1))[:length]
