"""The strategy `isolate`: domain tokens in a private alphabet, inside one stock tokenizer.json.

A text passes these parts of the merged tokenizer (WordPiece base, DNA):

    "TATA box: GATTACAGATTACA"
      normaliser   runs of at least `min_run` nucleotide letters -> private letters, then the base's normaliser
    "tata box: ꓖꓐꓔꓔꓐꓚꓐꓖꓐꓔꓔꓐꓚꓐ"
      pre-tokenizer   private runs isolated, in pieces of `piece_residues`; then the base's pre-tokenizer
      model           base vocabulary, ids unchanged, then the domain tokens spelt in private letters
      decoder         the base's decoder, pieces of one run joined, private letters -> residues

Base text has no private letter, so no domain token can match in it; a private run has no base letter, so no base token can match
in that. Everything here is pure: JSON in, JSON out.
"""

from __future__ import annotations

import copy
from typing import Any

from biollm.core.errors import ConfigError
from biollm.modeling.vocabulary import DomainVocabulary
from tokenizers import Tokenizer

# Blocks of letters without case and without decomposition (category Lo) that BERT's normaliser lets through. Private-use code
# points would be the obvious choice, but it deletes them (category Co).
_BLOCKS = {"Lisu": (0xA4D0, 0xA4F7), "Vai": (0xA510, 0xA5FF), "Yi": (0xA016, 0xA0FF)}


def choose_private_letters(residues: str, base: Tokenizer) -> dict[str, str]:
    """One private letter per residue, from the first block that this base leaves alone (checked, not assumed).

    Raises ConfigError if the base uses or changes letters of every block.
    """
    used = {letter for token in base.get_vocab() for letter in token}
    for first, last in _BLOCKS.values():
        letters = [chr(code) for code in range(first, last + 1)][: len(residues)]
        survive = base.normalizer is None or base.normalizer.normalize_str("".join(letters)) == "".join(letters)
        if survive and not used.intersection(letters):
            return dict(zip(residues, letters, strict=True))
    raise ConfigError(
        f"the base tokenizer uses or changes letters of every block that could be private ({', '.join(_BLOCKS)}); cannot isolate"
    )


def check_base(base: dict[str, Any], piece_residues: int) -> None:
    """Refuse bases that this strategy does not know how to extend. `base` is the content of its tokenizer.json."""
    kind = base["model"].get("type")
    if kind != "WordPiece":
        raise ConfigError(f"the base tokenizer is {kind}; merge.strategy 'isolate' is built for WordPiece bases so far")
    ids = {*base["model"]["vocab"].values(), *(token["id"] for token in base["added_tokens"])}
    if ids != set(range(len(ids))):
        raise ConfigError(
            f"the base tokenizer's ids are not 0 to {len(ids) - 1}: {len(ids)} tokens, largest id {max(ids)}; repair it first"
        )
    limit = base["model"]["max_input_chars_per_word"]
    if piece_residues > limit:
        raise ConfigError(
            f"tokenizer.piece_residues is {piece_residues}; this base reads words of at most {limit} letters: set it to {limit}"
        )


def merge_tokenizers(base: dict[str, Any], domain: dict[str, Any], vocabulary: DomainVocabulary) -> tuple[dict[str, Any], dict[int, int]]:
    """The merged tokenizer.json and the map from domain ids to merged ids. Base ids stay; new ids follow, in domain order."""
    letters = vocabulary.private_letters
    table = str.maketrans(letters)
    new_tokens = sorted((i, token) for token, i in domain["model"]["vocab"].items() if token != domain["model"]["unk_token"])
    id_map = {domain_id: vocabulary.base_vocab_size + position for position, (domain_id, _) in enumerate(new_tokens)}

    merged = copy.deepcopy(base)
    merged["truncation"] = merged["padding"] = None
    merged["model"]["vocab"] |= {token.translate(table): id_map[domain_id] for domain_id, token in new_tokens}
    private = f"[{''.join(letters.values())}]"
    merged["normalizer"] = _sequence("normalizers", *_residues_to_private(letters, vocabulary.min_run), base["normalizer"])
    merged["pre_tokenizer"] = _sequence(
        "pretokenizers",
        {"type": "Split", "pattern": {"Regex": f"{private}{{1,{vocabulary.piece_residues}}}"}, "behavior": "Isolated", "invert": False},
        base["pre_tokenizer"],
    )
    merged["decoder"] = _sequence(
        "decoders",
        base["decoder"],
        {"type": "Fuse"},
        _replace({"Regex": f"(?<={private}) (?={private})"}, ""),
        *(_replace({"String": letter}, residue) for residue, letter in letters.items()),
    )
    return merged, id_map


def _residues_to_private(letters: dict[str, str], min_run: int) -> list[dict[str, Any]]:
    """Normaliser rules that turn each residue of a long enough run into its private letter.

    A rule replaces by a constant, so there is one per residue; whether a letter stands in a run of `min_run` is asked by looking
    around it: j letters up to and with it, and min_run - j behind it, for some j. Earlier rules have already replaced other
    residues, so a run may hold both spellings.
    """
    run = "".join(letters) + "".join(letters).lower() + "".join(letters.values())
    rules = []
    for residue, letter in letters.items():
        around = "|".join(f"(?<=[{run}]{{{j}}})(?=[{run}]{{{min_run - j}}})" for j in range(1, min_run))
        around += f"|(?<=[{run}]{{{min_run}}})"
        rules.append(_replace({"Regex": f"[{residue}{residue.lower()}](?:{around})"}, letter))
    return rules


def _replace(pattern: dict[str, str], content: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": pattern, "content": content}


def _sequence(members: str, *parts: dict[str, Any] | None) -> dict[str, Any]:
    return {"type": "Sequence", members: [part for part in parts if part is not None]}
