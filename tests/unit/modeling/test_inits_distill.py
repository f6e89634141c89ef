from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    BertConfig,
    Gemma3TextConfig,
    LlamaConfig,
    MixtralConfig,
    PreTrainedConfig,
    RobertaConfig,
    T5Config,
)

from biollm.core.errors import ConfigError, DataError
from biollm.modeling import distill as distill_module
from biollm.modeling.distill import Context, DistillSettings, Span, Teacher, contexts_of
from biollm.modeling.inits import FloatMatrix, NewTokens, initialise

_VOCABULARY, _WIDTH = 40, 16
_SIZES = {"vocab_size": _VOCABULARY, "hidden_size": _WIDTH, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
_CONFIGS = {
    "bert": (AutoModel, BertConfig(**_SIZES)),
    "roberta": (AutoModel, RobertaConfig(**_SIZES, pad_token_id=1)),
    "llama": (AutoModelForCausalLM, LlamaConfig(**_SIZES, num_key_value_heads=2)),
    "gemma": (AutoModelForCausalLM, Gemma3TextConfig(**_SIZES, num_key_value_heads=2, head_dim=8)),
    "t5": (AutoModelForSeq2SeqLM, T5Config(vocab_size=_VOCABULARY, d_model=_WIDTH, d_kv=8, d_ff=32, num_layers=2, num_heads=2)),
}
_PIECES = [[5, 6], [7, 8, 9], [6, 5]]


def _model(kind: str) -> nn.Module:
    torch.manual_seed(0)
    factory, config = _CONFIGS[kind]
    assert isinstance(config, PreTrainedConfig)
    model: nn.Module = factory.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.normal_(0, 0.3)
    return model


def _table(model: nn.Module) -> FloatMatrix:
    table: FloatMatrix = model.get_input_embeddings().weight.detach().numpy()  # type: ignore[operator]
    return table


def _contexts(seed: int = 0, texts: int = 48) -> list[Context]:
    rng = np.random.default_rng(seed)
    encoded = [np.insert(rng.integers(10, 30, size=8), rng.integers(1, 8), _VOCABULARY + i % 2).tolist() for i in range(texts)]
    return contexts_of(encoded, _PIECES, _VOCABULARY, ([2], [3]))


def _tokens() -> NewTokens:
    return NewTokens(["ab", "cde", "ba"], _PIECES, [f" {chr(97 + i % 26)}{i}" for i in range(_VOCABULARY)])


def _learn(model: nn.Module, contexts: list[Context], epochs: int = 12) -> FloatMatrix:
    teacher = Teacher(model, contexts, DistillSettings(epochs=epochs, contexts_per_token=99, batch_size=8))
    return initialise("distill", _table(model), _tokens(), np.random.default_rng(1), teacher=teacher)


def _difference(model: nn.Module, rows: FloatMatrix, contexts: list[Context]) -> float:
    """The loss of rows over contexts, in the module's own terms."""
    reader = distill_module._reader(model)
    with torch.no_grad():
        scale = distill_module._embedding_scale(reader, contexts[0])
        both = distill_module._sees_both_sides(reader)
        return float(distill_module._loss(reader.eval(), torch.from_numpy(rows), scale, contexts, both))


@pytest.mark.parametrize("kind", _CONFIGS)
def test_learnt_rows_read_more_like_the_base_tokens_than_their_start_in_unseen_texts(kind: str) -> None:
    model = _model(kind)
    start = initialise("mix", _table(model), _tokens(), np.random.default_rng(1))
    rows = _learn(model, _contexts())
    unseen = _contexts(seed=9)
    assert _difference(model, rows, unseen) < 0.96 * _difference(model, start, unseen)
    assert np.array_equal(rows[2], start[2])  # in no context


@pytest.mark.parametrize("kind", _CONFIGS)
def test_the_model_is_left_as_it_was(kind: str) -> None:
    model = _model(kind).train()
    frozen = next(model.parameters()).requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    _learn(model, _contexts(texts=8), epochs=1)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert model.training
    assert not frozen.requires_grad
    assert sum(parameter.requires_grad for parameter in model.parameters()) == len(list(model.parameters())) - 1
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_same_seed_learns_the_same_rows() -> None:
    model = _model("bert")
    assert np.array_equal(_learn(model, _contexts(), epochs=1), _learn(model, _contexts(), epochs=1))


@pytest.mark.parametrize(("kind", "expected"), [("bert", True), ("roberta", True), ("llama", False), ("gemma", False), ("t5", True)])
def test_the_direction_of_reading_is_found_out(kind: str, expected: bool) -> None:
    reader = distill_module._reader(_model(kind).eval())
    assert distill_module._sees_both_sides(reader) is expected


def test_a_context_of_one_token_does_not_make_a_causal_model_read_both_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which context comes first depends on the seed; of one token alone, the last token is the first."""
    told: list[bool] = []

    def spy(reader: nn.Module, rows: Tensor, scale: float, contexts: list[Context], both_sides: bool) -> Tensor:
        told.append(both_sides)
        return loss(reader, rows, scale, contexts, both_sides)

    loss = distill_module._loss
    monkeypatch.setattr(distill_module, "_loss", spy)
    model = _model("llama")
    contexts = [Context([9], [Span(0, 1, 0)]), Context([11, 7, 8, 9, 12], [Span(1, 4, 1)])]
    for seed in range(4):
        initialise("distill", _table(model), _tokens(), np.random.default_rng(seed), teacher=Teacher(model, contexts))
    assert told == [False] * 4


def test_rounding_in_a_causal_mixture_of_experts_is_no_look_ahead() -> None:
    """Its experts multiply other numbers of rows for other tokens behind, so the first token's last bits differ: by up to 1e-6 here."""
    for seed in range(6):
        torch.manual_seed(seed)
        config = MixtralConfig(**_SIZES | {"hidden_size": 32, "num_hidden_layers": 4}, num_key_value_heads=2, num_local_experts=4)
        model = AutoModelForCausalLM.from_config(config).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim > 1:
                    parameter.normal_(0, 0.2)
        assert not distill_module._sees_both_sides(distill_module._reader(model))


def test_an_encoder_that_hardly_mixes_its_tokens_is_seen_to_read_both_ways() -> None:
    """One layer with weights as small as untrained ones: what stands behind changes the first token by a thousandth."""
    torch.manual_seed(0)
    reader = AutoModel.from_config(RobertaConfig(**_SIZES | {"num_hidden_layers": 1}, pad_token_id=1)).eval()
    assert distill_module._sees_both_sides(reader)


@pytest.mark.parametrize("kind", _CONFIGS)
def test_a_new_row_in_place_reads_as_the_same_row_in_the_table(kind: str) -> None:
    model = _model(kind).eval()
    reader = distill_module._reader(model)
    context = _contexts()[0]
    scale = distill_module._embedding_scale(reader, context)
    plan = distill_module._plan(context, both_sides=True)
    row, place = torch.from_numpy(_table(model)[33:34].copy()), next(iter(plan.new))
    in_table = [33 if i == place else number for i, number in enumerate(plan.ids)]
    new = torch.full((1, len(plan.ids)), -1)
    new[0, place] = 0

    def read(ids: list[int]) -> Tensor:
        rows = torch.tensor([ids])
        return distill_module._hidden(reader, rows, torch.ones_like(rows))

    with torch.no_grad():
        with distill_module._rows_in_place(reader, new, row, scale):
            placed = read(plan.ids)
        torch.testing.assert_close(placed, read(in_table), rtol=1e-4, atol=1e-5)


def test_a_reader_from_left_to_right_is_compared_from_the_new_token_on() -> None:
    context = Context([2, 11, 5, 6, 12, 3], [Span(2, 4, 0)])
    assert distill_module._plan(context, both_sides=False).compared == [(2, 3, 4), (3, 4, 5), (4, 5, 6)]
    assert distill_module._plan(context, both_sides=True).compared == [(0, 0, 1), (1, 1, 2), (2, 2, 4), (3, 4, 5), (4, 5, 6)]


def test_contexts_hold_the_pieces_of_new_tokens_and_are_cut_between_tokens_only() -> None:
    pieces = [[5, 6], [7, 8, 9], []]
    assert contexts_of([[11, 40, 12]], pieces, 40, ([2], [3])) == [Context([2, 11, 5, 6, 12, 3], [Span(2, 4, 0)])]
    assert contexts_of([[11, 12]], pieces, 40, ([2], [3])) == []
    assert contexts_of([[40, 41, 40]], pieces, 40, ([], []), max_tokens=4) == [
        Context([5, 6], [Span(0, 2, 0)]),
        Context([7, 8, 9], [Span(0, 3, 1)]),
        Context([5, 6], [Span(0, 2, 0)]),
    ]
    without_pieces = contexts_of([[40, 42, 11, 40]], pieces, 40, ([], []))
    assert without_pieces == [Context([5, 6], [Span(0, 2, 0)]), Context([11, 5, 6], [Span(1, 3, 0)])]


def test_the_loss_compares_a_new_token_with_the_mean_of_its_pieces_and_every_other_token_with_itself() -> None:
    model = _model("bert").eval()
    before, behind = torch.tensor([[2, 11, 5, 6, 3]]), torch.tensor([[2, 11, 20, 3]])
    with torch.no_grad():
        base, learnt = (model(input_ids=ids).last_hidden_state[0] for ids in (before, behind))
    target = torch.stack([base[0], base[1], (base[2] + base[3]) / 2, base[4]])
    got = _difference(model, _table(model)[20:21].copy(), [Context(before[0].tolist(), [Span(2, 4, 0)])])
    assert got == pytest.approx(float((learnt - target).square().mean()), rel=1e-4)


def test_padding_changes_nothing() -> None:
    model = _model("bert")
    rows = initialise("mean", _table(model), _tokens(), np.random.default_rng(1))
    short, long = Context([2, 11, 5, 6, 3], [Span(2, 4, 0)]), Context([2, *range(10, 25), 7, 8, 9, 3], [Span(16, 19, 1)])
    alone = [_difference(model, rows, [context]) * n for context, n in ((short, 4), (long, 18))]
    assert _difference(model, rows, [short, long]) == pytest.approx(sum(alone) / 22, rel=1e-4)


def test_texts_without_new_tokens_are_refused() -> None:
    model = _model("bert")
    with pytest.raises(ConfigError, match="no text that was given holds a new token"):
        _learn(model, [])


def test_a_broken_model_is_an_error_and_not_a_row() -> None:
    model = _model("bert")
    with torch.no_grad():
        model.encoder.layer[0].output.dense.bias.fill_(float("nan"))  # type: ignore[union-attr, index]
    with pytest.raises(DataError, match="not finite at step 1"):
        _learn(model, _contexts(texts=8))
