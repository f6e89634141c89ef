"""The proof that a merge is lossless. Any broken guarantee stops the stage; what was checked goes into its facts."""

from __future__ import annotations

import gzip
import itertools
import string
import unicodedata
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import regex

from biollm.core.errors import DataError
from biollm.core.files import canonical_json
from biollm.core.progress import progress
from biollm.merge.continuation import expand_ids
from biollm.modeling.encoding import sequence_encoder
from biollm.modeling.vocabulary import Domain, DomainVocabulary, unknown_id
from tokenizers import Tokenizer

_BATCH = 1000
EXAMPLES = 10
_WAYS = 16  # words tried at once for a token that its likeliest word does not hold
_SHORT = 6  # residues that no domain reads as a run


def read_lines(files: Iterable[Path]) -> list[str]:
    """The non-empty lines of text files, gzipped or not. Raises DataError naming a file that is not UTF-8."""
    lines: list[str] = []
    for file in files:
        try:
            content = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
            lines += [line for line in content.decode("utf-8").splitlines() if line.strip()]
        except UnicodeDecodeError as error:
            raise DataError(f"{file.name}: not UTF-8 text (byte {error.start}); save it as UTF-8, or name another file") from None
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(f"{file.name}: cannot be read as gzipped text: {error}; fetch it again") from error
    return lines


def sample_lines(sources: Sequence[Sequence[str]], number: int) -> list[str]:
    """Up to `number` lines, an equal share of each source (all of those that have less), evenly spread over it."""
    sampled: list[str] = []
    for done, lines in enumerate(sorted(sources, key=len)):
        share = min(len(lines), (number - len(sampled)) // (len(sources) - done))
        sampled += [lines[i * len(lines) // share] for i in range(share)]
    return sampled


def sequence_pattern(domains: Sequence[Domain]) -> regex.Pattern[str]:
    """What the merged tokenizer reads as a sequence: a text without a match must not change.

    Tags come first, as in the normaliser: a protein between tags may hold a run of DNA letters. A match's group is its domain's modality.
    """
    tags, runs = [], []
    for domain in domains:
        letters = "".join(regex.escape(residue) for residue in domain.units)
        letters += letters.lower() if domain.folds_case and domain.case == "any" else ""
        if domain.tags:
            tags.append(f"(?<=<{domain.modality}>)(?P<{domain.modality}>[{letters}]+)(?=</{domain.modality}>)")
        if domain.min_run:
            run = rf"(?P<{domain.modality}>[{letters}]{{{domain.min_run},}}+)"
            runs.append(rf"(?<![\p{{L}}\p{{M}}\p{{N}}]){run}(?![\p{{L}}\p{{M}}\p{{N}}])")
    return regex.compile("|".join([*tags, *runs]) or r"(?!)")


def prove_base_ids(base: Tokenizer, merged: Tokenizer) -> dict[str, Any]:
    """Every base token keeps its id, special ones included."""
    moved = [token for token, i in base.get_vocab().items() if merged.token_to_id(token) != i]
    _guarantee(not moved, f"{len(moved)} base tokens changed their id, for example {moved[:3]}")
    return {"base_tokens_moved": len(moved)}


def prove_plain_text(base: Tokenizer, merged: Tokenizer, vocabulary: DomainVocabulary, lines: list[str]) -> dict[str, Any]:
    """Every line without domain sequences keeps its tokens, their places and its decoded text.

    Raises DataError if more than half of the lines hold what is read as a sequence: these are rewritten, and too few are left.
    """
    sequences = sequence_pattern(vocabulary.isolated)
    plain = [line for line in lines if not sequences.search(line)]
    if 2 * len(plain) < len(lines):
        found = next(match.group() for line in lines if (match := sequences.search(line)))
        raise DataError(
            f"merge.plain_text: {len(lines) - len(plain)} of {len(lines)} lines hold what the merged tokenizer reads as a sequence, for "
            f"example {found[:40]!r}, so too few are left to prove that text does not change; name ordinary text, or let fewer words count "
            "as sequences (merge.domains: case: upper, a larger min_run, or runs: false)"
        )
    changed = [line for batch in _batches(plain, "comparing plain text") for line in _changed(base, merged, batch)]
    _guarantee(not changed, f"{len(changed)} of {len(plain)} plain lines changed, for example {changed[:1]}")
    return {"plain_lines": len(plain), "plain_lines_changed": len(changed), "lines_with_domain_sequences": len(lines) - len(plain)}


def _changed(base: Tokenizer, merged: Tokenizer, lines: list[str]) -> list[str]:
    before, after = base.encode_batch(lines), merged.encode_batch(lines)
    return [
        line
        for line, old, new in zip(lines, before, after, strict=True)
        if old.ids != new.ids or old.offsets != new.offsets or base.decode(old.ids) != merged.decode(new.ids)
    ]


def cut_sequences(text: str, sequences: regex.Pattern[str], domains: Sequence[Domain]) -> tuple[list[str], list[str]]:
    """The sequences of a text as decode gives them back (in upper case where the domain reads both cases), and the text around them."""
    folds = {domain.modality for domain in domains if domain.folds_case}
    inside, around, at = [], [], 0
    for match in sequences.finditer(text):
        inside.append(match.group().upper() if match.lastgroup in folds else match.group())
        around.append(text[at : match.start()])
        at = match.end()
    return inside, [*around, text[at:]]


def runs_of_others(domain: Domain, earlier: Sequence[Domain], sequences: Iterable[str]) -> set[str]:
    """The sequences that are runs of an earlier domain as well (RNA without U is DNA): bare in a text, they are read as that one's."""
    runs = sequence_pattern([*earlier, domain])
    return {sequence for sequence in sequences if (match := runs.fullmatch(sequence)) and match.lastgroup != domain.modality}


def prove_domain(
    domain: Domain,
    tokenizer: Tokenizer,
    merged_json: dict[str, Any],
    id_map: dict[int, int],
    sequences: list[str],
    earlier: Sequence[Domain] = (),
) -> dict[str, Any]:
    """Every sequence gets the domain tokenizer's tokens, bare, in prose, between tags and by the fast path, and decodes to itself.

    One of them, shortened to what would be text without tags, is tried between tags too. earlier: the domains merged before this one;
    a sequence that is a run of one of these is not tried bare and in prose.
    """
    merged = Tokenizer.from_str(canonical_json(merged_json))
    wanted = [[id_map[i] for i in e.ids] for e in tokenizer.encode_batch(sequences, add_special_tokens=False)]
    fast = sequence_encoder(merged_json, domain).encode(sequences)
    differing = [sequence for sequence, want, ids in zip(sequences, wanted, fast, strict=True) if ids.tolist() != want]
    _guarantee(not differing, f"the fast path reads {len(differing)} sequences otherwise, for example {differing[:1]}")
    ways = {"in units": domain.to_private(sequences)}
    if domain.min_run:
        ways["as a run"] = sequences
        ways["in prose"] = [f"the TATA box of {sequence}, and so on" for sequence in sequences]
    if domain.tags:
        ways["between tags"] = [f"of <{domain.modality}>{sequence}</{domain.modality}>." for sequence in sequences]
    if domain.tags and domain.case == "any" and domain.folds_case:
        ways["between tags in lower case"] = [text.lower() for text in ways["between tags"]]
    others = runs_of_others(domain, earlier, sequences) if domain.min_run else set()
    changed = 0
    for way, texts in ways.items():
        for sequence, want, found in zip(sequences, wanted, merged.encode_batch(texts, add_special_tokens=False), strict=True):
            if way in ("as a run", "in prose") and (len(sequence) < (domain.min_run or 0) or sequence in others):
                continue  # a short one is text
            own = [i for i in found.ids if i in domain.ids]
            whole = found.ids == want if way in ("in units", "as a run") else own == want
            decoded = merged.decode(found.ids)
            changed += not whole or sequence not in decoded
            _guarantee(
                changed == 0, f"the {domain.modality} sequence {sequence[:40]}… gets other tokens {way} than from the domain tokenizer"
            )
    if domain.tags and sequences:
        short = sequences[0][:_SHORT]
        want = [id_map[i] for i in tokenizer.encode(short, add_special_tokens=False).ids]
        found = merged.encode(tagged := f"of <{domain.modality}>{short}</{domain.modality}>.", add_special_tokens=False)
        _guarantee([i for i in found.ids if i in domain.ids] == want, f"{tagged!r} is not read as a sequence between tags: {found.tokens}")
    failures = sum(merged.decode(ids) != sequence for ids, sequence in zip(wanted, sequences, strict=True))
    _guarantee(failures == 0, f"{failures} of {len(sequences)} {domain.modality} sequences do not decode to themselves")
    return {
        "sequences": len(sequences),
        "sequences_changed": changed,
        "runs_of_earlier_domains": sum(sequence in others for sequence in sequences),
        "round_trip_failures": failures,
        "residues_per_token_after": sum(map(len, sequences)) / sum(map(len, wanted)),
    }


def prove_reachable(domain: Domain, merged: Tokenizer) -> dict[str, Any]:
    """Every token of a domain of sequences is produced by some sequence.

    A token that BPE or Unigram ever produces is also produced for its residues alone; one that continues a WordPiece word, for some
    token that starts one and its residues. All starts of a word are tried before a token counts as unreachable, but the likeliest first:
    thousands of tokens take seconds. Scaffold tokens are what private letters outside of sequences become.
    """
    units = {unit: residue for residue, unit in domain.model_units.items()}
    spelt = regex.compile("|".join(regex.escape(unit) for unit in sorted(units, key=len, reverse=True)))
    tokens = {i: str(merged.id_to_token(i)) for i in domain.ids[domain.scaffold_tokens :]}
    residues = {i: "".join(units[unit] for unit in spelt.findall(token)) for i, token in tokens.items()}
    continuing = {i for i, token in tokens.items() if not token.startswith(domain.model_mark)}
    starts = dict.fromkeys(sorted((residues[i] for i in tokens if i not in continuing), key=len, reverse=True))
    limit = domain.piece_residues or 10**9
    ways = {i: _words_with(residues[i], starts, limit) if i in continuing else iter([residues[i]]) for i in tokens}
    waiting = dict.fromkeys(tokens)
    for number in itertools.chain([1], itertools.repeat(_WAYS)):
        texts = [(i, text) for i in waiting for text in itertools.islice(ways[i], number)]
        if not texts:
            break
        for start in range(0, len(texts), _BATCH):
            wanted, words = zip(*texts[start : start + _BATCH], strict=True)
            found = merged.encode_batch(domain.to_private(list(words)), add_special_tokens=False)
            for i, encoding in zip(wanted, found, strict=True):
                if i in encoding.ids:
                    waiting.pop(i, None)
    unreachable = [residues[i] for i in waiting]
    _guarantee(not unreachable, f"{len(unreachable)} domain tokens can never be produced, for example {unreachable[:3]}")
    return {"unreachable_tokens": len(unreachable)}


def _words_with(end: str, starts: Mapping[str, Any], limit: int) -> Iterator[str]:
    """Words of a start and `end`, at most `limit` residues: first those in which no longer start reaches into the end.

    starts: longest first, as few of these are the beginning of a longer one.
    """
    for reaching in (False, True):
        for start in starts:
            if len(start) + len(end) <= limit and reaching == any(start + end[:i] in starts for i in range(1, len(end) + 1)):
                yield start + end


def prove_random_strings(
    base: Tokenizer,
    merged: Tokenizer,
    vocabulary: DomainVocabulary,
    number: int,
    rng: np.random.Generator,
    pieces: Mapping[int, Sequence[int]] | None = None,
) -> dict[str, Any]:
    """Random strings: those without sequences are encoded and decoded as by the base; of the others, no letter is lost.

    pieces: new id -> ids of base tokens, of the words that were continued: with their ids replaced by these, a string has the base's ids
    (of a base whose new words may cut others anew, None: it is only decoded as by the base).
    """
    sequences = sequence_pattern(vocabulary.isolated)
    failures: list[str] = []
    with_sequences = 0
    continued = len(vocabulary.isolated) < len(vocabulary.domains)
    for batch in _batches(list(random_strings(vocabulary, number, rng)), "encoding random strings"):
        bare = [text for text in batch if not sequences.search(text)]
        failures += _changed_words(base, merged, bare, pieces) if continued else _changed(base, merged, bare)
        holding = [text for text in batch if sequences.search(text)]
        with_sequences += len(holding)
        for text, found in zip(holding, merged.encode_batch(holding, add_special_tokens=False), strict=True):
            decoded = merged.decode(found.ids)
            inside, parts = cut_sequences(text, sequences, vocabulary.isolated)
            # what the base itself loses (case, white space, unknown letters) is not the merge's loss
            around = [base.decode(base.encode(part, add_special_tokens=False).ids) for part in parts]
            if any(part not in decoded for part in inside) or any(_bare(part) not in _bare(decoded) for part in around):
                failures.append(text)
    _guarantee(not failures, f"{len(failures)} of {number} random strings do not come back, for example {failures[:1]}")
    return {"random_strings": number, "random_strings_with_sequences": with_sequences, "random_strings_failed": len(failures)}


def _changed_words(base: Tokenizer, merged: Tokenizer, lines: list[str], pieces: Mapping[int, Sequence[int]] | None) -> list[str]:
    before, after = base.encode_batch(lines), merged.encode_batch(lines)
    return [
        line
        for line, old, new in zip(lines, before, after, strict=True)
        if base.decode(old.ids) != merged.decode(new.ids) or (pieces is not None and expand_ids(new.ids, pieces) != old.ids)
    ]


def random_strings(vocabulary: DomainVocabulary, number: int, rng: np.random.Generator) -> Iterator[str]:
    """Strings of words, punctuation, any Unicode, and sequences of the domains, bare and between tags."""
    private = "".join(letter for domain in vocabulary.isolated for unit in domain.units.values() for letter in unit[:-1])
    words = ["the", "TATA", "box", "of", "p53", "5'-", "-3'", "ACGT", "\t", "\n", "  ", "naïve", "β-catenin", "<dna>", "</protein>", "1e-5"]

    def part() -> str:
        kind = int(rng.integers(8 if vocabulary.isolated else 6))
        if kind < 2:
            return str(rng.choice(words))
        if kind < 4:
            return "".join(rng.choice(list(string.printable), size=rng.integers(1, 12)))
        if kind < 6:
            codes = rng.integers(1, 0x30000, size=rng.integers(1, 9))
            # assigned ones: what an unassigned one is, letter or not, depends on the age of a library
            return "".join(chr(code) for code in codes if unicodedata.category(chr(code)) not in ("Cn", "Cs") and chr(code) not in private)
        domain = vocabulary.isolated[rng.integers(len(vocabulary.isolated))]
        residues = "".join(rng.choice(list(domain.units), size=rng.integers(1, 60)))
        if domain.case == "any" and domain.folds_case and rng.integers(2):
            residues = residues.lower()
        return residues if kind == 6 and domain.min_run else f"<{domain.modality}>{residues}</{domain.modality}>"

    for _ in range(number):
        yield str(rng.choice(["", " "])).join(part() for _ in range(rng.integers(1, 7)))


def _bare(text: str) -> str:
    """A text without the white space at which decoders differ where a sequence begins or ends."""
    return "".join(text.split())


def describe_base(base: Tokenizer, sequences: list[str]) -> dict[str, Any]:
    """What the base tokenizer alone makes of domain sequences."""
    ids = [i for e in base.encode_batch(sequences, add_special_tokens=False) for i in e.ids]
    unknown = unknown_id(base)
    return {
        "residues_per_token_before": sum(map(len, sequences)) / len(ids),
        "unknown_share_before": sum(i == unknown for i in ids) / len(ids),
    }


def examples(base: Tokenizer, merged: Tokenizer, domain: Domain, texts: Sequence[str]) -> list[dict[str, Any]]:
    """How some texts are cut before and after, side by side, as pieces of the text itself."""
    spelling = {unit: residue for residue, unit in domain.model_units.items()}
    units = regex.compile("|".join(regex.escape(unit) for unit in sorted(spelling, key=len, reverse=True)) or r"(?!)")

    def cut(tokenizer: Tokenizer, text: str) -> list[str]:
        encoding = tokenizer.encode(text, add_special_tokens=False)
        return [
            # the place of a mark is that of the letter before it, so places of sequence tokens begin one letter early
            "".join(spelling[unit] for unit in units.findall(token)) if spelling and number in domain.ids else text[start:end]
            for number, token, (start, end) in zip(encoding.ids, encoding.tokens, encoding.offsets, strict=True)
        ]

    return [{"text": text, "before": cut(base, text), "after": cut(merged, text)} for text in texts[:EXAMPLES]]


def _batches(items: list[str], what: str) -> Iterable[list[str]]:
    batches: Iterable[list[str]] = progress([items[i : i + _BATCH] for i in range(0, len(items), _BATCH)], what, unit="batch")
    return batches


def _guarantee(holds: bool, otherwise: str) -> None:
    if not holds:
        raise DataError(
            f"merge: a guarantee does not hold: {otherwise}; nothing was written. Please report the base tokenizer and the recipe"
        )
