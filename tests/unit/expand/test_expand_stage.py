"""Expand on tiny bases of every objective: each with a real tokenizer, through the real stages before it."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch

from biollm.core.artifacts import Artifact, open_artifact
from biollm.core.errors import ConfigError
from biollm.modeling.fusion import read_spec
from biollm.modeling.inits import InitName
from biollm.modeling.shards import read_table
from biollm.modeling.surgery import resize, tables_of
from biollm.modeling.vocabulary import DomainVocabulary, load_tokenizer
from biollm.stages import BY_NAME, Run
from tokenizers import Tokenizer

TinyRecipe = Callable[..., Path]
POSITIONS = 128
OBJECTIVES = {"bert": "masked", "gpt2": "causal", "llama": "causal", "t5": "prefix"}
CLASSES = {"masked": "AutoModelForMaskedLM", "causal": "AutoModelForCausalLM", "prefix": "AutoModelForSeq2SeqLM"}
TIED = {"bert": True, "gpt2": True, "llama": False, "t5": True}
every_model = pytest.mark.parametrize("model", OBJECTIVES)


def build(model: str, vocab_size: int) -> Any:
    """A tiny model of random weights."""
    import transformers as hf

    torch.manual_seed(0)
    shape = {"vocab_size": vocab_size, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 48}
    if model == "bert":
        return hf.BertForMaskedLM(hf.BertConfig(**shape, max_position_embeddings=POSITIONS))
    if model == "gpt2":
        return hf.GPT2LMHeadModel(hf.GPT2Config(vocab_size=vocab_size, n_embd=32, n_layer=1, n_head=2, n_positions=POSITIONS))
    if model == "llama":
        ids = {"pad_token_id": None, "bos_token_id": 1, "eos_token_id": 2}
        return hf.LlamaForCausalLM(hf.LlamaConfig(**shape, **ids, max_position_embeddings=POSITIONS, tie_word_embeddings=False))
    t5 = {"d_model": 32, "d_kv": 16, "d_ff": 48, "num_layers": 1, "num_heads": 2}
    ids = {"pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0}
    return hf.T5ForConditionalGeneration(hf.T5Config(vocab_size=vocab_size, **t5, **ids))


@pytest.fixture(scope="session")
def recipe_over(
    tmp_path_factory: pytest.TempPathFactory, base_tokenizer: Callable[[str], Tokenizer], tiny_recipe: TinyRecipe, tiny_results: Path
) -> Callable[[str], Path]:
    """recipe_over(model) -> a recipe over a tiny base of that architecture whose stages before expand are done. Shared."""
    made: dict[str, Path] = {}

    def make(model: str) -> Path:
        if model in made:
            return made[model]
        folder = tmp_path_factory.mktemp(model)
        tokenizer = base_tokenizer({"bert": "bert_uncased", "llama": "mistral"}.get(model, model))
        build(model, tokenizer.get_vocab_size()).save_pretrained(str(folder / "base"))
        tokenizer.save(str(folder / "base" / "tokenizer.json"))
        expand = {"fusion": None, "held_out_records": 6}
        recipe = tiny_recipe(folder, tokenizer={"kind": None}, merge={"random_strings": 20}, expand=expand, pretrain=None, embed=None)
        (folder / "results").mkdir()
        shutil.copytree(tiny_results / "ingest", folder / "results" / "ingest")
        run = Run.load(recipe, out=folder / "results")
        for stage in ("ingest", "tokenizer", "merge"):
            run.run_stage(BY_NAME[stage])
        made[model] = recipe
        return recipe

    return make


@pytest.fixture
def expand(recipe_over: Callable[[str], Path], tmp_path: Path) -> Callable[..., Artifact]:
    """expand(model, "expand.init=…", …) -> the artifact, in a results folder of its own."""

    def call(model: str, *overrides: str, name: str = "results") -> Artifact:
        recipe = recipe_over(model)
        if not (tmp_path / name).exists():
            shutil.copytree(recipe.parent / "results", tmp_path / name)
        run = Run.load(recipe, list(overrides), out=tmp_path / name)
        run.run_stage(BY_NAME["expand"])
        return open_artifact(run.results / "expand")

    return call


def opened(folder: Path, model: str) -> Any:
    import transformers as hf

    return getattr(hf, CLASSES[OBJECTIVES[model]]).from_pretrained(str(folder)).eval()


def base_size(artifact: Artifact) -> int:
    return int(artifact.facts["old_rows"])


@every_model
def test_each_kind_of_model_is_grown_by_its_own_objective(
    expand: Callable[..., Artifact], recipe_over: Callable[[str], Path], model: str
) -> None:
    artifact = expand(model)
    facts = artifact.facts
    assert (facts["objective"], facts["init"], facts["tied"]) == (OBJECTIVES[model], "mean", TIED[model])
    assert facts["old_rows_bit_equal"]
    size = load_tokenizer(artifact.folder).get_vocab_size()
    assert facts["rows"] == size == facts["old_rows"] + facts["new_rows"]
    assert facts["parameters_added"] == facts["new_rows"] * 32 * (1 if TIED[model] else 2)
    assert facts["megabytes_added"] == facts["parameters_added"] * 4 / 1e6
    assert set(facts["held_out_loss_nats"]) == set(facts["held_out_bits_per_base"]) == {"no new tokens", "mean"}
    assert facts["held_out_records"] == 6
    assert all(math.isfinite(loss) and loss > 0 for loss in facts["held_out_loss_nats"].values())
    before, after = opened(recipe_over(model).parent / "base", model), opened(artifact.folder, model)
    old, new = tables_of(before), tables_of(after)
    assert torch.equal(new.input[: base_size(artifact)], old.input)
    assert torch.isfinite(new.input).all()
    assert (new.output is None) == TIED[model]
    if new.output is not None and old.output is not None:
        assert torch.equal(new.output[: base_size(artifact)], old.output)
    assert after.config.vocab_size == size


@every_model
def test_a_random_model_scores_what_guessing_scores(expand: Callable[..., Artifact], model: str) -> None:
    """log(V) nats per token for a model of tiny random weights: what is counted are tokens, and each is predicted once."""
    facts = expand(model).facts
    guess = math.log(facts["rows"])
    assert abs(facts["held_out_loss_nats"]["mean"] - guess) < 0.15 * guess
    residues_per_token = facts["held_out_loss_nats"]["mean"] / math.log(2) / facts["held_out_bits_per_base"]["mean"]
    assert 1 < residues_per_token < 6


@pytest.mark.parametrize("model", ["llama", "t5"])
def test_models_of_other_kinds_are_fused(expand: Callable[..., Artifact], model: str) -> None:
    artifact = expand(model, "expand.fusion={channels: [cpg], operator: cross_attention}")
    assert artifact.facts["fusion"]["step0_max_difference"] == 0.0
    spec = read_spec(artifact.folder)
    assert spec is not None
    assert spec.one_way == (model == "llama")
    assert not spec.channels[0].is_share, "it follows from the sequence"


@pytest.mark.parametrize("model", ["bert", "gpt2", "t5"])
def test_text_of_the_base_has_the_same_logits_over_base_tokens(
    expand: Callable[..., Artifact], recipe_over: Callable[[str], Path], model: str
) -> None:
    artifact, base = expand(model), recipe_over(model).parent / "base"
    ids = torch.tensor([load_tokenizer(artifact.folder).encode("the gene is in the cell").ids])
    inputs = {"input_ids": ids} | ({"decoder_input_ids": ids} if model == "t5" else {})
    with torch.no_grad():
        before, after = opened(base, model)(**inputs).logits, opened(artifact.folder, model)(**inputs).logits
    assert torch.allclose(after[..., : base_size(artifact)], before, atol=1e-6)


@every_model
def test_rows_padded_to_a_multiple_are_no_tokens(expand: Callable[..., Artifact], model: str) -> None:
    plain, padded = expand(model, name="plain"), expand(model, "expand.pad_to_multiple=64", name="padded")
    size = load_tokenizer(padded.folder).get_vocab_size()
    assert padded.facts["rows"] % 64 == 0
    assert 0 < padded.facts["rows"] - size < 64
    assert padded.facts["new_rows"] == plain.facts["new_rows"]
    table = tables_of(opened(padded.folder, model)).input
    assert len(table) == padded.facts["rows"]
    assert torch.equal(table[:size], tables_of(opened(plain.folder, model)).input)
    nats = [artifact.facts["held_out_loss_nats"]["mean"] for artifact in (plain, padded)]
    assert nats[0] == pytest.approx(nats[1], rel=0.02), "at most 1/V of the probability for each padding row"
    assert (nats[0] == pytest.approx(nats[1], rel=1e-6)) == (model == "bert"), "an output bias leaves them none"


@every_model
@pytest.mark.parametrize("init", ["mean", "mix", "normal"])
def test_editing_the_shards_gives_the_bits_of_the_in_memory_way(expand: Callable[..., Artifact], model: str, init: str) -> None:
    ways = [expand(model, f"expand.init={init}", "expand.pad_to_multiple=16", name="memory")]
    ways.append(expand(model, f"expand.init={init}", "expand.pad_to_multiple=16", "expand.in_place_shards=true", name="shards"))
    states = [opened(way.folder, model).state_dict() for way in ways]
    assert states[0].keys() == states[1].keys()
    assert [name for name in states[0] if not torch.equal(states[0][name], states[1][name])] == []
    for key in ("rows", "old_rows", "new_rows", "parameters_added", "megabytes_added", "tied", "objective"):
        assert ways[0].facts[key] == ways[1].facts[key], key
    assert ways[1].facts["held_out_loss_nats"] == {}, "no model was loaded, so no loss was measured"
    configs = [json.loads((way.folder / "config.json").read_text()) for way in ways]
    assert configs[0]["vocab_size"] == configs[1]["vocab_size"] == ways[0].facts["rows"]
    for name in ("tokenizer.json", "biollm_vocabulary.json"):
        assert (ways[0].folder / name).read_bytes() == (ways[1].folder / name).read_bytes()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("model", ["bert", "llama"])
def test_a_base_of_half_precision_keeps_it_and_both_ways_are_equal(
    expand: Callable[..., Artifact], recipe_over: Callable[[str], Path], model: str, dtype: torch.dtype
) -> None:
    """Rows are worked out in float32 from the base's rows, and rounded once."""
    from safetensors.torch import load_file

    folder = recipe_over(model).parent
    half = folder / f"half_{str(dtype).removeprefix('torch.')}"
    if not half.exists():
        shutil.copytree(folder / "base", half)
        opened(folder / "base", model).to(dtype).save_pretrained(str(half))
    change = f"base.model={half.name}"
    run = Run.load(folder / "recipe.yaml", [change], out=folder / f"{half.name}_results")
    if not (folder / f"{half.name}_results" / "ingest").exists():
        shutil.copytree(folder / "results" / "ingest", folder / f"{half.name}_results" / "ingest")
    for stage in ("ingest", "tokenizer", "merge"):
        run.run_stage(BY_NAME[stage])
    ways = []
    for way in ("false", "true"):
        run = Run.load(
            folder / "recipe.yaml",
            [change, "expand.pad_to_multiple=16", f"expand.in_place_shards={way}"],
            out=folder / f"{half.name}_results",
        )
        run.run_stage(BY_NAME["expand"])
        ways.append(load_file(run.results / "expand" / "model.safetensors"))
    assert {tensor.dtype for tensor in ways[0].values()} == {dtype}
    assert ways[0].keys() == ways[1].keys()
    assert [name for name in ways[0] if not torch.equal(ways[0][name], ways[1][name])] == []


def test_a_base_whose_index_names_no_embeddings_is_refused_in_both_ways(recipe_over: Callable[[str], Path]) -> None:
    folder = recipe_over("llama").parent
    opened(folder / "base", "llama").save_pretrained(str(folder / "gone"), max_shard_size="100KB")
    shutil.copyfile(folder / "base" / "tokenizer.json", folder / "gone" / "tokenizer.json")
    index = folder / "gone" / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    for key in ("model.embed_tokens.weight", "lm_head.weight"):
        file = content["weight_map"][key]
        content["weight_map"] = {key: name for key, name in content["weight_map"].items() if name != file}
    index.write_text(json.dumps(content))
    shutil.copytree(folder / "results" / "ingest", folder / "gone_results" / "ingest")
    run = Run.load(folder / "recipe.yaml", ["base.model=gone"], out=folder / "gone_results")
    for stage in ("ingest", "tokenizer", "merge"):
        run.run_stage(BY_NAME[stage])
    with pytest.raises(
        ConfigError, match=r"gone: its weights lack .*model\.embed_tokens\.weight of a LlamaForCausalLM: model.safetensors.index"
    ):
        run.run_stage(BY_NAME["expand"])
    run = Run.load(folder / "recipe.yaml", ["base.model=gone", "expand.in_place_shards=true"], out=folder / "gone_results")
    with pytest.raises(ConfigError, match=r"index\.json: names a file for none of the embedding tables of LlamaForCausalLM"):
        run.run_stage(BY_NAME["expand"])


def test_a_base_in_several_shards_is_edited_in_place(
    expand: Callable[..., Artifact], recipe_over: Callable[[str], Path], tmp_path: Path
) -> None:
    whole = expand("llama", "expand.in_place_shards=true", name="whole")
    base = recipe_over("llama").parent / "base"
    (tmp_path / "copy").mkdir()
    folder = Path(shutil.copytree(base.parent, tmp_path / "copy" / "run"))
    opened(base, "llama").save_pretrained(str(folder / "sharded"), max_shard_size="200KB")
    shutil.copyfile(base / "tokenizer.json", folder / "sharded" / "tokenizer.json")
    before = {path.name: path.read_bytes() for path in (folder / "sharded").iterdir()}
    assert sum(name.endswith(".safetensors") for name in before) > 1
    run = Run.load(folder / "recipe.yaml", ["base.model=sharded", "expand.in_place_shards=true"], out=folder / "sharded_results")
    for stage in ("ingest", "tokenizer", "merge", "expand"):
        run.run_stage(BY_NAME[stage])
    states = [opened(path, "llama").state_dict() for path in (whole.folder, run.results / "expand")]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert {path.name: path.read_bytes() for path in (folder / "sharded").iterdir()} == before, "the base folder is never touched"


@pytest.mark.parametrize("init", [name for name in get_args(InitName) if name != "mean"])
def test_every_initialiser_gives_finite_rows_that_differ(expand: Callable[..., Artifact], init: str) -> None:
    artifact = expand("gpt2", f"expand.init={init}")
    rows = read_table(artifact.folder, "input")[base_size(artifact) :]
    assert np.isfinite(rows).all()
    assert len(np.unique(rows.round(6), axis=0)) > len(rows) // 2, "not one row for all, as transformers' default gives"
    assert set(artifact.facts["held_out_bits_per_base"]) == {"no new tokens", init}


@pytest.mark.parametrize("model", ["bert", "t5"])
def test_all_initialisers_are_compared_on_request(expand: Callable[..., Artifact], model: str) -> None:
    table = expand(model, "expand.compare_inits=true", "expand.compare_steps=2").facts["comparison"]
    assert table["steps"] == 2
    assert [row["init"] for row in table["rows"]] == ["no new tokens", *get_args(InitName)]
    for row in table["rows"]:
        assert math.isfinite(row["step0"])
        assert math.isfinite(row["after"])
        assert row["after"] != row["step0"], "it was trained"
    starts = [row["step0"] for row in table["rows"]]
    assert len(set(starts)) == len(starts), "each start is another model"


def test_the_comparison_starts_from_what_the_stage_itself_measures(expand: Callable[..., Artifact]) -> None:
    facts = expand("gpt2", "expand.compare_inits=true", "expand.compare_steps=1", "expand.init=mix").facts
    starts = {row["init"]: row["step0"] for row in facts["comparison"]["rows"]}
    for name in ("no new tokens", "mix"):
        assert starts[name] == pytest.approx(facts["held_out_bits_per_base"][name], rel=1e-6)


def test_a_base_that_cannot_read_the_sequences_has_no_row_of_its_own(
    tmp_path: Path,
    tiny_recipe: TinyRecipe,
    make_bert_base: Callable[..., Path],
    tiny_results: Path,
    bert_base: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    known = sorted(load_tokenizer(bert_base).get_vocab().items(), key=lambda item: item[1])
    make_bert_base(tmp_path / "base", vocabulary=[token for token, _ in known if token not in ("t", "##t", "##tion", "tag", "##gat")])
    recipe = tiny_recipe(tmp_path, expand={"fusion": None, "compare_inits": True, "compare_steps": 1}, pretrain=None, embed=None)
    (tmp_path / "results").mkdir()
    shutil.copytree(tiny_results / "ingest", tmp_path / "results" / "ingest")
    run = Run.load(recipe, out=tmp_path / "results")
    for stage in ("ingest", "tokenizer", "merge", "expand"):
        run.run_stage(BY_NAME[stage])
    facts = open_artifact(run.results / "expand").facts
    assert list(facts["held_out_loss_nats"]) == ["mean"]
    first = facts["comparison"]["rows"][0]
    why = "the base reads 100% of the letters as unknown tokens, the merged tokenizer 0%"
    assert first == {"init": "no new tokens", "step0": None, "after": None, "why": why}
    said = capsys.readouterr().err
    assert f"expand: no new tokens  no loss, as {why}" in said
    assert f"expand: no held-out loss of the base as it is: {why}" in said
    assert open_artifact(run.results / "merge").facts["domains"][0]["unknown_share_before"] > 0


def test_the_same_recipe_gives_the_same_bytes_and_another_seed_other_rows(expand: Callable[..., Artifact]) -> None:
    one, two = (expand("gpt2", "expand.init=normal", name=name) for name in ("one", "two"))
    assert one.digest == two.digest


@pytest.mark.parametrize("model", ["gpt2", "llama"])
def test_a_donor_that_knows_the_new_tokens_gives_them_their_rows(
    expand: Callable[..., Artifact], recipe_over: Callable[[str], Path], model: str
) -> None:
    """The donor has the base's own rows, and random ones for the new tokens: what it says of shared tokens it says of the new ones.
    Of untied tables, each gets what the donor's table of its kind says."""
    without = expand(model, "expand.init=omp", name="without")
    base, donor = recipe_over(model).parent / "base", recipe_over(model).parent / "donor"
    known, merged = load_tokenizer(base), load_tokenizer(without.folder)
    vocabulary = DomainVocabulary.load(without.folder)
    assert vocabulary is not None
    texts = vocabulary.readable(merged)
    learnt = [text for text in texts if len(text) > 1 and known.token_to_id(text) is None]
    assert len(learnt) > 20
    stock = opened(base, model)
    rows, output = torch.from_numpy(np.random.default_rng(0).normal(scale=0.02, size=(2, len(learnt), 32)).astype(np.float32))
    resize(stock, known.get_vocab_size() + len(learnt), rows, new_output_rows_ND=None if TIED[model] else output)
    stock.save_pretrained(str(donor))
    known.add_tokens(learnt)
    known.save(str(donor / "tokenizer.json"))
    grown = expand(model, "expand.init=omp", "expand.donor=donor", name="grown")
    places = [base_size(grown) + texts.index(text) for text in learnt]

    def likeness(artifact: Artifact, which: Any, wanted: Any) -> float:
        found = torch.from_numpy(read_table(artifact.folder, which)[places])
        return float(torch.nn.functional.cosine_similarity(found, wanted).mean())

    assert likeness(grown, "input", rows) > 0.5
    assert likeness(grown, "output", rows if TIED[model] else output) > 0.5
    assert abs(likeness(without, "input", rows)) < 0.3


# --- refusals -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["expand.in_place_shards=true", "expand.fusion={channels: [cpg]}"],
            "expand.in_place_shards never loads the model, which expand.fusion needs; drop one of the two",
        ),
        (["expand.in_place_shards=true", "expand.compare_inits=true"], "never loads the model, which expand.compare_inits needs"),
        (["expand.in_place_shards=true", "expand.init=distill"], "expand.init is 'distill', which learns through the model"),
        (["expand.donor=base"], "expand.donor is read by init 'omp' only, but expand.init is 'mean'"),
        (["expand.fusion={channels: [gc]}"], r"expand.fusion.channels names \['gc'\], but ingest.tracks makes \['cpg'\]"),
        (["expand.init=avg"], "expand.init is 'avg'; it should be 'mean', 'normal'"),
        (["expand.pad_to_multiple=0"], "expand.pad_to_multiple is 0; it should be greater than or equal to 1"),
        (["expand.compare_inits=[mean]"], r"expand.compare_inits is \['mean'\]; it should be a valid boolean"),
        (["expand.held_out_records=0"], "expand.held_out_records is 0; it should be greater than or equal to 1"),
    ],
)
def test_contradictions_are_found_before_anything_runs(recipe_over: Callable[[str], Path], overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Run.load(recipe_over("gpt2"), overrides, out=Path("results"))


@pytest.mark.parametrize("key", ["compare_inits=true", "init=distill"])
def test_texts_of_the_domain_are_needed_where_something_is_learnt(tmp_path: Path, tiny_recipe: TinyRecipe, key: str) -> None:
    merge = {"domains": [{"strategy": "isolate", "tokenizer": "dna"}]}
    recipe = tiny_recipe(tmp_path, ingest=None, tokenizer=None, merge=merge, expand={"fusion": None}, pretrain=None, embed=None)
    with pytest.raises(
        ConfigError, match="expand needs texts of the domain for compare_inits and for init 'distill'; add a section 'ingest'"
    ):
        Run.load(recipe, [f"expand.{key}"], out=tmp_path / "results")


def test_without_a_corpus_the_model_grows_and_no_loss_is_claimed(
    tmp_path: Path, tiny_recipe: TinyRecipe, domain_tokenizer: Callable[..., Any]
) -> None:
    (tmp_path / "dna").mkdir()
    domain_tokenizer("dna", "wordpiece").save(tmp_path / "dna")
    merge = {"domains": [{"strategy": "isolate", "tokenizer": "dna"}]}
    recipe = tiny_recipe(tmp_path, ingest=None, tokenizer=None, merge=merge, expand={"fusion": None}, pretrain=None, embed=None)
    run = Run.load(recipe, out=tmp_path / "results")
    for stage in ("merge", "expand"):
        run.run_stage(BY_NAME[stage])
    facts = open_artifact(run.results / "expand").facts
    assert (facts["held_out_records"], facts["held_out_loss_nats"], facts["held_out_bits_per_base"]) == (0, {}, {})
    assert facts["rows"] == facts["old_rows"] + facts["new_rows"]


def test_a_base_whose_config_nobody_can_read(recipe_over: Callable[[str], Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(recipe_over("gpt2").parent, tmp_path / "copy"))
    (folder / "base" / "config.json").write_text('{"model_type": "unheard-of"}')
    run = Run.load(folder / "recipe.yaml", out=folder / "results")
    for stage in ("tokenizer", "merge"):  # of the base's kind, and so made anew for another base
        run.run_stage(BY_NAME[stage])
    with pytest.raises(ConfigError, match=r"base: transformers cannot read its config\.json: "):
        run.run_stage(BY_NAME["expand"])
    assert not (folder / "results" / "expand").exists()


def test_a_donor_folder_that_is_not_there(expand: Callable[..., Artifact]) -> None:
    from biollm.core.errors import ResourceError

    with pytest.raises(ResourceError, match="nowhere: no such"):
        expand("gpt2", "expand.init=omp", "expand.donor=nowhere")


def test_sequences_longer_than_the_base_reads_are_said_to_be(
    tmp_path: Path, tiny_recipe: TinyRecipe, make_bert_base: Callable[..., Path], tiny_results: Path
) -> None:
    from biollm.core.errors import BiollmError

    make_bert_base(tmp_path / "base", max_position_embeddings=16)
    recipe = tiny_recipe(tmp_path, expand={"fusion": None}, pretrain=None, embed=None)
    (tmp_path / "results").mkdir()
    shutil.copytree(tiny_results / "ingest", tmp_path / "results" / "ingest")
    run = Run.load(recipe, out=tmp_path / "results")
    for stage in ("ingest", "tokenizer", "merge"):
        run.run_stage(BY_NAME[stage])
    with pytest.raises(BiollmError, match="tokens"):
        run.run_stage(BY_NAME["expand"])
