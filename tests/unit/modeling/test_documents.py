"""Packed documents: many in one row come out as each alone, on every architecture that can, and a leak between them is seen."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf

from biollm.core.errors import ConfigError
from biollm.modeling import documents
from biollm.modeling.documents import Documents, position_ids, position_offset, reads_documents, set_documents, use_documents

VOCABULARY = 99
SHAPE = {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 64}
ENDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
MASK = 4
ESM = {**SHAPE, "pad_token_id": 1, "mask_token_id": MASK, "position_embedding_type": "rotary"}


def _models() -> dict[str, Callable[[], Any]]:
    grouped = {**SHAPE, **ENDS, "num_key_value_heads": 2}
    local = {"local_attention": 4, "global_attn_every_n_layers": 3, "cls_token_id": 1, "sep_token_id": 2}
    return {
        "bert": lambda: hf.BertForMaskedLM(hf.BertConfig(**SHAPE)),
        "roberta": lambda: hf.RobertaForMaskedLM(hf.RobertaConfig(**SHAPE, **(ENDS | {"pad_token_id": 1}))),
        "modernbert": lambda: hf.ModernBertForMaskedLM(hf.ModernBertConfig(**SHAPE, **ENDS, **local)),
        "esm": lambda: hf.EsmForMaskedLM(hf.EsmConfig(**ESM)),
        "gpt2": lambda: hf.GPT2LMHeadModel(hf.GPT2Config(vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, **ENDS)),
        "llama": lambda: hf.LlamaForCausalLM(hf.LlamaConfig(**grouped)),
        "qwen3": lambda: hf.Qwen3ForCausalLM(hf.Qwen3Config(**grouped, head_dim=8)),
        "mistral": lambda: hf.MistralForCausalLM(hf.MistralConfig(**grouped, sliding_window=3)),
        "gemma3": lambda: hf.Gemma3ForCausalLM(hf.Gemma3TextConfig(**grouped, head_dim=8, sliding_window=4)),
    }


CAN = _models()
CANNOT: dict[str, tuple[Callable[[], Any], str]] = {
    "t5": (
        lambda: hf.T5ForConditionalGeneration(hf.T5Config(vocab_size=VOCABULARY, d_model=32, d_kv=8, d_ff=64, num_layers=1, num_heads=4)),
        "encoder-decoder",
    ),
    "deberta": (lambda: hf.DebertaV2ForMaskedLM(hf.DebertaV2Config(**SHAPE)), "cannot be replaced"),
    "gemma2": (lambda: hf.Gemma2ForCausalLM(hf.Gemma2Config(**SHAPE, num_key_value_heads=2, head_dim=8)), "capped scores"),
    # ESM-2 scales embeddings by the share of masks in the whole row
    "esm2": (lambda: hf.EsmForMaskedLM(hf.EsmConfig(**ESM, token_dropout=True)), "come out differently"),
}  # fmt: skip


@pytest.fixture
def rows() -> list[np.ndarray[Any, Any]]:
    rng = np.random.default_rng(0)
    found = [rng.integers(5, VOCABULARY, size=length) for length in (3, 5, 9, 9)]
    found[2][3] = MASK
    return found


@pytest.fixture(autouse=True)
def nothing_set() -> Iterator[None]:
    yield
    documents._documents = None


def packed(model: Any, rows: list[np.ndarray[Any, Any]], **layout: Any) -> torch.Tensor:
    lengths = tuple(len(row) for row in rows)
    use_documents(model)
    set_documents(Documents(lengths, **layout))
    positions = torch.from_numpy(position_ids(lengths, position_offset(model.config)))[None]
    with torch.no_grad():
        logits: torch.Tensor = model(input_ids=torch.from_numpy(np.concatenate(rows))[None], position_ids=positions).logits[0]
    return logits


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("name", CAN)
def test_packed_logits_are_those_of_each_document_alone(name: str, attention: str, rows: list[np.ndarray[Any, Any]]) -> None:
    torch.manual_seed(0)
    model = CAN[name]().eval()
    model.set_attn_implementation(attention)
    with torch.no_grad():
        alone = torch.cat([model(input_ids=torch.from_numpy(row)[None]).logits[0] for row in rows])
    torch.testing.assert_close(packed(model, rows), alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", CAN)
def test_a_document_does_not_see_its_neighbour(name: str, rows: list[np.ndarray[Any, Any]]) -> None:
    torch.manual_seed(0)
    model = CAN[name]().eval()
    before = packed(model, rows)
    other = [*rows[:2], rows[2][::-1].copy(), rows[3]]
    after = packed(model, other)
    edges = np.cumsum([0, *(len(row) for row in rows)])
    for i in (0, 1, 3):
        torch.testing.assert_close(after[edges[i] : edges[i + 1]], before[edges[i] : edges[i + 1]], rtol=1e-6, atol=1e-6)
    assert (after[edges[2] : edges[3]] - before[edges[2] : edges[3]]).abs().max() > 1e-3


def test_a_planted_leak_is_found(monkeypatch: pytest.MonkeyPatch, rows: list[np.ndarray[Any, Any]]) -> None:
    model = CAN["bert"]().eval()
    assert reads_documents(model, rows) is None
    whole = lambda self: iter([(0, 1, sum(self.lengths))])  # noqa: E731 (one document from end to end)
    monkeypatch.setattr(Documents, "runs", whole)
    assert "come out differently" in str(reads_documents(model, rows))


def test_positions_that_do_not_restart_are_found(monkeypatch: pytest.MonkeyPatch, rows: list[np.ndarray[Any, Any]]) -> None:
    monkeypatch.setattr(documents, "position_ids", lambda lengths, offset=0: np.arange(sum(lengths)) + offset)
    assert "come out differently" in str(reads_documents(CAN["gpt2"]().eval(), rows))


@pytest.mark.parametrize("name", CANNOT)
def test_a_model_that_cannot_says_why_and_is_left_as_it_was(name: str, rows: list[np.ndarray[Any, Any]]) -> None:
    make, why = CANNOT[name]
    model = make().train()
    attention = model.config._attn_implementation
    assert why in str(reads_documents(model, rows))
    assert model.training
    assert model.config._attn_implementation == attention


def test_a_prefix_sees_itself_whole_and_what_follows_sees_what_came(rows: list[np.ndarray[Any, Any]]) -> None:
    torch.manual_seed(0)
    model = CAN["llama"]().eval()
    row = rows[3]
    before = packed(model, [row], prefixes=(4,))
    changed = row.copy()
    changed[3] = 7  # the last of the prefix: the first sees it
    assert (packed(model, [changed], prefixes=(4,))[0] - before[0]).abs().max() > 1e-4
    changed = row.copy()
    changed[6] = 7  # behind the prefix: nobody before it sees it
    torch.testing.assert_close(packed(model, [changed], prefixes=(4,))[:6], before[:6], rtol=1e-6, atol=1e-6)


def test_a_causal_model_can_be_made_to_look_both_ways(rows: list[np.ndarray[Any, Any]]) -> None:
    torch.manual_seed(0)
    model = CAN["llama"]().eval()
    changed = rows[3].copy()
    changed[-1] = 7
    assert torch.equal(packed(model, [changed])[:-1], packed(model, [rows[3]])[:-1])
    difference = packed(model, [changed], bidirectional=True)[0] - packed(model, [rows[3]], bidirectional=True)[0]
    assert difference.abs().max() > 1e-4


def test_gradients_of_checkpointed_layers_are_those_of_stored_ones(rows: list[np.ndarray[Any, Any]]) -> None:
    gradients = []
    for checkpointed in (False, True):
        torch.manual_seed(0)
        model = CAN["llama"]().train()
        use_documents(model)
        if checkpointed:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        lengths = tuple(len(row) for row in rows)
        set_documents(Documents(lengths))
        positions = torch.from_numpy(position_ids(lengths))[None]
        model(
            input_ids=torch.from_numpy(np.concatenate(rows))[None], position_ids=positions, use_cache=False
        ).logits.square().sum().backward()
        gradients.append(model.model.layers[0].self_attn.q_proj.weight.grad)
    torch.testing.assert_close(gradients[1], gradients[0])


def test_a_row_that_was_not_described_is_refused(rows: list[np.ndarray[Any, Any]]) -> None:
    model = CAN["bert"]().eval()
    use_documents(model)
    with pytest.raises(ConfigError, match="needs one flat row"):
        model(input_ids=torch.ones(1, 5, dtype=torch.long))
    set_documents(Documents((2, 2)))
    with pytest.raises(ConfigError, match="needs one flat row"):
        model(input_ids=torch.ones(1, 5, dtype=torch.long))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", ["bert", "llama", "mistral", "modernbert"])
def test_flash_attention_on_a_gpu_gives_what_a_cpu_gives(name: str, rows: list[np.ndarray[Any, Any]]) -> None:
    torch.manual_seed(0)
    model = CAN[name]().eval()
    wanted = packed(model, rows)
    model = model.to("cuda", torch.bfloat16)
    lengths = tuple(len(row) for row in rows)
    positions = torch.from_numpy(position_ids(lengths, position_offset(model.config)))[None].cuda()
    with torch.no_grad():
        found = model(input_ids=torch.from_numpy(np.concatenate(rows))[None].cuda(), position_ids=positions).logits[0]
    torch.testing.assert_close(found.float().cpu(), wanted, rtol=5e-2, atol=5e-2)


def test_on_a_gpu_heads_that_share_their_keys_are_not_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    """The call alone: no test machine has a GPU."""
    asked: dict[str, Any] = {}

    def varlen(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *_: Any, **options: Any) -> torch.Tensor:
        asked.update(options, key_heads=k.shape[1], value_heads=v.shape[1])
        return q

    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", varlen)
    monkeypatch.setattr(documents, "_has_flash", lambda _: True)
    set_documents(Documents((3, 4)))
    query, key = torch.zeros(1, 8, 7, 16), torch.zeros(1, 2, 7, 16)
    attended, _ = documents.attend_within_documents(torch.nn.Identity(), query, key, key, None, is_causal=True)
    assert attended.shape == (1, 7, 8, 16)
    assert (asked["key_heads"], asked["value_heads"], asked["enable_gqa"], asked["window_size"]) == (2, 2, True, (-1, 0))
    documents.attend_within_documents(torch.nn.Identity(), query, query, query, None, is_causal=False)
    assert (asked["enable_gqa"], asked["window_size"]) == (False, (-1, -1))
