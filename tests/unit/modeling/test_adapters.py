"""Adapter folders: they fit their own base alone, and say so."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from biollm.core.errors import ConfigError
from biollm.modeling.adapters import (
    attach_peft,
    find_base,
    inner,
    load_peft,
    new_row_ids,
    read_base,
    save_adapter,
    weights_digest,
)
from biollm.modeling.bottleneck import Bottleneck, BottleneckModel, BottleneckSpec
from biollm.modeling.loading import load_model, load_stock

CLASSIFY = "AutoModelForSequenceClassification"
LABELS = {"num_labels": 2, "id2label": {0: "no", 1: "yes"}, "label2id": {"no": 0, "yes": 1}}


@pytest.fixture
def results(bert_base: Path, tmp_path: Path) -> Path:
    """pretrain/, finetune/lora/ and finetune/series/ with adapters that have an effect."""
    source = shutil.copytree(bert_base, tmp_path / "pretrain")
    for name in ("lora", "series"):
        torch.manual_seed(1)
        stock = load_stock(source, CLASSIFY, **LABELS)
        outputs = ["classifier", "bert.pooler"]
        if name == "lora":
            config = load_peft().LoraConfig(target_modules=["query"], modules_to_save=outputs, init_lora_weights=False)
            adapted = attach_peft(stock, config)
        else:
            adapted = BottleneckModel(stock, _spec(outputs=outputs))
            nn.init.normal_(adapted.adapters["0_ffn"].up.weight)
        save_adapter(adapted, tmp_path / "finetune" / name, source, name)
    return tmp_path


def _spec(**changes: Any) -> BottleneckSpec:
    values = {"kind": "series", "placement": "ffn", "width": 3, "scale": 1.0, "dropout": 0.0, "hidden_size": 32, "outputs": []}
    return BottleneckSpec(**values | changes)


def test_the_sidecar_says_what_the_base_is(results: Path) -> None:
    sidecar = read_base(results / "finetune" / "lora")
    assert sidecar.base == "../../pretrain"
    assert sidecar.base_weights == weights_digest(results / "pretrain")
    assert sidecar.kind == CLASSIFY
    assert sidecar.labels == ["no", "yes"]
    assert sidecar.vocab_size == load_stock(results / "pretrain", "AutoModel").config.vocab_size
    assert json.loads((results / "finetune" / "lora" / "adapter_config.json").read_text())["base_model_name_or_path"] == "../../pretrain"


def test_the_digest_of_an_artifact_is_in_the_sidecar(results: Path) -> None:
    (results / "pretrain" / "manifest.json").write_text('{"digest": "abc"}')
    stock = attach_peft(load_stock(results / "pretrain", CLASSIFY, **LABELS), load_peft().LoraConfig(target_modules=["query"]))
    save_adapter(stock, results / "finetune" / "new", results / "pretrain", "lora")
    assert read_base(results / "finetune" / "new").base_artifact == "abc"


@pytest.mark.parametrize("name", ["lora", "series"])
def test_an_adapter_is_loaded_with_its_labels_beside_its_base_or_with_a_base_given(results: Path, name: str, tmp_path: Path) -> None:
    here = load_model(results / "finetune" / name)
    assert inner(here.stock).config.id2label == {0: "no", 1: "yes"}
    moved = shutil.copytree(results / "finetune" / name, tmp_path / "far" / "away" / "adapter")
    there = load_model(moved, base=results / "pretrain")
    ids = torch.arange(8)[None]
    with torch.no_grad():
        assert torch.equal(here(input_ids=ids).logits, there(input_ids=ids).logits)
        plain = load_model(results / "pretrain")(input_ids=ids).last_hidden_state
        assert not torch.equal(inner(here.stock).base_model(input_ids=ids).last_hidden_state, plain)


def _another_seed(base: Path, make: Callable[..., Path]) -> None:
    shutil.rmtree(base)
    make(base, seed=2)


def _another_vocabulary(base: Path, make: Callable[..., Path]) -> None:
    shutil.rmtree(base)
    make(base, vocabulary=["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a"])


def _gone(base: Path, make: Callable[..., Path]) -> None:
    shutil.rmtree(base)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            _another_seed,
            r"adapter_base\.json: the adapter expects a base whose weights have the digest \w{12}, but those of \S+ have \w{12}",
        ),
        (_another_vocabulary, r"the adapter expects a base with \d+ vocabulary rows, but \S+ has 6; give the base that it was trained on"),
        (_gone, r"the adapter's base '../../pretrain' is not there; keep the adapter beside .* or say where the base is"),
    ],
)
@pytest.mark.parametrize("name", ["lora", "series"])
def test_another_base_is_refused(
    results: Path, make_bert_base: Callable[..., Path], change: Callable[..., None], message: str, name: str
) -> None:
    change(results / "pretrain", make_bert_base)
    with pytest.raises(ConfigError, match=message):
        load_model(results / "finetune" / name)


def test_a_base_given_by_hand_is_checked_too(results: Path, make_bert_base: Callable[..., Path], tmp_path: Path) -> None:
    other = make_bert_base(tmp_path / "other", seed=3)
    with pytest.raises(ConfigError, match=r"but those of \S*other have"):
        load_model(results / "finetune" / "lora", base=other)
    with pytest.raises(ConfigError, match="a whole model, which needs no base"):
        load_model(other, base=results / "pretrain")


def test_another_kind_is_refused(results: Path) -> None:
    with pytest.raises(ConfigError, match=f"an adapter of an {CLASSIFY}, but AutoModelForMaskedLM was asked for"):
        load_model(results / "finetune" / "lora", "AutoModelForMaskedLM")


def test_an_adapter_without_a_sidecar_is_refused(results: Path) -> None:
    (results / "finetune" / "lora" / "adapter_base.json").unlink()
    with pytest.raises(ConfigError, match=r"an adapter without adapter_base\.json, so nothing says which base it fits"):
        load_model(results / "finetune" / "lora")


def _rewrite(path: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(str(path))
    change(tensors)
    save_file(tensors, str(path))


_DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda p: p.unlink(), "the adapter's weights .* are missing; fine-tune again"),
    "cut": (lambda p: p.write_bytes(p.read_bytes()[:-100]), "damaged, or not of the settings beside it"),
    "empty": (lambda p: p.write_bytes(b""), "damaged, or not of the settings beside it"),
    "a tensor less": (lambda p: _rewrite(p, lambda t: t.pop(min(t))), "not the weights of the settings beside it: .* is missing from it"),
    "a tensor more": (
        lambda p: _rewrite(p, lambda t: t.update({"x.lora_A.weight": torch.ones(2)})),
        "not the weights of the settings beside it: .* is in it, but not in the model",
    ),
    "another width": (lambda p: _rewrite(p, lambda t: t.update({min(t): torch.ones(7, 7)})), "damaged, or not of the settings"),
}


@pytest.mark.parametrize("damage", _DAMAGE)
@pytest.mark.parametrize("name", ["lora", "series"])
def test_damaged_weights_are_refused_in_one_line(results: Path, name: str, damage: str) -> None:
    folder = results / "finetune" / name
    change, message = _DAMAGE[damage]
    change(folder / ("adapter_model.safetensors" if name == "lora" else "bottleneck.safetensors"))
    with pytest.raises(ConfigError, match=message) as caught:
        load_model(folder)
    assert len(str(caught.value).splitlines()) == 1
    assert str(folder) in str(caught.value)


def test_a_pickled_adapter_is_never_read(results: Path) -> None:
    folder = results / "finetune" / "lora"
    torch.save(load_file(str(folder / "adapter_model.safetensors")), folder / "adapter_model.bin")
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(ConfigError, match=r"the adapter's weights \(adapter_model\.safetensors\) are missing"):
        load_model(folder)


@pytest.mark.parametrize("name", ["adapter_base.json", "bottleneck.json"])
def test_sidecars_of_another_version_are_refused(results: Path, name: str) -> None:
    (results / "finetune" / "series" / name).write_text('{"version": 7}')
    with pytest.raises(ConfigError, match=rf"{name}: not a file that this version of biollm reads"):
        load_model(results / "finetune" / "series")


def test_a_far_base_is_named_and_not_pointed_at(results: Path, tmp_path: Path) -> None:
    deep = tmp_path / "a" / "b" / "c" / "d" / "adapter"
    stock = attach_peft(load_stock(results / "pretrain", CLASSIFY, **LABELS), load_peft().LoraConfig(target_modules=["query"]))
    save_adapter(stock, deep, results / "pretrain", "lora")
    assert read_base(deep).base == "pretrain"
    assert find_base(deep, read_base(deep), results / "pretrain") == results / "pretrain"


def test_writing_an_adapter_twice_gives_the_same_bytes(results: Path) -> None:
    targets = [f"bert.encoder.layer.{i}.attention.self.{part}" for i in (0, 1) for part in ("query", "key", "value")]
    written = []
    for order in (targets, targets[::-1]):
        torch.manual_seed(1)
        stock = attach_peft(load_stock(results / "pretrain", CLASSIFY, **LABELS), load_peft().LoraConfig(target_modules=order))
        folder = results / "finetune" / f"copy{len(written)}"
        save_adapter(stock, folder, results / "pretrain", "lora")
        written.append((folder / "adapter_config.json").read_bytes())
    assert written[0] == written[1]
    assert json.loads(written[0])["target_modules"] == sorted(targets)  # peft holds them in a set, whose order is another in each process


def test_the_digest_is_of_names_and_weights_alone(results: Path, tmp_path: Path) -> None:
    base = results / "pretrain"
    first = weights_digest(base)
    (base / "notes.txt").write_text("x")
    save_file({"a": torch.ones(1)}, str(base / "fusion.safetensors"))
    assert weights_digest(base) == first
    assert weights_digest(shutil.copytree(base, tmp_path / "copy")) == first
    (base / "model.safetensors").rename(base / "other.safetensors")
    assert weights_digest(base) != first


def test_the_ids_of_added_tokens_come_from_the_merge(tiny_results: Path, bert_base: Path) -> None:
    sidecar = json.loads((tiny_results / "merge" / "biollm_vocabulary.json").read_text())
    ids = new_row_ids(tiny_results / "expand")
    assert ids[0] == sidecar["base_vocab_size"]
    assert len(ids) == sum(domain["new_tokens"] for domain in sidecar["domains"])
    assert new_row_ids(bert_base) == []


# --- bottleneck adapters ----------------------------------------------------------------------------------------------------------


def test_a_bottleneck_computes_what_the_papers_say() -> None:
    adapter = Bottleneck(2, 1, scale=4.0, dropout=0.0)
    hidden = torch.tensor([[1.0, 2.0], [-1.0, -2.0]])
    assert torch.equal(adapter(hidden), torch.zeros(2, 2))
    with torch.no_grad():
        adapter.down.weight.copy_(torch.tensor([[1.0, 1.0]]))
        adapter.up.weight.copy_(torch.tensor([[0.5], [1.0]]))
    assert torch.equal(adapter(hidden), torch.tensor([[6.0, 12.0], [0.0, 0.0]]))  # 4 · up(relu(1 + 2)); relu(-3) = 0


class _Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mlp = nn.Linear(2, 2, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.mlp(x)


class _Toy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([_Layer()])
        with torch.no_grad():
            self.layers[0].mlp.weight.copy_(torch.tensor([[10.0, 0.0], [0.0, 10.0]]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers[0](x)


@pytest.mark.parametrize(("kind", "added"), [("series", 30.0), ("parallel", 3.0)])
def test_series_adapters_read_what_the_block_wrote_parallel_ones_what_it_read(kind: str, added: float) -> None:
    model = BottleneckModel(_Toy(), _spec(kind=kind, width=1, hidden_size=2))
    x = torch.tensor([[1.0, 2.0]])
    assert torch.equal(model(x), torch.tensor([[11.0, 22.0]]))
    with torch.no_grad():
        model.adapters["0_ffn"].down.weight.fill_(1.0)
        model.adapters["0_ffn"].up.weight.fill_(1.0)
    assert torch.equal(model(x), torch.tensor([[11.0 + added, 22.0 + added]]))


def test_bottlenecks_work_with_gradient_checkpointing(results: Path) -> None:
    gradients = []
    for checkpointing in (False, True):
        model = BottleneckModel(load_stock(results / "pretrain", CLASSIFY, **LABELS), _spec(kind="parallel"))
        torch.manual_seed(4)
        for name, parameter in model.named_parameters():
            if "adapters" in name or "classifier" in name or "pooler" in name:
                nn.init.normal_(parameter, std=0.1)
        if checkpointing:
            model.base.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        model.train()
        model(input_ids=torch.arange(8)[None]).logits.sum().backward()
        gradients.append(model.adapters["0_ffn"].up.weight.grad)
    torch.testing.assert_close(gradients[0], gradients[1])
    assert gradients[0].abs().max() > 0
