"""Damage to bytes, seeded: what lines, disks and attackers do."""

import random
from collections.abc import Callable

Mutation = Callable[[random.Random, bytearray, list[bytes]], bytearray]


def flip(rng: random.Random, data: bytearray, others: list[bytes]) -> bytearray:
    for _ in range(rng.choice((1, 1, 1, 2, 8))):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return data


def cut(rng: random.Random, data: bytearray, others: list[bytes]) -> bytearray:
    return data[: rng.randrange(len(data))]


def cut_front(rng: random.Random, data: bytearray, others: list[bytes]) -> bytearray:
    return data[rng.randrange(len(data)) + 1 :]


def splice(rng: random.Random, data: bytearray, others: list[bytes]) -> bytearray:
    other = rng.choice(others)
    start, length = rng.randrange(len(other)), rng.randrange(1, 64)
    at = rng.randrange(len(data))
    return data[:at] + other[start : start + length] + data[at + rng.choice((0, length)) :]


def run(rng: random.Random, data: bytearray, others: list[bytes]) -> bytearray:
    at, length = rng.randrange(len(data)), rng.randrange(1, 32)
    data[at : at + length] = bytes([rng.choice((0, 255))]) * min(length, len(data) - at)
    return data


def forge_number(rng: random.Random, data: bytearray, others: list[bytes]) -> bytearray:
    width = rng.choice((1, 2, 4, 8))
    value = rng.choice((0, 1, 2 ** (8 * width) - 1, 2 ** (8 * width - 1), rng.getrandbits(8 * width)))
    at = rng.randrange(max(len(data) - width, 1))
    data[at : at + width] = value.to_bytes(width, rng.choice(("little", "big")))
    return data


def forge_zfp(rng: random.Random, data: bytearray, others: list[bytes]) -> bytearray:
    at = data.find(b"zfp\x05")
    if not 0 <= at <= len(data) - 12:
        return flip(rng, data, others)
    for _ in range(rng.choice((1, 2))):
        data[at + rng.randrange(4, 12)] = rng.getrandbits(8)
    return data


def append(rng: random.Random, data: bytearray, others: list[bytes]) -> bytearray:
    return data + rng.randbytes(rng.randrange(1, 64))


MUTATIONS: list[Mutation] = [flip, flip, cut, cut_front, splice, run, forge_number, forge_zfp, append]


def mutate(rng: random.Random, data: bytes, others: list[bytes]) -> bytes:
    """Return ``data`` with one to three kinds of damage; it may come out unharmed."""
    damaged = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        if damaged:
            damaged = rng.choice(MUTATIONS)(rng, damaged, others)
    return bytes(damaged)
