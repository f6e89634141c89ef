"""The proof that a merge is lossless. Any broken guarantee stops the stage; what was checked goes into its facts."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from biollm.core.errors import DataError
from biollm.core.progress import progress
from biollm.modeling.vocabulary import DomainVocabulary
from tokenizers import Tokenizer

_BATCH = 1000


def sample_lines(files: Iterable[Path], number: int) -> list[str]:
    """Up to `number` non-empty lines, evenly spread over the files' text."""
    lines: list[str] = []
    for file in files:
        try:
            lines += [line for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
        except UnicodeDecodeError as error:
            raise DataError(f"{file}: not UTF-8 text (byte {error.start}); save it as UTF-8, or name another merge.plain_text") from None
    step = max(len(lines) / number, 1.0)
    return [lines[int(i * step)] for i in range(min(number, len(lines)))]


def prove_plain_text(base: Tokenizer, merged: Tokenizer, vocabulary: DomainVocabulary, lines: list[str]) -> dict[str, Any]:
    """Every base token keeps its id, and every line without domain sequences its tokens and its decoded text."""
    moved = [token for token, i in base.get_vocab().items() if merged.token_to_id(token) != i]
    _guarantee(not moved, f"{len(moved)} base tokens changed their id, for example {moved[:3]}")
    run = re.compile(f"[{''.join(vocabulary.private_letters)}]{{{vocabulary.min_run},}}", re.IGNORECASE)
    plain = [line for line in lines if not run.search(line)]
    changed = []
    batches = [plain[i : i + _BATCH] for i in range(0, len(plain), _BATCH)]
    for batch in progress(batches, "comparing plain text", unit="batch"):
        before, after = base.encode_batch(batch), merged.encode_batch(batch)
        changed += [
            line
            for line, old, new in zip(batch, before, after, strict=True)
            if old.ids != new.ids or old.offsets != new.offsets or base.decode(old.ids) != merged.decode(new.ids)
        ]
    _guarantee(not changed, f"{len(changed)} of {len(plain)} plain lines changed, for example {changed[:1]}")
    return {"plain_lines": len(plain), "plain_lines_changed": len(changed), "lines_with_domain_sequences": len(lines) - len(plain)}


def prove_domain(
    domain: Tokenizer, merged: Tokenizer, id_map: dict[int, int], vocabulary: DomainVocabulary, sequences: list[str]
) -> dict[str, Any]:
    """Every domain sequence gets the domain tokenizer's tokens, by the ordinary and by the fast path, and decodes to itself."""
    wanted = [[id_map[i] for i in e.ids] for e in domain.encode_batch(sequences)]
    ordinary = [e.ids for e in merged.encode_batch(sequences, add_special_tokens=False)]
    fast = [e.ids for e in merged.encode_batch(vocabulary.to_private(sequences), add_special_tokens=False)]
    long_enough = [len(sequence) >= vocabulary.min_run for sequence in sequences]
    changed = sum(
        f != w or (o != w and is_run) for o, f, w, is_run in zip(ordinary, fast, wanted, long_enough, strict=True)
    )  # shorter ones are text to the ordinary path
    _guarantee(changed == 0, f"{changed} of {len(sequences)} domain sequences are tokenised otherwise than by the domain tokenizer")
    failures = sum(merged.decode(ids) != sequence for ids, sequence in zip(wanted, sequences, strict=True))
    _guarantee(failures == 0, f"{failures} of {len(sequences)} domain sequences do not decode to themselves")
    return {
        "domain_sequences": len(sequences),
        "domain_sequences_changed": changed,
        "round_trip_failures": failures,
        "bases_per_token_after": sum(map(len, sequences)) / sum(map(len, wanted)),
    }


def prove_reachable(domain: Tokenizer, seen: Sequence[str]) -> dict[str, Any]:
    """Every domain token is produced by some sequence: one of `seen`, or one built for it."""
    model = domain.get_vocab()
    prefix = domain.model.continuing_subword_prefix
    used = {i for e in domain.encode_batch(list(seen)) for i in e.ids}
    unused = [token for token, i in model.items() if i not in used and not token.startswith("[")]
    starts = [token for token in model if not token.startswith((prefix, "["))]
    unreachable = []
    for token in unused:
        built = [token] if not token.startswith(prefix) else [start + token.removeprefix(prefix) for start in starts]
        if not any(token in e.tokens for e in domain.encode_batch(built)):
            unreachable.append(token)
    _guarantee(not unreachable, f"{len(unreachable)} domain tokens can never be produced, for example {unreachable[:3]}")
    return {"unreachable_tokens": len(unreachable), "tokens_unused_in_train": len(unused)}


def describe_base(base: Tokenizer, sequences: list[str]) -> dict[str, Any]:
    """What the base tokenizer alone makes of domain sequences."""
    encoded = base.encode_batch(sequences, add_special_tokens=False)
    tokens = sum(len(e.ids) for e in encoded)
    unknown_token = getattr(base.model, "unk_token", None)
    unknown = sum(token == unknown_token for e in encoded for token in e.tokens)
    return {"bases_per_token_before": sum(map(len, sequences)) / tokens, "unknown_share_before": unknown / tokens}


def _guarantee(holds: bool, otherwise: str) -> None:
    if not holds:
        raise DataError(
            f"merge: a guarantee does not hold: {otherwise}; nothing was written. Please report the base tokenizer and the recipe"
        )
