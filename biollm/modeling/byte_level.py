"""The spelling of byte-level BPE: one printable letter per byte (Radford et al. 2019, GPT-2)."""

from __future__ import annotations

_PRINTABLE = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
_OTHERS = [byte for byte in range(256) if byte not in set(_PRINTABLE)]
# letter -> byte; printable bytes stand for themselves
BYTE_OF = {chr(byte): byte for byte in _PRINTABLE} | {chr(256 + i): byte for i, byte in enumerate(_OTHERS)}
LETTER_OF = {byte: letter for letter, byte in BYTE_OF.items()}


def spell_bytes(text: str) -> str:
    """A text as byte-level BPE spells it.

    >>> spell_bytes("a b")
    'aĠb'
    """
    return "".join(LETTER_OF[byte] for byte in text.encode())
