"""The names of modifications: the codes that files write for them, and the base that each sits on."""

from __future__ import annotations

import difflib

from biollm.ingest.reads.modifications import BASE_OF_NAME, is_modification

# modkit, MM tags and ChEBI say which modification in these codes (SAM tags specification, section 1.7).
CODES = {
    "m": "5mC", "h": "5hmC", "f": "5fC", "c": "5caC", "C": "C", "a": "6mA", "A": "A", "21839": "4mC",
    "g": "5hmU", "e": "5fU", "b": "5caU", "T": "T", "o": "8oxoG", "n": "xaC",
    "27551": "5mC", "76792": "5hmC", "28871": "6mA",
}  # fmt: skip
# The base on which a modification sits; "C", "A" and "T" stand for any modification of that base.
BASE_OF = dict.fromkeys(("5mC", "5hmC", "5fC", "5caC", "4mC", "C"), "C") | dict.fromkeys(("6mA", "A"), "A")
_NAMES = sorted({*CODES.values(), *BASE_OF_NAME})


def name_fault(name: str) -> str | None:
    """What is wrong with the name of a modification in a recipe; None if sites can have it.

    >>> name_fault("5mc")
    "'5mc' is no modification; did you mean 5mC?"
    >>> name_fault("5mC"), name_fault("17802")
    (None, None)
    """
    if name in _NAMES or name.isdecimal() or is_modification(name):
        return None
    close = [known for known in _NAMES if known.lower() == name.lower()] or difflib.get_close_matches(name, _NAMES, n=1)
    if close:
        return f"'{name}' is no modification; did you mean {close[0]}?"
    return f"'{name}' is no modification; expected one of {', '.join(_NAMES)}, or a ChEBI number"
