"""The strategy `isolate`: domain tokens in a private alphabet, inside one stock tokenizer.json.

A text passes these parts of the merged tokenizer (uncased WordPiece base, DNA; ߨ is the mark, see spelling.py):

    "TATA box: GATTACAGATTACA"
      normaliser      a mark before every residue of a sequence, then the base's normaliser
    "tata box: ߨgߨaߨtߨtߨaߨcߨaߨgߨaߨtߨtߨaߨcߨa"
      pre-tokenizer   WordPiece: sequences isolated, in pieces of `piece_residues`; then the base's pre-tokenizer
      model           base vocabulary and merges, ids unchanged; behind them the domain's, spelt in units
      decoder         the base's decoder, pieces of one sequence joined, units -> residues

Base text holds no mark, so no domain token can match in it; a sequence holds marks, so no base token or merge can match in that.
What is a sequence: runs of at least `min_run` residue letters (DNA, RNA), and what stands between `<dna>` and `</dna>`.

Rules cost time on every text, even on the many without a sequence, so they are few: one per domain and way of being recognised, and the
codes of residues that are no letters. One look for the tags of all domains comes first; it signs the beginning of a text that holds some.
Without the sign, each rule for what stands between tags fails at the first letter: 0.2 µs, however long the text is. (Runs are not
looked for in this way: Oniguruma gives up a match, not a search, that goes back more than ten million times.)
Setting a mark before *each* letter of a run with one rule: the rule matches no letter, only the place before it, and finds the next
place because \\G holds where the last search began, one letter further. (Rules that look around each letter, one per residue, took 12 to
25 % of the speed; a character map (`Precompiled`), 15 %.)

Everything here is pure: JSON in, JSON out.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from biollm.core.alphabets import Modality
from biollm.core.errors import ConfigError
from biollm.core.files import canonical_json
from biollm.merge.spelling import METASPACE, POOL, START, Base, Spelling, code_places, members, pair, plan_spelling
from biollm.merge.tokenizer_file import check_added_tokens, fold_added_tokens, next_id
from biollm.merge.words import SPACE, is_spaced, original, rewritten, sequence, split
from biollm.modeling.atom_pieces import has_atom_pieces, residue_pieces, unit_of, unit_pieces
from biollm.modeling.domain import SCORE_STEP
from biollm.modeling.vocabulary import Domain, DomainVocabulary
from tokenizers import Tokenizer

# Scores of Unigram pieces are log-probabilities. Scaled by a power of two, which is exact, domain pieces keep their order among
# themselves, and any way through domain pieces beats any way through unknown letters. What stands before a sequence in one word (of a
# base that cuts nowhere, in a text) has a score of its own: small sums add to it exactly if they have no more than some binary places.
_UNIGRAM_SCALE = 2.0**-10
# What may not stand before or behind a run.
_WORD = "[\\p{L}\\p{M}\\p{N}]"


@dataclass(frozen=True)
class Recognition:
    """How sequences of a domain are recognised in a text."""

    case: Literal["upper", "any"]
    min_run: int | None
    tags: bool


@dataclass(frozen=True)
class DomainToken:
    """A token of a domain tokenizer: its id there, its residues, whether it continues a word (WordPiece), its score (Unigram)."""

    id: int
    residues: str
    continuing: bool = False
    score: float = 0.0


def add_domain(
    merged: dict[str, Any],
    vocabulary: DomainVocabulary,
    domain_json: dict[str, Any],
    *,
    name: str,
    modality: Modality,
    kind: str,
    residues: str,
    piece_residues: int | None,
    recognition: Recognition,
) -> tuple[dict[str, Any], DomainVocabulary, dict[int, int]]:
    """A tokenizer.json with one more domain, its sidecar, and the map from domain ids to merged ids.

    merged: a base tokenizer.json, or one that domains were merged into before; all its ids stay as they are.
    Raises ConfigError if the base and the domain tokenizer cannot go together; says why and what to do.
    """
    stripped = strip_recognition(merged, vocabulary.isolated)
    bare = fold_added_tokens(stripped)
    base = Base(bare, Tokenizer.from_str(canonical_json(rewritten(bare, POOL))))
    if base.kind == "WordPiece":
        piece_residues = 1 if kind == "char" else piece_residues
    elif kind != "kmer":
        piece_residues = None  # only WordPiece must be spared long words
    _check_kinds(base, kind)
    check_added_tokens(stripped, bare)
    if modality == "smiles" and kind == "wordpiece" and not _ends_between_atoms(domain_json, piece_residues):
        raise ConfigError("this SMILES tokenizer cuts through atoms, as those of earlier versions do; train it again (biollm tokenizer)")
    spelling = plan_spelling(base, residues, taken=_private(vocabulary.isolated))
    _check_pieces(base, spelling, piece_residues)
    first_id = next_id(bare)
    tokens = domain_tokens(domain_json)
    scaffold, id_map = _extend_model(bare, base, spelling, tokens, domain_json, first_id)
    domain = Domain(
        name=name,
        strategy="isolate",
        modality=modality,
        kind=kind,
        first_id=first_id,
        new_tokens=scaffold + len(tokens),
        scaffold_tokens=scaffold,
        mark=spelling.mark,
        model_mark=spelling.model_mark,
        units=spelling.units,
        model_units=spelling.model_units,
        case=recognition.case,
        min_run=recognition.min_run,
        tags=recognition.tags,
        # scores with more places, as earlier versions gave them: what stands before a sequence would decide how they are rounded
        needs_cut=spelling.needs_cut or piece_residues is not None or any(token.score % SCORE_STEP for token in tokens),
        piece_residues=piece_residues,
    )
    extended = vocabulary.model_copy(update={"domains": [*vocabulary.domains, domain]})
    return add_recognition(bare, extended.isolated), extended, id_map


def domain_tokens(domain: dict[str, Any]) -> list[DomainToken]:
    """The tokens of a domain tokenizer.json in id order, without its unknown token."""
    model = domain["model"]
    if model["type"] == "Unigram":
        unknown = model["unk_id"]
        return [DomainToken(i, text, score=score) for i, (text, score) in enumerate(model["vocab"]) if i != unknown]
    prefix = (model.get("continuing_subword_prefix") or "") if model["type"] == "WordPiece" else ""
    found = sorted((i, token) for token, i in model["vocab"].items() if token != model.get("unk_token"))
    return [DomainToken(i, token.removeprefix(prefix), continuing=bool(prefix) and token.startswith(prefix)) for i, token in found]


def _check_kinds(base: Base, kind: str) -> None:
    serves = {"BPE": ("bpe", "char"), "WordPiece": ("wordpiece", "kmer", "char"), "Unigram": ("unigram", "kmer", "char")}
    if base.kind not in serves:
        raise ConfigError(f"the base tokenizer's model is {base.kind}; biollm merges into {', '.join(serves)}")
    if kind not in serves[base.kind]:
        raise ConfigError(
            f"a domain tokenizer of kind '{kind}' cannot live in a {base.kind} base; train one of kind {' or '.join(serves[base.kind])} "
            "(tokenizer.kind)"
        )
    if base.kind == "Unigram" and (best := max(base.json["model"]["vocab"], key=lambda piece: piece[1]))[1] > 0:
        raise ConfigError(
            f"the base tokenizer's piece {best[0]!r} has the score {best[1]}; scores of a Unigram model are logarithms of probabilities, "
            "at most 0, and beside larger ones no sequence would be recognised: choose a base with such scores; strategy 'isolate' cannot "
            "serve this one"
        )
    if base.json["decoder"] is None:
        raise ConfigError("the base tokenizer has no decoder, so its tokens cannot be read back as text; give it one first")


def _ends_between_atoms(domain: dict[str, Any], piece_residues: int | None) -> bool:
    pattern = (domain["pre_tokenizer"] or {}).get("pattern", {}).get("Regex")
    return piece_residues is not None and pattern == residue_pieces(piece_residues)


def _check_pieces(base: Base, spelling: Spelling, piece_residues: int | None) -> None:
    if base.kind != "WordPiece":
        return
    limit, letters = base.json["model"]["max_input_chars_per_word"], max(map(len, spelling.units.values()))
    if piece_residues is None or letters * piece_residues > limit:
        raise ConfigError(
            f"the domain tokenizer cuts sequences into pieces of {piece_residues} residues, which are spelt with up to {letters} letters "
            f"each; this base reads words of at most {limit} letters: train it with tokenizer.piece_residues {limit // letters}"
        )


# --- the model ---------------------------------------------------------------------------------------------------------------


def _extend_model(
    bare: dict[str, Any], base: Base, spelling: Spelling, tokens: list[DomainToken], domain: dict[str, Any], first_id: int
) -> tuple[int, dict[int, int]]:
    """Put the domain's tokens into the model of `bare`. Returns how many scaffold tokens come first, and the id map."""
    model = bare["model"]
    spell = spelling.model_units
    if base.kind == "BPE":
        scaffold, merges = _units_by_merging(spelling, base)
        for position, token in enumerate(scaffold):
            model["vocab"][token] = first_id + position
        merges += [[_spell(part, spell) for part in pair(merge)] for merge in domain["model"].get("merges", [])]
        # a base of older make writes its merges as "a b"; the letters of both forms are the same
        model["merges"] = [*(pair(merge) for merge in model["merges"]), *merges]
    else:
        scaffold = []
    id_map = {token.id: first_id + len(scaffold) + position for position, token in enumerate(tokens)}
    if base.kind == "Unigram":
        model["vocab"] += [[_spell(token.residues, spell), token.score * _UNIGRAM_SCALE] for token in tokens]
    else:
        prefix = model.get("continuing_subword_prefix") or ""
        model["vocab"] |= {(prefix if token.continuing else "") + _spell(token.residues, spell): id_map[token.id] for token in tokens}
    return len(scaffold), id_map


def _units_by_merging(spelling: Spelling, base: Base) -> tuple[list[str], list[list[str]]]:
    """Tokens and merges that build every unit from the characters of the base: the bytes of private letters first.

    A unit is built from the left: mark + residue, or ((mark + private letter) + …) + letter.
    """
    merges: list[list[str]] = []
    scaffold: list[str] = []

    def build(parts: list[str], keep: bool) -> str:
        left = parts[0]
        for i, right in enumerate(parts[1:], start=2):
            if [left, right] not in merges:
                merges.append([left, right])
                if keep or i < len(parts):
                    scaffold.append(left + right)
            left += right
        return left

    joined = {}
    for letter in spelling.letters:
        characters = list(base.model_spelling(letter))
        if len(characters) == 1:
            scaffold.append(characters[0])
        joined[letter] = build(characters, keep=True)
    for unit in spelling.units.values():
        parts = [joined[letter] for letter in unit[:-1]] + [base.model_spelling(base.normalise(unit)[-1])]
        build(parts, keep=False)
    return scaffold, merges


def _spell(residues: str, units: dict[str, str]) -> str:
    return "".join(units[residue] for residue in residues)


# --- recognising sequences in a text, and reading them back ------------------------------------------------------------------


def add_recognition(bare: dict[str, Any], domains: list[Domain]) -> dict[str, Any]:
    """A tokenizer.json whose normaliser, pre-tokenizer and decoder know the domains."""
    if not domains:
        return copy.deepcopy(bare)
    return copy.deepcopy(bare) | _with_rules(bare, domains, _decoders(bare, domains))


def _with_rules(bare: dict[str, Any], domains: list[Domain], decoders: list[dict[str, Any]]) -> dict[str, Any]:
    """The base's normaliser, pre-tokenizer and decoder with the rules of domains around them."""
    words = rewritten(bare, _private(domains))
    front, back = _normalisers(bare, domains)
    before, behind = _pre_tokenizers(bare, domains)
    return {
        "normalizer": sequence("normalizers", [*front, *members(words["normalizer"], "normalizers"), *back]),
        "pre_tokenizer": sequence("pretokenizers", [*before, *members(words["pre_tokenizer"], "pretokenizers"), *behind]),
        "decoder": sequence("decoders", [*members(bare["decoder"], "decoders"), *decoders]),
    }


def strip_recognition(merged: dict[str, Any], domains: list[Domain]) -> dict[str, Any]:
    """The inverse of `add_recognition`: what is left when the rules of `domains` are taken away.

    Raises ConfigError if the rules are not those that this version writes.
    """
    if not domains:
        return copy.deepcopy(merged)
    bare = copy.deepcopy(original(merged, _private(domains)))
    for key, name in (("normalizer", "normalizers"), ("pre_tokenizer", "pretokenizers"), ("decoder", "decoders")):
        bare[key] = sequence(name, members(bare[key], name))
    front, back = _normalisers(bare, domains)
    before, behind = _pre_tokenizers(bare, domains)
    decoders = _decoders(bare, domains)
    parts: tuple[tuple[str, str, list[dict[str, Any]], list[dict[str, Any]]], ...] = (
        ("normalizer", "normalizers", front, back),
        ("pre_tokenizer", "pretokenizers", before, behind),
        ("decoder", "decoders", [], decoders),
    )
    for key, name, first, last in parts:
        rules = members(bare[key], name)
        bare[key] = sequence(name, rules[len(first) : len(rules) - len(last)])
    again = _with_rules(bare, domains, decoders)
    for key, name, *_ in parts:
        if members(again[key], name) != members(merged[key], name):
            raise ConfigError(
                f"the {key} of this merged tokenizer was not written by this version of biollm; merge all domains again in one go"
            )
    return bare


def _normalisers(bare: dict[str, Any], domains: list[Domain]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rules before and behind the base's. Tags come before runs: a protein between tags may hold a run of DNA letters."""
    marks = _marks(domains)
    in_runs = [domain for domain in domains if domain.min_run]
    # the first run rule sees tags of its own too, which saves a rule; what stands between other tags must be marked before it
    tagged = [domain for domain in domains if domain.tags and domain not in in_runs[:1]]
    start, sign = METASPACE if _prepends(bare) else _start(bare, domains), _tags_sign(domains)
    rules = [_sign_tags(tagged, start, sign)] if tagged else []
    for position, domain in enumerate(tagged):
        leading = f"\\A(?:{sign})?+\\K(?={_space_and_sequence(domains)})" if position == 0 and _needs_no_start(bare, domains) else "(?!)"
        rules += [_mark_between_tags(domain, start + sign, leading), *_escape(domain, start + sign)]
    if not tagged and _needs_no_start(bare, domains):
        rules.append(_replace({"Regex": f"\\A(?={_space_and_sequence(domains)})"}, _leading_mark(domains)))
    rules += [_mark_runs(domain, tags=domain.tags and domain not in tagged) for domain in in_runs]
    rules += [rule for domain in domains for rule in _fold_case(domain)]
    if _prepends(bare):  # the base puts a ▁ before every text, also before a sequence, where it does not belong
        return [], [*rules, _replace({"Regex": f"\\A{start}(?:(?:{sign})?+(?=[{marks}])|\\K{sign})"}, "")]
    if _spaced(bare, domains):  # the space before the first word; not before a sequence, nor before a space that stands there
        remove = f"\\A{start}(?:(?:{sign})?+(?=[{marks}{METASPACE}{SPACE}])|\\K{sign})"
        return [{"type": "Prepend", "prepend": start}, *rules, _replace({"Regex": remove}, "")], []
    if _needs_no_start(bare, domains):
        return [*rules, *([_replace({"Regex": f"\\A{sign}"}, "")] if tagged else [])], []
    # What is inserted before the first letter of a text has no place in it, and tokenizers (0.23) breaks down at the next step that
    # goes by places (ByteLevel, NFC): so something stands before every text. Prepend gives it a place, a rule would not.
    remove = f"\\A{start}(?:{sign})?+" + (f"(?![{marks}])" if _metaspace(bare) else "")
    return [{"type": "Prepend", "prepend": start}, *rules, _replace({"Regex": remove}, "")], []


def _start(bare: dict[str, Any], domains: list[Domain]) -> str:
    """What stands before a text while its sequences are marked.

    Where it stays until the pre-tokenizer, it begins with a mark, which no text holds: the sign itself may stand in a text.
    """
    if _needs_no_start(bare, domains):
        return ""
    if _spaced(bare, domains):
        return SPACE
    return domains[0].mark + START if _metaspace(bare) else START


def _needs_no_start(bare: dict[str, Any], domains: list[Domain]) -> bool:
    """Whether a base consists of one Metaspace that cuts nowhere (Mistral): nothing in it goes by places.

    It gets no start, which takes 2 % of its speed. The ▁ that Metaspace puts before a sequence is removed behind it; that of a user's own
    space is told from it by a mark before it.
    """
    normalisers, pre_tokenizers = _own_parts(bare, domains)
    return not normalisers and [(part["type"], part.get("split")) for part in pre_tokenizers] == [("Metaspace", False)]


def _spaced(bare: dict[str, Any], domains: list[Domain]) -> bool:
    return is_spaced(*_own_parts(bare, domains), bare.get("added_tokens", []))


def _own_parts(bare: dict[str, Any], domains: list[Domain]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The base's own normalisers and pre-tokenizers, also where rules of domains still stand around them."""
    normalisers, pre_tokenizers = (
        [part for part in members(bare[key], name) if not any(domain.mark in str(part) for domain in domains)]
        for key, name in (("normalizer", "normalizers"), ("pre_tokenizer", "pretokenizers"))
    )
    return normalisers, pre_tokenizers


def _leading_mark(domains: list[Domain]) -> str:
    """What is set before a space before a sequence at the start of a text: the content of a rule that is there for something else."""
    in_runs = [domain for domain in domains if domain.min_run]
    return next((domain.mark for domain in domains if domain.tags and domain not in in_runs[:1]), domains[0].mark)


def _space_and_sequence(domains: list[Domain]) -> str:
    runs = [f"(?=[{_class(domain)}]{{{domain.min_run}}})[{_class(domain)}]++(?!{_WORD})" for domain in domains if domain.min_run]
    return f"[ {METASPACE}](?:{'|'.join([f'[{_marks(domains)}]', *runs])})"


def _marks(domains: list[Domain]) -> str:
    return "".join(domain.mark for domain in domains)


def _prepends(bare: dict[str, Any]) -> bool:
    return any(
        part["type"] == "Prepend" and not part["prepend"].endswith((START, SPACE)) for part in members(bare["normalizer"], "normalizers")
    )


def _tags_sign(domains: list[Domain]) -> str:
    """What stands behind the start of a text that holds tags. No text begins with it, since no text holds a mark."""
    return domains[0].mark + START


def _sign_tags(tagged: list[Domain], start: str, sign: str) -> dict[str, Any]:
    """Sign a text that holds a first tag of some domain: one look for all of them, from the end of the text. (Before a letter, .* goes back
    from one of that letter to the next; so it is faster than a class of all others, and gives up no sooner.)"""
    names = "|".join(domain.modality for domain in tagged)
    return _replace({"Regex": f"(?m)\\A{start}\\K(?=.*<(?:{names})>)"}, sign)


def _from_match_to_match(signed: str, skip: str, found: str, content: str, between: str = "(?!)", leading: str = "(?!)") -> dict[str, Any]:
    """A rule that passes over `skip` to what is `found`, from where the text begins or the last match ended (\\G), and looks nowhere else.

    A text that does not begin with `signed` is left at once. between: what matches where the last match ended, without passing over
    anything. It has to match there once more behind an empty match: the search then goes on one letter further, else it ends.
    leading: what else matches, where a text begins.
    """
    return _replace({"Regex": f"\\G(?:{leading}|{between}|(?:{signed}|(?!\\A))(?:{skip})*+{found})"}, content)


def _mark_between_tags(domain: Domain, signed: str, leading: str) -> dict[str, Any]:
    """Before the first residue behind a tag, and on from residue to residue."""
    letters, name = _class(domain), domain.modality
    between = f"(?=[{letters}])(?:(?<=[{letters}])|(?<=<{name}>))"
    skip = f"[^<]++|<(?!{name}>[{letters}]++</{name}>)"
    return _from_match_to_match(signed, skip, f"<{name}>\\K(?=[{letters}])", domain.mark, between, leading)


def _mark_runs(domain: Domain, tags: bool) -> dict[str, Any]:
    """Runs that are whole words (in "GATTACAGATTACAs" a base merge could join the last residue to the letter behind it), and what
    stands between tags."""
    letters = _class(domain)
    # A run is read to its end only where it begins: looked for at each of its letters, its end takes time by the square of its length.
    # Most residue letters of a text are no sequence: they are left as soon as the letter behind them is seen.
    starts = f"(?<!{_WORD})(?=[{letters}]{{{domain.min_run}}})(?=[{letters}]++(?!{_WORD}))"
    behind = letters
    if tags:
        starts += f"|(?<=<{domain.modality}>)(?=[{letters}]++</{domain.modality}>)"
        behind += "<"
    return _replace({"Regex": f"(?=[{letters}][{behind}])(?:{starts})|\\G(?=[{letters}])(?<=[{letters}])"}, domain.mark)


def _escape(domain: Domain, signed: str) -> list[dict[str, Any]]:
    """Rules that turn a marked residue into its unit, where that is more than the mark before it.

    The letters of a code are set from the last place to the first, each for all residues whose code holds it there.
    """
    codes = {residue: unit[1:-1] for residue, unit in domain.units.items() if not unit.endswith(residue)}
    cased = {unit[1] for residue, unit in domain.units.items() if unit.endswith(residue) and len(unit) == 3}
    rules = [_behind_marks(domain, signed, "(?=[a-z])", letter) for letter in sorted(cased)]
    if not codes:
        return rules
    left, coded, letters = dict(codes), _class_of(codes), "".join(sorted(set("".join(codes.values()))))
    for letter in reversed(code_places(letters)):
        if not (holding := [residue for residue, code in left.items() if code.endswith(letter)]):
            continue
        left |= {residue: left[residue][:-1] for residue in holding}
        rules.append(_behind_marks(domain, signed, f"(?=[{letters}]*+[{_class_of(holding)}])", letter))
    stand_in = next(domain.units[residue][-1] for residue in codes)
    return [*rules, _behind_marks(domain, signed, f"[{letters}]++\\K[{coded}]", stand_in)]


def _behind_marks(domain: Domain, signed: str, place: str, content: str) -> dict[str, Any]:
    """Write `content` behind every mark of a domain where `place` matches."""
    mark = domain.mark
    return _from_match_to_match(signed, f"[^{mark}]++|{mark}(?!{place})", f"{mark}\\K{place}", content)


def _fold_case(domain: Domain) -> list[dict[str, Any]]:
    if domain.case == "upper" or not domain.folds_case:
        return []
    different = [r for r in domain.units if domain.model_units[r][-1] != r.lower()]  # an uncased base folds them itself
    return [_replace({"String": domain.mark + residue.lower()}, domain.units[residue]) for residue in different]


def _class(domain: Domain) -> str:
    """The letters by which a domain's sequences are recognised, as the inside of a character class."""
    residues = "".join(domain.units)
    if domain.case == "any" and domain.folds_case:
        residues += residues.lower()
    return _class_of(residues)


def _class_of(letters: Iterable[str]) -> str:
    """Letters as the inside of a character class."""
    return "".join(letter if letter.isalnum() else "\\" + letter for letter in letters)


def _metaspace(bare: dict[str, Any]) -> bool:
    """Whether the pre-tokenizer puts a ▁ before words, which then also stands before a sequence at the start of a text."""
    return any(part["type"] == "Metaspace" for part in members(bare["pre_tokenizer"], "pretokenizers"))


def _private(domains: list[Domain]) -> str:
    return "".join(domain.letters for domain in domains)


def _pre_tokenizers(bare: dict[str, Any], domains: list[Domain]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    whole = [domain for domain in domains if domain.needs_cut]
    pieces = "|".join(map(_piece, whole))
    cuts = [split(pieces, "Isolated")] if pieces else []
    if not _metaspace(bare) or _spaced(bare, domains):
        return cuts, []
    if _needs_no_start(bare, domains):
        leading, behind = _leading_mark(domains), f"(?={METASPACE}[{_marks(domains)}])"
        start = f"\\A(?:{METASPACE}?{leading}{behind}|{METASPACE}(?=[{_marks(domains)}]))"
    else:
        start = f"\\A{METASPACE}?{_start(bare, domains)}(?:{_tags_sign(domains)})?+"
    if pieces and bare["model"]["type"] == "BPE" and not any(domain.piece_residues for domain in whole):
        # No merge joins a mark to what stands before it: an empty match behind a sequence is cut enough, and one look finds all.
        return [], [split(f"{start}|(?:{pieces})\\K", "Removed")]
    return [], [split(start, "Removed"), *cuts]


def _piece(domain: Domain) -> str:
    """A sequence, or `piece_residues` residues of one, in units as they are behind the base's normaliser."""
    if domain.piece_residues and has_atom_pieces(domain):
        return unit_pieces(domain.model_units, unit_of(domain), domain.piece_residues)
    return f"(?:{unit_of(domain)})" + (f"{{1,{domain.piece_residues}}}" if domain.piece_residues else "+")


def _decoders(bare: dict[str, Any], domains: list[Domain]) -> list[dict[str, Any]]:
    rules: list[dict[str, Any]] = [{"type": "Fuse"}]
    base = Base(bare, Tokenizer.from_str(canonical_json(bare)))
    for domain in domains:
        if domain.piece_residues:
            escapes = domain.letters[1:]
            longest = max(map(len, domain.units.values())) - 2
            unit = "|".join(f"{domain.mark}{f'[{escapes}]{{{n}}}' if n else ''}." for n in range(longest + 1))
            rules.append(_replace({"Regex": f"(?<={unit}) (?={domain.mark})"}, ""))
        read = {residue: base.normalise(unit) for residue, unit in domain.units.items()}
        rules += [_replace({"String": unit}, residue) for residue, unit in read.items() if unit != domain.mark + residue]
        rules.append(_replace({"String": domain.mark}, ""))
    return rules


def _replace(pattern: dict[str, str], content: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": pattern, "content": content}
