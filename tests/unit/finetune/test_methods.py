"""Every way of fine-tuning: what it trains, what it leaves alone, and that what is loaded again is what was trained."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification, GPT2Config, GPT2Model

from biollm.core.errors import ConfigError
from biollm.core.files import read_sidecar
from biollm.finetune.methods import apply_method, load_for, output_modules, save_finetuned
from biollm.modeling import quantisation
from biollm.modeling.adapters import inner, kind_of, virtual_tokens
from biollm.modeling.bottleneck import BottleneckModel, BottleneckSpec
from biollm.modeling.fusion import FusedModel
from biollm.modeling.loading import load_model

from .conftest import BASE_TOKENS, CLASSIFY, LABEL_TOKENS, NEW_TOKENS, WRITE, Case, batch, logits, method, prepare, step

METHODS = [
    "output_layer", "full", "lora", "dora", "qlora", "adapter_series", "adapter_parallel",
    "prefix_tuning", "prompt_tuning", "p_tuning", "ia3", "bitfit", "qat",
]  # fmt: skip
PROMPTS = ["prefix_tuning", "prompt_tuning", "p_tuning"]
# What cannot be: the tests of refusals say so.
_IMPOSSIBLE = {("gpt2", "qat"), ("llama", "bitfit")}
CASES = [
    *(("bert", CLASSIFY, name) for name in METHODS),
    *((family, CLASSIFY, name) for family in ("gpt2", "llama") for name in METHODS if (family, name) not in _IMPOSSIBLE),
    *(("roberta", CLASSIFY, name) for name in ("lora", "adapter_parallel", "ia3", *PROMPTS)),
    *((family, LABEL_TOKENS, name) for family in ("bert", "llama") for name in ("lora", "adapter_series", *PROMPTS)),
    *(("llama", WRITE, name) for name in METHODS if name not in ("output_layer", "bitfit")),
    *(("gpt2", WRITE, name) for name in ("full", "lora", "adapter_parallel", "ia3", "bitfit", *PROMPTS)),
]  # fmt: skip
_OWN = {
    "lora": r"\.lora_[AB]\.",
    "dora": r"\.lora_([AB]|magnitude_vector)\.",
    "qlora": r"\.lora_[AB]\.",
    "adapter_series": r"^stock\.adapters\.",
    "adapter_parallel": r"^stock\.adapters\.",
    "prefix_tuning": r"\.prompt_encoder\.",
    "prompt_tuning": r"\.prompt_encoder\.",
    "p_tuning": r"\.prompt_encoder\.",
    "ia3": r"\.ia3_l\.",
    "bitfit": r"\.bias$",
    "output_layer": r"$^",
}
_HEADS = r"(^|\.)(classifier|score|pooler)\."
_ADAPTERS = ["lora", "dora", "qlora", "adapter_series", "adapter_parallel", "ia3", *PROMPTS]


@pytest.fixture
def case(request: pytest.FixtureRequest, run_case: Callable[..., Case]) -> Case:
    return run_case(*request.param)


def each(cases: list[tuple[str, str, str]]) -> pytest.MarkDecorator:
    ids = ["-".join((family, kind.removeprefix("AutoModelFor"), name)) for family, kind, name in cases]
    return pytest.mark.parametrize(("case", "name"), [(c, c[2]) for c in cases], ids=ids, indirect=["case"])


@each([c for c in CASES if c[2] not in (*PROMPTS, "qat")])
def test_a_method_that_promises_it_has_no_effect_at_the_start(case: Case, name: str) -> None:
    assert torch.equal(case.start, case.before)


@each([c for c in CASES if c[2] in (*PROMPTS, "qat")])
def test_prompts_and_integers_have_an_effect_at_once(case: Case, name: str) -> None:
    assert case.start.shape == case.before.shape
    assert not torch.equal(case.start, case.before)
    assert (case.start - case.before).abs().max() < 2.0


@each(CASES)
def test_exactly_the_parameters_of_the_method_are_trained(case: Case, name: str) -> None:
    everything = {n for n, _ in case.model.named_parameters()}
    if name in ("full", "qat"):
        assert case.trainable == everything
    else:
        heads = {n for n in everything if re.search(_HEADS, n) and ".original_module." not in n and ".lora_" not in n}
        own = {n for n in case.trainable if re.search(_OWN[name], n)} - heads
        assert bool(own) == (name != "output_layer")
        assert case.trainable - own == heads
    assert case.changed <= case.trainable
    # the bias of a key adds the same to all scores of a softmax
    assert not [n for n in case.trainable - case.changed if not re.search(r"key\.bias", n)]


@each(CASES)
def test_every_trained_parameter_gets_a_gradient(case: Case, name: str) -> None:
    assert case.without_gradient == []


@each(CASES)
def test_a_step_changes_the_outputs_and_loading_gives_them_to_the_bit(case: Case, name: str) -> None:
    assert not torch.equal(case.after, case.start)
    with torch.no_grad():  # as a user loads
        again = load_model(case.folder, kind_of(case.model.stock))
    assert torch.equal(logits(again, case.inputs), case.after)


@each(CASES)
def test_padding_has_no_effect(case: Case, name: str) -> None:
    """Also not with prompts on decoders, where transformers alone would classify by the padding."""
    short = {key: tensor[1:, :5] for key, tensor in case.inputs.items()}
    alone, together = logits(case.model, short), case.after[1:]
    # int8 activations are rounded by the scale of their own token, so a last bit may become a step
    torch.testing.assert_close(alone, together[:, :5] if together.ndim == 3 else together, rtol=0, atol=2e-2 if name == "qat" else 2e-5)


@each(CASES)
def test_folders_hold_no_pickle_no_absolute_path_and_not_the_base(case: Case, name: str) -> None:
    files = [path for path in case.folder.rglob("*") if path.is_file()]
    assert not [path for path in files if path.suffix in {".bin", ".pt", ".pth", ".pkl", ".md"}]
    here = str(case.source.parent).encode()
    assert not [path for path in files if here in path.read_bytes()]
    own = sum(path.stat().st_size for path in files if path.suffix == ".safetensors")
    whole = (case.source / "model.safetensors").stat().st_size
    assert own < 0.75 * whole if name in _ADAPTERS else own > 0.75 * whole


def test_stock_libraries_open_what_each_method_wrote(run_case: Callable[..., Case]) -> None:
    folders = {name: run_case("bert", CLASSIFY, name) for name in METHODS if not name.startswith("adapter_") and name != "qlora"}
    code = """
import json, sys
sys.modules["biollm"] = None
import torch
from peft import PeftModel
from transformers import AutoModelForSequenceClassification
ids = json.loads(sys.argv[2])
for name, (source, folder) in json.loads(sys.argv[1]).items():
    adapter = name in ("lora", "dora", "ia3", "prefix_tuning", "prompt_tuning", "p_tuning")
    model = AutoModelForSequenceClassification.from_pretrained(source if adapter else folder, num_labels=3)
    model = (PeftModel.from_pretrained(model, folder) if adapter else model).eval()
    print(json.dumps({name: model(input_ids=torch.tensor(ids)).logits.tolist()}))
"""
    places = json.dumps({name: (str(case.source), str(case.folder)) for name, case in folders.items()})
    ids = torch.arange(3, 12)[None]
    done = subprocess.run([sys.executable, "-c", code, places, json.dumps(ids.tolist())], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    stock: dict[str, list[list[float]]] = {}
    for line in done.stdout.splitlines():
        stock |= json.loads(line)
    for name, case in folders.items():
        ours = logits(case.model, {"input_ids": ids})
        atol = 0.5 if name == "qat" else 1e-5  # stock transformers computes with the weights that are not rounded
        torch.testing.assert_close(torch.tensor(stock[name]), ours, rtol=0, atol=atol)


# --- the fusion operator, and new rows --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["output_layer", "lora", "adapter_series", "prompt_tuning", "prefix_tuning", "bitfit"])
def test_the_fusion_operator_is_trained_whole_beside_every_method(run_case: Callable[..., Case], name: str) -> None:
    case = run_case("bert", CLASSIFY, name, fused=True)
    assert "operator.operator.project.weight" in case.trainable & case.changed
    without = {key: value for key, value in case.inputs.items() if key != "features"}
    assert not torch.equal(logits(case.model, without), case.after), "the tracks are seen"
    assert torch.equal(logits(load_model(case.folder, CLASSIFY), case.inputs), case.after)


@pytest.mark.parametrize(("family", "kind"), [("bert", CLASSIFY), ("gpt2", WRITE), ("llama", WRITE), ("llama", CLASSIFY)])
@pytest.mark.parametrize("name", ["lora", "dora"])
def test_new_rows_are_trained_and_stored_without_the_table(run_case: Callable[..., Case], family: str, kind: str, name: str) -> None:
    case = run_case(family, kind, name, train_new_rows=True)
    assert torch.equal(case.start, case.before)
    assert torch.equal(logits(load_model(case.folder), case.inputs), case.after)
    rows = {n: tuple(p.shape) for n, p in case.model.named_parameters() if "trainable_tokens" in n}
    tables = 2 if family == "llama" and kind == WRITE else 1  # GPT-2's output table is its input table
    assert set(rows.values()) == {(NEW_TOKENS, 32)}
    assert len(rows) == tables
    assert set(rows) <= case.changed
    own = (case.folder / "adapter_model.safetensors").stat().st_size
    plain = (run_case(family, kind, name).folder / "adapter_model.safetensors").stat().st_size
    assert own - plain < tables * NEW_TOKENS * 32 * 4 + 1000


def test_old_tokens_read_as_before_while_new_rows_move(base: Callable[..., Path]) -> None:
    config = method("lora", train_new_rows=True)
    model = prepare(base("llama"), WRITE, config)
    old = batch(model, with_new_tokens=False)
    before, new_before = logits(model, old), logits(model, batch(model))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "trainable_tokens" in name and "embed_tokens" in name:
                parameter += 1.0
    assert torch.equal(logits(model, old), before)
    assert not torch.equal(logits(model, batch(model)), new_before)


def test_tracks_are_seen_when_new_rows_are_trained(run_case: Callable[..., Case]) -> None:
    """peft's trained rows pass by the table that the fusion hooks into."""
    case = run_case("bert", CLASSIFY, "lora", fused=True, train_new_rows=True)
    without = {key: value for key, value in case.inputs.items() if key != "features"}
    assert not torch.equal(logits(case.model, without), case.after)
    assert torch.equal(case.start, case.before)
    assert torch.equal(logits(load_model(case.folder), case.inputs), case.after)


# --- prompts, quantisation --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PROMPTS)
def test_a_prompt_takes_its_part_of_the_context(run_case: Callable[..., Case], name: str) -> None:
    case = run_case("bert", CLASSIFY, name)
    assert virtual_tokens(case.model.stock) == 4
    case.model(input_ids=torch.full((1, 60), 5))
    with pytest.raises((IndexError, RuntimeError)):
        case.model(input_ids=torch.full((1, 61), 5))


@pytest.mark.parametrize("projected", [True, False])
def test_a_projected_prefix_is_stored_as_a_plain_one(base: Callable[..., Path], tmp_path: Path, projected: bool) -> None:
    config = method("prefix_tuning", prefix_projection=projected)
    model = prepare(base("llama"), WRITE, config)
    names = {name for name, p in model.named_parameters() if p.requires_grad}
    assert any("transform" in name for name in names) == projected
    inputs = batch(model)
    step(model, inputs)
    save_finetuned(model, tmp_path / "prefix", base("llama"), config)
    assert torch.equal(logits(load_model(tmp_path / "prefix", base=base("llama")), inputs), logits(model, inputs))


_SCHEMES = ["int8_weights", "int4_weights", "int8_activations_int8_weights", "int8_activations_int4_weights"]


@pytest.mark.parametrize("scheme", _SCHEMES)
def test_real_integers_give_the_outputs_that_were_trained(base: Callable[..., Path], tmp_path: Path, scheme: str) -> None:
    from torchao.quantization import quantize_

    config = method("qat", qat_scheme=scheme)
    model = prepare(base("bert"), CLASSIFY, config)
    inputs = batch(model)
    step(model, inputs)
    save_finetuned(model, tmp_path / "qat", base("bert"), config)
    spec = read_sidecar(tmp_path / "qat" / quantisation.QUANTISATION, quantisation.QuantisationSpec)
    real = AutoModelForSequenceClassification.from_pretrained(str(tmp_path / "qat")).eval()
    plain = real(**inputs).logits.detach()
    chosen = quantisation.quantised_layers(real, spec)
    assert len(chosen) == 12
    quantize_(real, quantisation.torchao_config(spec), filter_fn=lambda module, name: name in chosen)
    trained = logits(model, inputs)
    torch.testing.assert_close(real(**inputs).logits.detach(), trained, rtol=0, atol=2e-7)
    assert (plain - trained).abs().max() > 1e-6, "the rounding was no rounding"


def test_the_encoder_of_a_quantised_folder_computes_with_the_same_integers(run_case: Callable[..., Case]) -> None:
    case = run_case("bert", CLASSIFY, "qat")
    inputs = {"input_ids": case.inputs["input_ids"], "attention_mask": case.inputs["attention_mask"]}
    with torch.no_grad():
        trained, again = case.model.eval().stock.base_model(**inputs), load_model(case.folder)(**inputs)
    assert torch.equal(again.last_hidden_state, trained.last_hidden_state)
    assert torch.equal(again.pooler_output, trained.pooler_output), "the pooler was not rounded"


def test_a_base_in_four_bits_is_small_and_its_head_is_not_rounded(run_case: Callable[..., Case]) -> None:
    stock = run_case("llama", CLASSIFY, "qlora").model.stock
    assert {p.dtype for n, p in stock.named_parameters() if "q_proj.base_layer" in n} == {torch.uint8}
    assert {p.dtype for n, p in stock.named_parameters() if "score" in n} == {torch.float32}


# --- training as it is done for real ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", METHODS)
def test_every_method_trains_in_bfloat16(base: Callable[..., Path], name: str) -> None:
    """DeepSpeed casts the whole module; afterwards everything is cast back."""
    family = "bert" if name == "bitfit" else "llama"
    model = prepare(base(family), CLASSIFY, method(name)).bfloat16()
    inputs = batch(model)
    assert step(model, inputs) == []
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.requires_grad)
    assert torch.isfinite(logits(model.float(), inputs)).all()


@pytest.mark.parametrize("name", [name for name in METHODS if name not in ("prefix_tuning", "bitfit", "output_layer")])
def test_gradients_are_those_of_recomputed_activations(base: Callable[..., Path], name: str) -> None:
    gradients = []
    for recomputed in (False, True):
        model = prepare(base("llama"), CLASSIFY, method(name))
        if recomputed:
            inner(model.stock).gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        step(model, batch(model))
        gradients.append({n: p.grad for n, p in model.named_parameters() if p.requires_grad})
    for parameter, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][parameter], gradient, rtol=1e-4, atol=1e-6, msg=parameter)


def test_the_options_of_low_rank_adapters_count(base: Callable[..., Path]) -> None:
    model = prepare(base("bert"), CLASSIFY, method("lora", lora_rank=4, lora_alpha=6.0, lora_dropout=0.25))
    layer = inner(model.stock).get_submodule("bert.encoder.layer.0.attention.self.query")
    assert layer.scaling["default"] == 6.0 / 4
    assert layer.lora_A["default"].weight.shape == (4, 32)
    assert layer.lora_dropout["default"].p == 0.25
    stabilised = prepare(base("bert"), CLASSIFY, method("lora", lora_rank=4, rank_stabilised=True))
    assert inner(stabilised.stock).get_submodule("bert.encoder.layer.0.attention.self.query").scaling["default"] == 8 / 2


def test_the_options_of_bottleneck_adapters_count(base: Callable[..., Path]) -> None:
    both = prepare(base("bert"), CLASSIFY, method("adapter_series", adapter_width=3, adapter_dropout=0.5)).stock
    one = prepare(base("bert"), CLASSIFY, method("adapter_series", adapter_placement="ffn")).stock
    parallel = prepare(base("bert"), CLASSIFY, method("adapter_parallel", adapter_scale=2.0)).stock
    assert list(both.adapters) == ["0_attention", "0_ffn", "1_attention", "1_ffn"]
    assert both.adapters["0_ffn"].down.weight.shape == (3, 32)
    assert both.adapters["0_ffn"].dropout.p == 0.5
    assert list(one.adapters) == list(parallel.adapters) == ["0_ffn", "1_ffn"]
    assert parallel.adapters["0_ffn"].scale == 2.0
    assert one.adapters["0_ffn"].scale == 1.0


def test_a_prompted_and_an_adapted_model_write_text(run_case: Callable[..., Case]) -> None:
    for name in ("prompt_tuning", "prefix_tuning", "adapter_series", "lora"):
        case = run_case("llama", WRITE, name)
        stock = load_model(case.folder).stock
        ids = case.inputs["input_ids"][:1]
        told = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        written = stock.generate(**told, max_new_tokens=3, do_sample=False)[0, -3:].tolist()
        expected = []
        for _ in range(3):  # token by token, without a cache
            expected.append(int(logits(case.model, told)[0, -1].argmax()))
            longer = torch.cat([told["input_ids"], torch.tensor([[expected[-1]]])], dim=1)
            told = {"input_ids": longer, "attention_mask": torch.ones_like(longer)}
        assert written == expected, name


# --- refusals ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "kind", "name", "options", "message"),
    [
        ("llama", CLASSIFY, "bitfit", {}, r"bitfit: a LlamaForSequenceClassification has no biases below its head"),
        ("llama", WRITE, "output_layer", {}, r"output_layer: nothing stands on top of a LlamaForCausalLM"),
        ("gpt2", WRITE, "qat", {}, r"qat: GPT2LMHeadModel has no linear layer that torchao can quantise \(GPT-2's are Conv1D\)"),
        ("bert", CLASSIFY, "qat", {"qat_group_size": 24}, r"qat_group_size is 24, but bert\.\S+ has 32 inputs; expected a number that"),
        ("bert", CLASSIFY, "lora", {"target_modules": ["q_proj"]}, r"has 'q_proj', but no layer .* expected of .*query, .*value, "),
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused(base: Callable[..., Path], family: str, kind: str, name: str, options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        prepare(base(family), kind, method(name, **options))


def test_named_layers_alone_are_adapted(base: Callable[..., Path]) -> None:
    model = prepare(base("bert"), CLASSIFY, method("lora", target_modules=["query"]))
    assert {n.split(".lora_")[0].rsplit(".", 1)[-1] for n, _ in model.named_parameters() if ".lora_" in n} == {"query"}
    options = {"target_modules": ["key", "intermediate.dense"], "feedforward_modules": ["intermediate.dense"]}
    scaled = prepare(base("bert"), CLASSIFY, method("ia3", **options))
    assert len([n for n, _ in scaled.named_parameters() if "ia3_l" in n]) == 4


def test_new_rows_are_refused_without_a_merged_vocabulary(base: Callable[..., Path], tmp_path: Path) -> None:
    source = Path(shutil.copytree(base("llama"), tmp_path / "pretrain"))
    (source / "biollm_vocabulary.json").unlink()
    with pytest.raises(ConfigError, match="train_new_rows is true, but the vocabulary of the model has no added tokens"):
        prepare(source, WRITE, method("lora", train_new_rows=True))
    model = load_for(base("llama"), WRITE, method("lora"))
    with pytest.raises(ConfigError, match="adds tokens up to id 61, but the model has 61 rows"):
        apply_method(model, method("lora", train_new_rows=True), [], [60, 61])


def test_new_rows_are_refused_where_peft_would_drop_the_output_bias(base: Callable[..., Path]) -> None:
    model = load_for(base("bert"), "AutoModelForMaskedLM", method("lora"))
    with pytest.raises(ConfigError, match="the output table of a BertForMaskedLM has a bias, which peft would leave out"):
        apply_method(model, method("lora", train_new_rows=True), [], [BASE_TOKENS])


def test_models_without_a_known_build_are_refused() -> None:
    class Odd(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = torch.nn.ModuleList([torch.nn.Linear(4, 4)])

    spec = BottleneckSpec(kind="series", placement="ffn", width=2, scale=1, dropout=0, hidden_size=4, outputs=[])
    with pytest.raises(ConfigError, match="Odd: no layer has a feed-forward block under a name that is known here"):
        BottleneckModel(Odd(), spec)
    with pytest.raises(ConfigError, match="a GPT2Model cannot be fine-tuned; expected a model for sequence classification"):
        output_modules(GPT2Model(GPT2Config(vocab_size=10, n_embd=8, n_layer=1, n_head=1)))


def test_prefix_tuning_is_refused_where_keys_and_values_cannot_be_handed_over() -> None:
    from transformers import ModernBertConfig, ModernBertForSequenceClassification

    shape = {
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "vocab_size": 30,
        "pad_token_id": 0,
    }
    model = FusedModel(ModernBertForSequenceClassification(ModernBertConfig(**shape)))
    with pytest.raises(ConfigError, match="takes no keys and values from outside; use prompt_tuning or lora"):
        apply_method(model, method("prefix_tuning"), output_modules(model.stock))
    with pytest.raises(ConfigError, match="ia3: target_modules is 'auto', but peft knows no choice for 'modernbert' models"):
        apply_method(model, method("ia3"), output_modules(model.stock))


@pytest.mark.parametrize("name", PROMPTS)
def test_prompts_are_refused_where_only_ids_are_read(name: str) -> None:
    from transformers import T5Config, T5ForSequenceClassification

    config = T5Config(vocab_size=30, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, decoder_start_token_id=0)
    model = FusedModel(T5ForSequenceClassification(config))
    with pytest.raises(ConfigError, match=rf"{name}: a T5ForSequenceClassification is an encoder-decoder, .*; use lora, dora, ia3,"):
        apply_method(model, method(name), output_modules(model.stock))


@pytest.mark.parametrize(("name", "package", "extra"), [("qat", "torchao", "qat"), ("qlora", "bitsandbytes", "qlora")])
def test_a_missing_package_is_named(
    base: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, name: str, package: str, extra: str
) -> None:
    monkeypatch.setattr(quantisation.importlib.util, "find_spec", lambda found: None)
    with pytest.raises(ConfigError, match=rf"{name} needs the package {package}, which is not installed; .*'biollm\[{extra}\]'"):
        prepare(base("bert"), CLASSIFY, method(name))


def test_a_machine_on_which_four_bits_do_not_run_is_named(base: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    import bitsandbytes

    def broken(*args: object, **kwargs: object) -> None:
        raise RuntimeError("no kernel image")

    monkeypatch.setattr(bitsandbytes.nn.Linear4bit, "forward", broken)
    with pytest.raises(
        ConfigError, match=r"qlora: bitsandbytes is installed, but does not run on this machine \(no kernel image\); use lora"
    ):
        prepare(base("bert"), CLASSIFY, method("qlora"))
