"""Surgery on every architecture that we name, tied and untied, with and without an output bias: the same promises hold for each."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch import Tensor, nn

from biollm.core.errors import ConfigError
from biollm.modeling.surgery import (
    PADDING_BIAS,
    TRUE_SIZE,
    describe_architecture,
    plan_growth,
    resize,
    suppressed_ids,
    table_named,
    tables_of,
)

V, N, D = 90, 7, 32
_SHAPE = {"vocab_size": V, "hidden_size": D, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 48}
_IDS = {"pad_token_id": 1, "bos_token_id": 2, "eos_token_id": 3}
_DECODER = _SHAPE | _IDS | {"num_key_value_heads": 1, "max_position_embeddings": 64}


def _nested(tied: bool) -> nn.Module:
    """A model whose config keeps vocab_size one level down."""
    text = _DECODER | {"head_dim": 16, "sliding_window": 8}
    vision = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "image_size": 28,
        "patch_size": 14,
    }
    config = transformers.Gemma3Config(
        text_config=text, vision_config=vision, mm_tokens_per_image=4, image_token_index=5, boi_token_index=6, eoi_token_index=7,
        tie_word_embeddings=tied,
    )  # fmt: skip
    return transformers.Gemma3ForConditionalGeneration(config)


def _t5(tied: bool) -> nn.Module:
    config = transformers.T5Config(
        vocab_size=V, d_model=D, d_kv=16, d_ff=48, num_layers=1, num_heads=2, decoder_start_token_id=1, tie_word_embeddings=tied, **_IDS
    )
    model = transformers.T5ForConditionalGeneration(config)
    if not tied:  # as in Flan-T5: the config ties, the weights differ
        model.lm_head.weight = nn.Parameter(torch.randn(V, D))
    return model


def _build(model: str, config: str, shape: dict[str, Any], **more: Any) -> Callable[[], nn.Module]:
    return lambda: getattr(transformers, model)(getattr(transformers, config)(**shape, **more))


def _cases() -> dict[str, Callable[[], nn.Module]]:
    cases: dict[str, Callable[[], nn.Module]] = {}
    encoder = _SHAPE | _IDS | {"max_position_embeddings": 64}
    for tied in (True, False):
        kind = "tied" if tied else "untied"
        ties = {"tie_word_embeddings": tied}
        cases[f"bert-{kind}-bias"] = _build("BertForMaskedLM", "BertConfig", encoder, **ties)
        cases[f"roberta-{kind}-bias"] = _build("RobertaForMaskedLM", "RobertaConfig", encoder, **ties)
        cases[f"esm-{kind}-bias"] = _build("EsmForMaskedLM", "EsmConfig", encoder | {"mask_token_id": 4}, **ties)
        for bias in (True, False):
            modern = encoder | {"decoder_bias": bias, "cls_token_id": 2, "sep_token_id": 3}
            cases[f"modernbert-{kind}-{'bias' if bias else 'nobias'}"] = _build("ModernBertForMaskedLM", "ModernBertConfig", modern, **ties)
        gpt2 = {"vocab_size": V, "n_embd": D, "n_layer": 1, "n_head": 2, "n_positions": 64, **_IDS}
        cases[f"gpt2-{kind}-nobias"] = _build("GPT2LMHeadModel", "GPT2Config", gpt2, **ties)
        for name in ("Llama", "Qwen2", "Qwen3", "Gemma"):
            shape = _DECODER | ({"head_dim": 16} if name in ("Gemma", "Qwen3") else {})
            cases[f"{name.lower()}-{kind}-nobias"] = _build(f"{name}ForCausalLM", f"{name}Config", shape, **ties)
        cases[f"gemma3nested-{kind}-nobias"] = lambda tied=tied: _nested(tied)  # type: ignore[misc]
        cases[f"t5-{kind}-nobias"] = lambda tied=tied: _t5(tied)  # type: ignore[misc]
    bart = {"vocab_size": V, "d_model": D, "max_position_embeddings": 64, "decoder_start_token_id": 1, "forced_eos_token_id": 3, **_IDS}
    for side in ("encoder", "decoder"):
        bart |= {f"{side}_layers": 1, f"{side}_attention_heads": 2, f"{side}_ffn_dim": 48}
    for name, model in (("Bart", "BartForConditionalGeneration"), ("Marian", "MarianMTModel")):
        cases[f"{name.lower()}-tied-offset"] = _build(model, f"{name}Config", bart)
    return cases


CASES = _cases()
every_architecture = pytest.mark.parametrize("case", CASES)
with_and_without_padding = pytest.mark.parametrize("multiple", [1, 16], ids=["unpadded", "padded"])


def make(case: str) -> nn.Module:
    """A model with tables whose rows differ in length, and with biases that are not the zeros they begin as."""
    torch.manual_seed(0)
    model = CASES[case]().eval()
    done: set[int] = set()
    with torch.no_grad():
        for name in describe_architecture(type(model), model.config).tables:
            table = table_named(model, name)
            if id(table) not in done:
                done.add(id(table))
                table.normal_(std=0.5)
                factors = torch.linspace(0.3, 2.0, V)
                table.mul_(factors if len(table) == 1 else factors.reshape(-1, *[1] * (table.ndim - 1)))
    return model


def new_rows(model: nn.Module) -> Tensor:
    """Draws with the base's mean and covariance that are no longer or shorter than nearly all of the base."""
    base = tables_of(model).input.detach().numpy()
    drawn = np.random.default_rng(0).multivariate_normal(base.mean(0), np.cov(base.T), size=60).astype(np.float32)
    low, high = np.percentile(np.linalg.norm(base, axis=1), [1, 99])
    lengths = np.linalg.norm(drawn, axis=1)
    return torch.from_numpy(drawn[(lengths > low) & (lengths < high)][:N].copy())


def copies(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def logits(model: nn.Module) -> Tensor:
    ids = torch.tensor([[2, 17, 60, 89, 33, 3]])
    inputs = {"input_ids": ids} | ({"decoder_input_ids": ids} if model.config.is_encoder_decoder else {})
    with torch.no_grad():
        out: Tensor = model(**inputs).logits
    return out


def is_tied(model: nn.Module) -> bool:
    return tables_of(model).output is None


@every_architecture
def test_every_table_is_found_and_the_matrix_is_what_its_names_say(case: str) -> None:
    model = make(case)
    tables = tables_of(model)
    assert is_tied(model) == ("-tied-" in case)
    assert (tables.bias is not None) == case.endswith("-bias")
    roles = describe_architecture(type(model), model.config).tables
    found = {id(table_named(model, name)) for name in roles}
    by_shape = {id(t) for t in [*model.parameters(), *model.buffers()] if V in t.shape}
    assert found == by_shape
    assert ("offset" in roles.values()) == case.endswith("-offset")


@every_architecture
@with_and_without_padding
def test_old_rows_stay_new_rows_are_those_given_and_ties_hold(case: str, multiple: int) -> None:
    model = make(case)
    tied, before, rows = is_tied(model), copies(model), new_rows(model)
    growth = resize(model, V + N, rows, pad_to_multiple=multiple)
    assert growth.rows == (V + N if multiple == 1 else 112)
    after = copies(model)
    tables = describe_architecture(type(model), model.config).tables
    assert before.keys() == after.keys()
    for name, was in before.items():
        now = after[name]
        if name not in tables:
            assert torch.equal(now, was), name
            continue
        if tables[name] == "offset":
            assert now.shape == (1, growth.rows)
            assert torch.equal(now[0, :V], was[0])
            assert not now[0, V : V + N].any()
            assert (now[0, V + N :] == PADDING_BIAS).all()
            continue
        assert now.shape == (growth.rows, *was.shape[1:])
        assert torch.equal(now[:V], was), name
        assert torch.isfinite(now).all(), name
        if tables[name] == "bias":
            assert torch.allclose(now[V : V + N], was.mean().expand(N))
            assert (now[V + N :] == PADDING_BIAS).all()
        else:
            assert torch.equal(now[V : V + N], rows), name
    assert is_tied(model) == tied
    assert model.config.get_text_config().vocab_size == growth.rows


@every_architecture
@with_and_without_padding
def test_logits_of_base_text_over_base_ids_do_not_change(case: str, multiple: int) -> None:
    """Within one part in 100,000: a matrix product of another width may sum in another order."""
    model = make(case)
    before = logits(model)
    resize(model, V + N, new_rows(model), pad_to_multiple=multiple)
    after = logits(model)
    assert after.shape[-1] == model.config.get_text_config().vocab_size
    torch.testing.assert_close(after[..., :V], before, rtol=1e-5, atol=1e-5)


@every_architecture
def test_a_padding_row_is_never_the_most_likely_token(case: str) -> None:
    """Also where every logit is negative, as in GPT-2: there a row of zeros would win."""
    model = make(case)
    tables = tables_of(model)
    head = tables.output if tables.output is not None else tables.input
    with torch.no_grad():
        head.add_(1.0)  # a direction that all rows share
        growth = resize(model, V + N, new_rows(model), pad_to_multiple=16)
        table = head.double()
        hidden = 0.1 * torch.randn(2000, D, dtype=torch.float64) + torch.tensor([-1.0, 1.0]).repeat(1000)[:, None]
        scores = hidden @ table.T
        assert (scores[::2, :V] < 0).all()
        offset = getattr(model, "final_logits_bias", None)
        scores += sum(row.double() for row in (tables.bias, offset) if row is not None)
    assert (scores[:, : V + N].max(-1).values > scores[:, V + N :].max(-1).values).all()
    shares = scores.softmax(-1)[:, V + N :].max()
    assert shares == 0 if case.endswith(("-bias", "-offset")) else shares <= 1 / V
    assert list(growth.padding_ids) == list(range(V + N, 112))


@every_architecture
@with_and_without_padding
def test_a_stock_library_opens_what_was_saved_and_finds_the_same(case: str, multiple: int, tmp_path: Path) -> None:
    model = make(case)
    base = tables_of(model).input.detach().clone()
    rows = new_rows(model)
    growth = resize(model, V + N, rows, pad_to_multiple=multiple)
    model.save_pretrained(str(tmp_path))
    again = type(model).from_pretrained(str(tmp_path)).eval()
    was, now = model.state_dict(), again.state_dict()
    assert was.keys() == now.keys()
    assert [name for name in was if not torch.equal(was[name], now[name])] == []
    assert is_tied(again) == is_tied(model)
    assert torch.equal(logits(again), logits(model))
    text = again.config.get_text_config()
    assert (text.vocab_size, getattr(text, TRUE_SIZE, None)) == (growth.rows, None if multiple == 1 else V + N)
    assert (text.pad_token_id, text.bos_token_id, text.eos_token_id) == (1, 2, 3)

    plain = transformers.AutoModel.from_pretrained(str(tmp_path))
    table = plain.get_input_embeddings().weight.detach()
    assert torch.equal(table[:V], base)
    assert torch.equal(table[V : V + N], rows)
    low, high = np.percentile(base.norm(dim=1).numpy(), [1, 99])
    assert (table[V : V + N].norm(dim=1) > float(low)).all()
    assert (table[V : V + N].norm(dim=1) < float(high)).all()


@pytest.mark.parametrize("case", [case for case in CASES if case.startswith(("gpt2", "llama", "t5"))])
def test_sampling_never_draws_a_padding_id_not_even_after_save_and_load(case: str, tmp_path: Path) -> None:
    model = make(case)
    resize(model, V + N, torch.zeros(N, D), pad_to_multiple=1024)
    model.save_pretrained(str(tmp_path))
    again = type(model).from_pretrained(str(tmp_path)).eval()
    torch.manual_seed(0)
    drawn = again.generate(
        torch.tensor([[2, 17, 60]] * 64), attention_mask=torch.ones(64, 3), do_sample=True, temperature=20.0, max_new_tokens=8, top_k=0
    )
    assert int(drawn.max()) < V + N


@pytest.mark.parametrize("case", [case for case in CASES if "-untied-" in case])
def test_an_untied_output_table_may_have_rows_of_its_own(case: str) -> None:
    model = make(case)
    rows, others = new_rows(model), torch.randn(N, D)
    resize(model, V + N, rows, new_output_rows_ND=others)
    tables = tables_of(model)
    assert torch.equal(tables.input[V:], rows)
    assert tables.output is not None
    assert torch.equal(tables.output[V:], others)


def test_output_rows_for_a_tied_table_are_refused_before_anything_changes() -> None:
    model = make("llama-tied-nobias")
    with pytest.raises(ConfigError, match="output table is tied to its input table"):
        resize(model, V + N, torch.zeros(N, D), new_output_rows_ND=torch.zeros(N, D))
    assert len(tables_of(model).input) == V


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (torch.zeros(N, D + 1), r"new rows have the shape \(7, 33\), expected \(7, 32\): one row per new token"),
        (torch.full((N, D), float("nan")), "model.embed_tokens.weight: new rows are not finite in float16; choose another initialiser"),
        (torch.full((N, D), 1e5), "model.embed_tokens.weight: new rows are not finite in float16; choose another initialiser"),
    ],
    ids=["wrong width", "not a number", "too large for the format"],
)
def test_rows_that_do_not_fit_are_refused_before_anything_changes(rows: Tensor, message: str) -> None:
    model = make("llama-untied-nobias").half()
    before = copies(model)
    with pytest.raises(ConfigError, match=message):
        resize(model, V + N, rows)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_padded_model_grows_again_over_its_padding() -> None:
    model = make("gpt2-tied-nobias")
    first, second = new_rows(model), torch.randn(20, D)
    resize(model, V + N, first, pad_to_multiple=16)
    assert model.generation_config.suppress_tokens == list(range(V + N, 112))
    with pytest.raises(ConfigError, match="the model has 97 rows; with 22 new tokens that is 119, but the merged tokenizer has 117 tokens"):
        resize(model, V + N + 20, torch.randn(22, D))
    resize(model, V + N + 20, second)
    table = tables_of(model).input
    assert torch.equal(table[V : V + N], first)
    assert torch.equal(table[V + N :], second)
    assert not hasattr(model.config, TRUE_SIZE)
    assert model.generation_config.suppress_tokens is None


def test_rows_of_the_base_that_are_no_tokens_become_new_tokens() -> None:
    """Qwen2 has 151,936 rows, and a tokenizer of 151,665 tokens."""
    model = make("qwen2-tied-nobias")
    old, rows = tables_of(model).input.detach().clone(), new_rows(model)
    growth = resize(model, 80 + N, rows, pad_to_multiple=8)
    assert (growth.base_tokens, growth.vocab_size, growth.rows) == (80, 87, 88)
    assert torch.equal(tables_of(model).input[:80], old[:80])
    assert torch.equal(tables_of(model).input[80:87], rows)


def test_a_special_id_that_would_become_a_new_token_is_refused() -> None:
    model = make("llama-tied-nobias")
    model.config.eos_token_id = [3, V]
    with pytest.raises(ConfigError, match=r"the model's config: eos_token_id is 90, but the base's tokenizer has 90 tokens"):
        resize(model, V + N, torch.zeros(N, D))


@pytest.mark.parametrize(("multiple", "rows"), [(1, 85), (88, 88)], ids=["unpadded", "padded"])
def test_a_special_id_behind_a_table_that_shrinks_is_refused(multiple: int, rows: int) -> None:
    """90 rows, of which 80 are tokens; 5 new ones make 85: transformers could not open a model whose pad id is 88."""
    model = make("llama-tied-nobias")
    model.config.pad_token_id = 88
    before = copies(model)
    assert plan_growth(V, 5, 85, multiple).rows == rows
    with pytest.raises(
        ConfigError, match=r"config: pad_token_id is 88, but the base's tokenizer has 80 tokens, so that no token would have"
    ):
        resize(model, 85, torch.zeros(5, D), pad_to_multiple=multiple)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_special_id_that_the_base_has_no_row_for_either_stays() -> None:
    """Configs of other vocabularies have them by default, such as GPT-2's 50256; nothing that was there is lost."""
    model = make("gpt2-tied-nobias")
    model.config.eos_token_id = 50256
    resize(model, V + N, torch.zeros(N, D))
    assert model.config.eos_token_id == 50256


def test_a_multiple_below_one_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"pad_to_multiple is 0; expected 1 \(no padding\) or more"):
        plan_growth(90, 7, 97, 0)


def test_suppressed_ids_keep_what_the_base_suppresses_and_free_what_became_a_token() -> None:
    growth = plan_growth(96, 3, 93, 16, true_size=90)
    assert suppressed_ids([5, 90, 95], growth) == [5, 93, 94, 95]
    assert suppressed_ids([90], plan_growth(96, 3, 93, 1, true_size=90)) is None


def test_a_half_precision_model_keeps_its_format() -> None:
    model = make("t5-untied-nobias").to(torch.bfloat16)
    resize(model, V + N, torch.randn(N, D), pad_to_multiple=16)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
