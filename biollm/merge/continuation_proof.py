"""The proof that continued words leave text as it was, and the search for pieces that do."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from biollm.core.errors import DataError
from biollm.merge.continuation import Continued, check_continuable, continue_tokenizer, expand_ids, pieces_of_new_tokens
from biollm.merge.private_words import BATCH
from biollm.merge.tokenizer_file import Json, load, size, unknown_id
from tokenizers import Encoding

_EXAMPLES = 5
_ROUNDS = 5  # MiniLM and 2,000 words of HPO: 753, 62, 1, 0 of 100,000 lines cut anew


def continue_unchanged(
    base: Json, texts: Sequence[str], new_tokens: int, min_count: int, lines: Sequence[str], *, sealed: Collection[int] = ()
) -> tuple[Continued, dict[str, Any]]:
    """`continue_tokenizer`, and what `prove_continuation` says of it on `lines`.

    Pieces of WordPiece and Unigram that cut a line anew are barred and others learnt in their place, until there are none (or few:
    they are counted). `facts["barred_pieces"]` says how many were.
    """
    barred: set[str] = set()
    for _ in range(_ROUNDS):
        continued = continue_tokenizer(base, texts, new_tokens, min_count, sealed=sealed, barred=barred)
        proved = prove_continuation(base, continued.merged, lines)
        if not proved["violating_pieces"]:
            break
        barred.update(proved["violating_pieces"])
    return continued, proved | {"barred_pieces": len(barred - set(continued.new))}


def prove_continuation(base: Json, merged: Json, lines: Sequence[str]) -> dict[str, Any]:
    """What the new tokens change in `lines`, counted; anything that must not change raises DataError.

    Must hold: every base token keeps its id; every line decodes as with the base and has no more unknown tokens than there; for
    BPE, every line expands to the base's ids (`expand_ids`). A line is changed if it holds a new token or other ids than the
    base's; a violation is a line that does not expand to the base's ids, which WordPiece and Unigram can have: they are counted
    and some are shown as (line, the base's tokens, what the merged tokens expand to), from the first difference to the last.
    violating_pieces: the new tokens in the words at fault.
    """
    kind, first_id = check_continuable(base), size(base)
    before, after = load(base), load(merged)
    pieces = pieces_of_new_tokens(base, merged)
    moved = [token for token, i in before.get_vocab().items() if after.token_to_id(token) != i]
    _guarantee(not moved, f"{len(moved)} base tokens changed their id, for example {moved[:3]}")
    names = {i: token for token, i in before.get_vocab().items()}
    unknown = unknown_id(base)
    changed, tokens_before, tokens_after = 0, 0, 0
    violations: list[tuple[str, list[str], list[str]]] = []  # line, and where it differs the base's tokens and those of the merged
    blamed: set[str] = set()
    broken: list[str] = []
    for start in range(0, len(lines), BATCH):
        batch = list(lines[start : start + BATCH])
        for line, old, new in zip(batch, before.encode_batch(batch), after.encode_batch(batch), strict=True):
            tokens_before, tokens_after = tokens_before + len(old.ids), tokens_after + len(new.ids)
            if old.ids == new.ids and max(new.ids, default=0) < first_id:
                continue
            changed += 1
            if expand_ids(new.ids, pieces) != old.ids:
                violations.append(_difference(line, old.tokens, [names[i] for i in expand_ids(new.ids, pieces)]))
                blamed |= _blamed(old, new, pieces)
            if before.decode(old.ids) != after.decode(new.ids) or _count(new.ids, unknown) > _count(old.ids, unknown):
                broken.append(line)
    _guarantee(not broken, f"{len(broken)} of {len(lines)} lines decode otherwise than with the base, for example {broken[:1]}")
    _guarantee(
        kind != "BPE" or not violations, f"{len(violations)} of {len(lines)} lines do not expand to the base's tokens: {violations[:1]}"
    )
    return {
        "lines": len(lines), "lines_changed": changed, "violations": len(violations), "violation_examples": violations[:_EXAMPLES],
        "violating_pieces": sorted(blamed),
        "round_trip_failures": len(broken), "tokens_before": tokens_before, "tokens_after": tokens_after,
    }  # fmt: skip


def _difference(line: str, old: list[str], new: list[str]) -> tuple[str, list[str], list[str]]:
    start = _common(old, new)
    end = _common(old[start:][::-1], new[start:][::-1])
    return line, old[start : len(old) - end], new[start : len(new) - end]


def _common(one: Sequence[str], other: Sequence[str]) -> int:
    """How many tokens the two have in common from their start."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(one), len(other)))


def _blamed(old: Encoding, new: Encoding, pieces: dict[int, list[int]]) -> set[str]:
    """The new tokens in words that do not expand to the base's tokens; of a line that is parted otherwise, all."""
    before, after = _words(old), _words(new)
    wrong = [word for number, word in after.items() if expand_ids((i for i, _ in word), pieces) != [i for i, _ in before.get(number, [])]]
    return {token for word in wrong for i, token in word if i in pieces}


def _words(encoding: Encoding) -> dict[int | None, list[tuple[int, str]]]:
    words: dict[int | None, list[tuple[int, str]]] = {}
    for i, token, word in zip(encoding.ids, encoding.tokens, encoding.word_ids, strict=True):
        words.setdefault(word, []).append((i, token))
    return words


def _count(ids: list[int], wanted: int | None) -> int:
    return 0 if wanted is None else ids.count(wanted)


def _guarantee(holds: bool, otherwise: str) -> None:
    if not holds:
        raise DataError(f"merge: a guarantee does not hold: {otherwise}. Please report the base tokenizer and the texts")
