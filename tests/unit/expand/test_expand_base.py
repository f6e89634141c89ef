"""What a base brings into expand: words in its own letters, a fusion, heads for other tasks, few positions; and an offset of the logits."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
import transformers as hf
from safetensors.torch import load_file, save_file

from biollm.core.artifacts import open_artifact
from biollm.core.errors import ConfigError, DataError
from biollm.expand import stage
from biollm.expand.config import Config
from biollm.merge.continuation import pieces_of_new_tokens
from biollm.modeling.corpus import evenly
from biollm.modeling.encoding import Encoder
from biollm.modeling.loading import load_model
from biollm.modeling.shards import read_table
from biollm.modeling.surgery import PADDING_BIAS
from biollm.modeling.vocabulary import Domain, DomainVocabulary
from biollm.stages import BY_NAME, Run
from tokenizers import Tokenizer, models

TOKENIZERS = {"bert": "bert_uncased", "llama": "mistral", "t5": "t5", "bart": "gpt2"}


def build(model: str, vocab_size: int) -> Any:
    """A tiny model of random weights."""
    torch.manual_seed(0)
    shape = {"vocab_size": vocab_size, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 48}
    if model == "bert":
        return hf.BertForMaskedLM(hf.BertConfig(**shape, max_position_embeddings=64))
    if model == "llama":
        return hf.LlamaForCausalLM(hf.LlamaConfig(**shape, bos_token_id=1, eos_token_id=2))
    if model == "t5":
        t5 = {"d_model": 32, "d_kv": 16, "d_ff": 48, "num_layers": 1, "num_heads": 2, "decoder_start_token_id": 0}
        return hf.T5ForConditionalGeneration(hf.T5Config(vocab_size=vocab_size, **t5, pad_token_id=0, eos_token_id=1))
    sides = {f"{side}_{key}": n for side in ("encoder", "decoder") for key, n in (("layers", 1), ("attention_heads", 2), ("ffn_dim", 48))}
    ids = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "decoder_start_token_id": 2, "forced_eos_token_id": 2}
    return hf.BartForConditionalGeneration(hf.BartConfig(vocab_size=vocab_size, d_model=32, max_position_embeddings=64, **sides, **ids))


@pytest.fixture
def with_words(
    tmp_path: Path,
    tiny_recipe: Callable[..., Path],
    base_tokenizer: Callable[[str], Tokenizer],
    plain_lines: Callable[[int], list[str]],
) -> Callable[..., Run]:
    """with_words(kind of model, or folder of one) -> a run over such a base, merged with words learnt on."""

    def make(model: str | Path) -> Run:
        if isinstance(model, Path):
            shutil.copytree(model, tmp_path / "base")
        else:
            tokenizer = base_tokenizer(TOKENIZERS[model])
            build(model, tokenizer.get_vocab_size()).save_pretrained(str(tmp_path / "base"))
            tokenizer.save(str(tmp_path / "base" / "tokenizer.json"))
        (tmp_path / "words.txt").write_text("\n".join(plain_lines(1000)))
        words = {"strategy": "continue", "text": ["words.txt"], "new_tokens": 40, "min_count": 2}
        merge = {"domains": [words], "random_strings": 20}
        recipe = tiny_recipe(tmp_path, ingest=None, tokenizer=None, merge=merge, expand={"fusion": None}, pretrain=None, embed=None)
        run = Run.load(recipe, out=tmp_path / "results")
        run.run_stage(BY_NAME["merge"])
        return run

    return make


def both_ways(folder: Path, *overrides: str) -> list[Path]:
    """Expanded in memory, and on the shards."""
    made = []
    for way in ("false", "true"):
        run = Run.load(folder / "recipe.yaml", [f"expand.in_place_shards={way}", *overrides], out=folder / "results")
        run.run_stage(BY_NAME["expand"])
        made.append(Path(shutil.copytree(run.results / "expand", folder / f"shards_{way}")))
    return made


@pytest.mark.parametrize("model", ["bert", "llama", "t5"])
def test_words_start_from_what_the_base_makes_of_them_at_their_place(with_words: Callable[..., Run], tmp_path: Path, model: str) -> None:
    """Not from what it makes of "##ing" or " ing" as a text: the inside of a word comes from insides of words."""
    run = with_words(model)
    run.run_stage(BY_NAME["expand"])
    contents = [json.loads((folder / "tokenizer.json").read_text()) for folder in (tmp_path / "base", run.results / "merge")]
    pieces = pieces_of_new_tokens(*contents)
    assert len(pieces) > 30
    table = torch.from_numpy(read_table(run.results / "expand", "input"))
    wanted = torch.stack([table[own].mean(dim=0) for own in pieces.values()])
    assert torch.nn.functional.cosine_similarity(table[list(pieces)], wanted).min() > 0.9999


def test_a_pooler_and_the_head_of_another_task_stay_in_both_ways(
    with_words: Callable[..., Run], make_bert_base: Callable[..., Path], tmp_path: Path
) -> None:
    base = make_bert_base(tmp_path / "made", head=False)
    head = torch.ones(3, 32, dtype=torch.bfloat16)
    save_file(load_file(base / "model.safetensors") | {"classifier.weight": head}, base / "model.safetensors", {"format": "pt"})
    with_words(base)
    folders = both_ways(tmp_path)
    for folder in folders:
        stored = load_file(folder / "model.safetensors")["classifier.weight"]
        assert stored.dtype == torch.bfloat16
        assert torch.equal(stored, head)
    before, memory, files = (hf.AutoModel.from_pretrained(str(folder)).state_dict() for folder in (base, *folders))
    assert torch.equal(memory["pooler.dense.weight"], before["pooler.dense.weight"])
    assert [key for key in memory if not torch.equal(memory[key], files[key])] == []


def test_a_stale_table_of_the_base_is_named_and_left_out(
    with_words: Callable[..., Run], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = with_words("bert")
    weights = tmp_path / "base" / "model.safetensors"
    tensors = load_file(weights)
    rows = len(tensors["bert.embeddings.word_embeddings.weight"])
    save_file(tensors | {"old.table": torch.zeros(rows, 2), "old.offset": torch.zeros(1, rows)}, weights, {"format": "pt"})
    run = Run.load(tmp_path / "recipe.yaml", out=tmp_path / "results")
    for name in ("merge", "expand"):
        run.run_stage(BY_NAME[name])
    said = capsys.readouterr().err
    for name in ("old.table", "old.offset"):
        assert f"expand: left out: {name} has one row per token of the base, but is no part of a BertForMaskedLM" in said
        assert name not in load_file(run.results / "expand" / "model.safetensors")


def test_a_base_with_an_offset_of_the_logits_grows_in_both_ways(with_words: Callable[..., Run], tmp_path: Path) -> None:
    with_words("bart")
    models = [hf.AutoModelForSeq2SeqLM.from_pretrained(str(folder)) for folder in both_ways(tmp_path, "expand.pad_to_multiple=64")]
    memory, files = (model.state_dict() for model in models)
    assert [key for key in memory if not torch.equal(memory[key], files[key])] == []
    offset = models[0].final_logits_bias
    assert offset.shape == (1, models[0].config.vocab_size)
    assert offset[0, -1] == PADDING_BIAS
    assert torch.isfinite(models[0](input_ids=torch.tensor([[5, 6]]), decoder_input_ids=torch.tensor([[2]])).logits).all()


def test_shards_that_transformers_would_not_load_are_not_kept(with_words: Callable[..., Run], monkeypatch: pytest.MonkeyPatch) -> None:
    run, written = with_words("bart"), stage.expand_shards

    def spoil(base: Path, out: Path, *arguments: Any, **options: Any) -> Any:
        facts = written(base, out, *arguments, **options)
        weights = out / "model.safetensors"
        save_file(load_file(weights) | {"model.encoder.layernorm_embedding.weight": torch.ones(31)}, weights, {"format": "pt"})
        return facts

    monkeypatch.setattr(stage, "expand_shards", spoil)
    with pytest.raises(DataError, match="expand: transformers cannot load the grown shards: "):
        both_ways(run.results.parent)


@pytest.mark.parametrize(
    ("model", "key"),
    [("llama", "lm_head.weight"), ("bert", "cls.predictions.bias"), ("bart", "final_logits_bias"), ("t5", "shared.weight")],
)
def test_no_table_may_change_what_it_holds_for_base_tokens(
    with_words: Callable[..., Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str, key: str
) -> None:
    """An untied output table, an output bias, an offset of the logits, and the input table; in memory, and on the shards."""
    run = with_words(model)

    def spoil(write: Callable[..., Any], folder: Path) -> Callable[..., Any]:
        def spoilt(*arguments: Any, **options: Any) -> Any:
            facts = write(*arguments, **options)
            tensors = load_file(folder / "model.safetensors")
            tensors[key].reshape(-1)[3] += 1
            save_file(tensors, folder / "model.safetensors", {"format": "pt"})
            return facts

        return spoilt

    def watch(job: Any) -> Any:
        for name in ("save_model", "expand_shards"):
            monkeypatch.setattr(stage, name, spoil(written[name], job.out))
        return plan(job)

    plan, written = stage._plan, {name: getattr(stage, name) for name in ("save_model", "expand_shards")}
    monkeypatch.setattr(stage, "_plan", watch)
    for way, what in (("false", "model"), ("true", "shards")):
        changed = Run.load(tmp_path / "recipe.yaml", [f"expand.in_place_shards={way}"], out=tmp_path / "results")
        with pytest.raises(DataError, match=f"expand: rows of base tokens changed in the (saved )?{what}: .*{key.split('.')[-1]}"):
            changed.run_stage(BY_NAME["expand"])
        assert not (run.results / "expand").exists()


def test_new_rows_are_learnt_where_the_base_needs_more_tokens_than_it_has_positions(
    tmp_path: Path, tiny_recipe: Callable[..., Path], make_bert_base: Callable[..., Path], tiny_results: Path
) -> None:
    """Of 64 bases the base makes up to 64 tokens; it has 48 positions, which suffice for the merged tokens."""
    make_bert_base(tmp_path / "base", max_position_embeddings=48)
    expand = {"fusion": None, "init": "distill", "held_out_records": 4}
    recipe = tiny_recipe(tmp_path, expand=expand, pretrain=None, embed=None)
    (tmp_path / "results").mkdir()
    shutil.copytree(tiny_results / "ingest", tmp_path / "results" / "ingest")
    run = Run.load(recipe, out=tmp_path / "results")
    for name in ("ingest", "tokenizer", "merge", "expand"):
        run.run_stage(BY_NAME[name])
    assert np.isfinite(read_table(run.results / "expand", "input")).all()
    assert "distill" in open_artifact(run.results / "expand").facts["held_out_bits_per_base"]


def test_signs_that_neither_tokenizer_knows_do_not_cost_the_base_its_row(
    tmp_path: Path, tiny_recipe: Callable[..., Path], plain_lines: Callable[[int], list[str]], base_tokenizer: Callable[[str], Tokenizer]
) -> None:
    lines = [f"of {line[:60]}" for line in plain_lines(120)]
    (tmp_path / "lines.txt").write_text("\n".join(f"{line} 🧬" if i % 3 else line for i, line in enumerate(lines)))
    tokenizer = base_tokenizer("bert_uncased")
    build("bert", tokenizer.get_vocab_size()).save_pretrained(str(tmp_path / "base"))
    tokenizer.save(str(tmp_path / "base" / "tokenizer.json"))
    nothing = {"window_bases": None, "labels": None, "tracks": None}
    split = {"by": "random", "block_bases": None, "gap_bases": None}
    ingest = {"modality": "text", "sources": [{"name": "lines", "records": "lines.txt"}], "split": split, **nothing}
    merge = {"domains": [{"strategy": "continue", "text": ["lines.txt"], "new_tokens": 20, "min_count": 2}], "random_strings": 20}
    recipe = tiny_recipe(tmp_path, ingest=ingest, tokenizer=None, merge=merge, expand={"fusion": None}, pretrain=None, embed=None)
    run = Run.load(recipe, out=tmp_path / "results")
    for name in ("ingest", "merge", "expand"):
        run.run_stage(BY_NAME[name])
    assert set(open_artifact(run.results / "expand").facts["held_out_bits_per_base"]) == {"no new tokens", "mean"}


# --- a base that was merged before ----------------------------------------------------------------------------------------------


def write_merged(folder: Path, tokens: list[str], domains: list[Domain]) -> Path:
    folder.mkdir()
    Tokenizer(models.WordPiece({token: i for i, token in enumerate(tokens)}, unk_token="[UNK]")).save(str(folder / "tokenizer.json"))
    DomainVocabulary(base_vocab_size=3, domains=domains).save(folder)
    return folder


_UNITS = {"A": "(A", "C": "(C"}
_SEQUENCES = Domain(name="dna", strategy="isolate", modality="dna", kind="char", first_id=6, new_tokens=2, mark="(", model_mark="(",
                    units=_UNITS, model_units=_UNITS)  # fmt: skip
_WORDS = Domain(name="words", strategy="continue", modality="text", kind="wordpiece", first_id=6, new_tokens=2)


@pytest.mark.parametrize(
    ("second", "new", "texts", "pieces"),
    [
        (_SEQUENCES, ["(A", "(C"], ["A", "C"], [[1], [2]]),
        (_WORDS, ["CA", "##AA"], [" CA", "AA"], [[2, 4], [4, 4]]),
    ],
    ids=["isolate", "continue"],
)
def test_tokens_that_a_user_added_between_two_merges_are_tokens_of_the_base(
    tmp_path: Path, second: Domain, new: list[str], texts: list[str], pieces: list[list[int]]
) -> None:
    """Ids 0 to 2 are the first base's, 3 and 4 of a first merge, 5 is the user's, 6 and 7 are of the second merge."""
    first = Domain(name="first", strategy="continue", modality="text", kind="wordpiece", first_id=3, new_tokens=2)
    tokens = ["[UNK]", "A", "C", "AC", "##A", "<chat>"]
    base = write_merged(tmp_path / "base", tokens, [first])
    merged = write_merged(tmp_path / "merged", tokens + new, [first, second])
    found = stage._new_tokens(Encoder(merged), base)
    assert (found.texts, found.pieces) == (texts, pieces)
    assert len(found.base_texts) == 6


# --- a base that is fused -------------------------------------------------------------------------------------------------------


def test_the_fusion_of_a_base_goes_on(with_words: Callable[..., Run], tiny_results: Path) -> None:
    run = with_words(tiny_results / "expand")
    run.run_stage(BY_NAME["expand"])
    before, after = (load_model(folder) for folder in (tiny_results / "expand", run.results / "expand"))
    assert before.operator is not None
    assert after.operator is not None
    was, now = before.operator.state_dict(), after.operator.state_dict()
    assert was.keys() == now.keys()
    assert all(torch.equal(was[key], now[key]) for key in was)
    assert open_artifact(run.results / "expand").facts["fusion"] == {"operator": "add", "channels": ["cpg"], "of_base": True}


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"fusion": {"channels": ["cpg"]}}, "expand.fusion: the base .* is fused already, with cpg, and a model has one fusion; leave"),
        ({"in_place_shards": True}, "expand.in_place_shards: the base .* is fused, with cpg, .* leave in_place_shards out"),
    ],
)
def test_a_fusion_that_cannot_go_on_is_never_lost_in_silence(tiny_results: Path, section: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        stage._check_fusion(tiny_results / "expand", Config.model_validate(section))


# --- records --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("height", "most"), [(700, 400), (401, 400), (800, 400), (5, 7), (7, 7)])
def test_records_are_drawn_evenly(height: int, most: int) -> None:
    drawn = evenly(pl.DataFrame({"i": range(height)}), most)["i"].to_numpy()
    assert len(drawn) == min(height, most)
    assert drawn[0] == 0
    assert height - drawn[-1] <= height / len(drawn) + 1
    assert set(np.diff(drawn)) <= {height // len(drawn), height // len(drawn) + 1}
