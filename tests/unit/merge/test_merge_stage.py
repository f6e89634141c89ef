"""The stage: from folders to one stock tokenizer.json with its proof; and the folders that it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import yaml

from biollm.core.artifacts import Artifact, open_artifact
from biollm.core.errors import ArtifactError, ConfigError, DataError, ResourceError
from biollm.merge import stage
from biollm.modeling.domain import PREFIX
from biollm.modeling.encoding import Encoder
from biollm.modeling.vocabulary import DomainVocabulary
from biollm.stages import BY_NAME, Run
from tokenizers import AddedToken, Tokenizer, processors

TEMPLATE = "{% for message in messages %}<|im_start|>{{ message['content'] }}{% endfor %}"
PLAIN = "The gene is in the cell.\nA TATA box: GATTACA (short).\n\nthe run GATTACAGATTACAGATTACA is DNA\nNumbers 1234, an é accent.\n"
Prepare = Callable[..., Path]


@pytest.fixture
def prepare(tmp_path: Path, base_tokenizer: Callable[[str], Tokenizer], domain_tokenizer: Callable[..., Any]) -> Prepare:
    """prepare(base="gpt2", domains=["dna"], **merge keys) -> a recipe whose only stage is merge, with its folders beside it."""

    def make(base: str = "gpt2", domains: list[Any] | None = None, **merge: Any) -> Path:
        kind = {"WordPiece": "wordpiece", "Unigram": "unigram"}.get(type(base_tokenizer(base).model).__name__, "bpe")
        tokenizer = Tokenizer.from_str(base_tokenizer(base).to_str())
        tokenizer.enable_truncation(16)
        tokenizer.enable_padding(length=16)
        (tmp_path / "base").mkdir()
        tokenizer.save(str(tmp_path / "base" / "tokenizer.json"))
        special = next(iter(tokenizer.get_added_tokens_decoder().values())).content
        config = {"tokenizer_class": "GPT2Tokenizer", "model_max_length": 512, "eos_token": special, "pad_token": special}
        (tmp_path / "base" / "tokenizer_config.json").write_text(json.dumps(config))
        (tmp_path / "base" / "chat_template.jinja").write_text(TEMPLATE)
        sections = []
        for domain in ["dna"] if domains is None else domains:
            if isinstance(domain, str):
                (tmp_path / domain).mkdir(exist_ok=True)
                domain_tokenizer(domain, kind).save(tmp_path / domain)
            sections.append({"strategy": "isolate", "tokenizer": domain} if isinstance(domain, str) else domain)
        (tmp_path / "plain.txt").write_text(PLAIN)
        values = {"plain_text": ["plain.txt"], "domains": sections, "random_strings": 100} | merge
        recipe = tmp_path / "recipe.yaml"
        recipe.write_text(yaml.safe_dump({"name": "x", "seed": 1, "base": {"model": "base"}, "merge": values}))
        return recipe

    return make


def merge(recipe: Path, *overrides: str, out: str = "results") -> Artifact:
    run = Run.load(recipe, list(overrides), out=recipe.parent / out)
    run.run_stage(BY_NAME["merge"])
    return open_artifact(run.results / "merge")


def domain_facts(artifact: Artifact) -> dict[str, dict[str, Any]]:
    return {facts["name"]: facts for facts in artifact.facts["domains"]}


@pytest.mark.parametrize("base", ["gpt2", "mistral", "bert_cased", "t5"])
def test_the_stage_writes_one_stock_tokenizer_with_its_proof(
    prepare: Prepare, base_tokenizer: Callable[[str], Tokenizer], base: str
) -> None:
    recipe = prepare(base, ["dna", "protein"])
    artifact = merge(recipe)
    facts = artifact.facts
    own = base_tokenizer(base)
    written = Tokenizer.from_file(str(artifact.folder / "tokenizer.json"))
    assert facts["base_vocab_size"] == own.get_vocab_size()
    assert facts["merged_vocab_size"] == written.get_vocab_size() == facts["base_vocab_size"] + facts["new_tokens"]
    assert facts["base_tokens_moved"] == 0
    assert list(domain_facts(artifact)) == ["dna", "protein"]
    for name, proved in domain_facts(artifact).items():
        assert (proved["plain_lines"], proved["plain_lines_changed"], proved["lines_with_domain_sequences"]) == (3, 0, 1)
        assert (proved["sequences_changed"], proved["round_trip_failures"], proved["unreachable_tokens"]) == (0, 0, 0)
        assert (proved["random_strings"], proved["random_strings_failed"]) == (100, 0)
        assert 1 < proved["residues_per_token_after"] < 10
        if proved["unknown_share_before"] == 0:  # else the base reads a whole sequence as one unknown token
            assert proved["residues_per_token_before"] < proved["residues_per_token_after"]
        assert proved["sequences"] > 10
        assert proved["modality"] == name
    assert sum(proved["new_tokens"] for proved in facts["domains"]) == facts["new_tokens"]


def test_examples_show_the_pieces_of_the_text_before_and_after(prepare: Prepare) -> None:
    artifact = merge(prepare("gpt2", ["dna", "protein"]))
    for name, facts in domain_facts(artifact).items():
        assert len(facts["examples"]) == 10
        for example in facts["examples"]:
            text = example["text"]
            assert text.startswith("<protein>") == (name == "protein")
            assert "".join(example["before"]) == text
            assert "".join(example["after"]) == text
            assert len(example["after"]) < len(example["before"])


def test_truncation_and_padding_are_switched_off_and_said_so(prepare: Prepare) -> None:
    recipe = prepare()
    given = json.loads((recipe.parent / "base" / "tokenizer.json").read_text())
    assert None not in (given["truncation"], given["padding"]), "the base arrives with both on"
    artifact = merge(recipe)
    assert artifact.facts["truncation_switched_off"]
    assert artifact.facts["padding_switched_off"]
    tokenizer = Tokenizer.from_file(str(artifact.folder / "tokenizer.json"))
    assert len(tokenizer.encode("the gene " * 30).ids) > 16
    assert len(tokenizer.encode("a").ids) == 1
    given |= {"truncation": None, "padding": None}
    (recipe.parent / "base" / "tokenizer.json").write_text(json.dumps(given))
    again = merge(recipe, out="again")
    assert not again.facts["truncation_switched_off"]
    assert not again.facts["padding_switched_off"]


@pytest.mark.parametrize("base", ["gpt2", "llama3", "llama2", "bert_uncased", "t5"])
def test_transformers_opens_it_without_us_and_keeps_what_the_base_had(prepare: Prepare, base: str) -> None:
    from transformers import AutoTokenizer

    recipe = prepare(base, ["dna", "smiles"])
    folder = merge(recipe).folder
    stock, plain = AutoTokenizer.from_pretrained(str(folder)), Tokenizer.from_file(str(folder / "tokenizer.json"))
    for text in ("the GATTACAGATTACA and <dna>ACGT</dna>, <smiles>c1ccccc1O</smiles>", "", " plain  text\n"):
        assert stock(text)["input_ids"] == plain.encode(text).ids
    assert stock.chat_template == TEMPLATE
    assert stock.model_max_length == 512
    assert stock.eos_token_id == plain.token_to_id(stock.eos_token) is not None
    assert (folder / "base_tokenizer.json").read_bytes() == (recipe.parent / "base" / "tokenizer.json").read_bytes()


def test_saving_and_loading_by_transformers_fifty_times_gives_the_same_bytes(prepare: Prepare, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    folder = merge(prepare("bert_cased", ["dna", "protein"])).folder
    AutoTokenizer.from_pretrained(str(folder)).save_pretrained(str(tmp_path / "0"))
    first = (tmp_path / "0" / "tokenizer.json").read_bytes()
    assert json.loads(first)["model"] == json.loads((folder / "tokenizer.json").read_text())["model"]
    for i in range(1, 51):
        AutoTokenizer.from_pretrained(str(tmp_path / str(i - 1))).save_pretrained(str(tmp_path / str(i)))
        assert (tmp_path / str(i) / "tokenizer.json").read_bytes() == first
    text = "the GATTACAGATTACA of <protein>MKV</protein>"
    assert AutoTokenizer.from_pretrained(str(tmp_path / "50"))(text) == AutoTokenizer.from_pretrained(str(folder))(text)


def test_the_same_recipe_gives_the_same_bytes(prepare: Prepare) -> None:
    recipe = prepare("t5", ["dna", "protein"])
    assert merge(recipe).digest == merge(recipe, out="again").digest


@pytest.mark.parametrize("base", ["gpt2", "bert_uncased", "t5"])
def test_a_merged_folder_is_a_base_for_the_next_domain(prepare: Prepare, base: str) -> None:
    recipe = prepare(base, ["dna", "protein"])
    one_go = merge(recipe, out="one_go")
    dna = merge(recipe, "merge.domains=[{strategy: isolate, tokenizer: dna}]", out="dna")
    after = merge(recipe, "merge.domains=[{strategy: isolate, tokenizer: protein}]", "base.model=dna/merge", out="after")
    assert (after.folder / "tokenizer.json").read_bytes() == (one_go.folder / "tokenizer.json").read_bytes()
    assert DomainVocabulary.load(after.folder) == DomainVocabulary.load(one_go.folder)
    ids = Tokenizer.from_file(str(dna.folder / "tokenizer.json")).get_vocab()
    merged = Tokenizer.from_file(str(after.folder / "tokenizer.json"))
    assert {token: merged.token_to_id(token) for token in ids} == ids
    assert after.facts["base_vocab_size"] == dna.facts["merged_vocab_size"]


def test_the_sidecars_agree_with_the_tokenizers(prepare: Prepare) -> None:
    recipe = prepare("bert_cased", ["dna", "smiles"])
    folder = merge(recipe).folder
    merged = Tokenizer.from_file(str(folder / "tokenizer.json"))
    vocabulary = DomainVocabulary.load(folder)
    assert vocabulary is not None
    assert vocabulary.base_vocab_size + vocabulary.new_tokens == merged.get_vocab_size()
    id_maps = json.loads((folder / "id_map.json").read_text())
    texts = vocabulary.readable(merged)
    for domain in vocabulary.domains:
        own = Tokenizer.from_file(str(recipe.parent / domain.name / "tokenizer.json"))
        id_map = {int(old): new for old, new in id_maps[domain.name].items()}
        assert sorted(id_map) == [i for i in range(own.get_vocab_size()) if own.id_to_token(i) != "[UNK]"]
        assert all(texts[new - vocabulary.base_vocab_size] == str(own.id_to_token(old)).removeprefix(PREFIX) for old, new in id_map.items())


def test_words_and_sequences_go_into_one_tokenizer(prepare: Prepare, plain_lines: Callable[[int], list[str]]) -> None:
    words = {"strategy": "continue", "text": ["words.txt"], "new_tokens": 20, "min_count": 3}
    recipe = prepare("gpt2", ["dna", words, "protein"])
    (recipe.parent / "words.txt").write_text("\n".join(plain_lines(400)))
    artifact = merge(recipe)
    dna, learnt, protein = artifact.facts["domains"]
    assert (dna["strategy"], learnt["strategy"], protein["strategy"]) == ("isolate", "continue", "isolate")
    assert dna["first_id"] + dna["new_tokens"] == learnt["first_id"]
    assert learnt["first_id"] + learnt["new_tokens"] == protein["first_id"]
    assert learnt["new_tokens"] == 20
    merged = Tokenizer.from_file(str(artifact.folder / "tokenizer.json"))
    alone = merge(recipe, "merge.domains=[{strategy: isolate, tokenizer: dna}]", out="alone")
    sequence = "the GATTACAGATTACAGGG of"
    assert merged.encode(sequence).ids == Tokenizer.from_file(str(alone.folder / "tokenizer.json")).encode(sequence).ids


@pytest.mark.parametrize(
    ("base", "model_type", "kept"),
    [
        ("gpt2", "gpt2", {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}),
        ("bert_cased", "bert", {"unk_token": "[UNK]", "sep_token": "[SEP]", "pad_token": "[PAD]", "cls_token": "[CLS]"}),
    ],
)
def test_what_the_base_s_tokenizer_class_supplies_is_written_down(
    prepare: Prepare, base: str, model_type: str, kept: dict[str, str]
) -> None:
    """As on the hub: no special token stands in the settings, the class knows them."""
    from transformers import AutoTokenizer

    recipe = prepare(base, ["dna"])
    folder = recipe.parent / "base"
    if base == "bert_cased":
        own = Tokenizer.from_file(str(folder / "tokenizer.json"))
        own.post_processor = processors.BertProcessing(*((token, own.token_to_id(token)) for token in ("[SEP]", "[CLS]")))
        own.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 512}))
    (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
    before, after = (AutoTokenizer.from_pretrained(str(path)) for path in (folder, merge(recipe).folder))
    assert kept.items() <= before.special_tokens_map.items()
    assert kept.items() <= after.special_tokens_map.items()
    assert {name: getattr(after, f"{name}_id") for name in kept} == {name: getattr(before, f"{name}_id") for name in kept}
    assert after.model_input_names == before.model_input_names
    assert dict(after("the gene", "the cell")) == dict(before("the gene", "the cell"))
    if base == "gpt2":
        assert Encoder(recipe.parent / "results" / "merge").end_id == before.eos_token_id


def test_a_special_token_that_the_tokenizer_lacks_is_left_out_and_said_so(prepare: Prepare, capsys: pytest.CaptureFixture[str]) -> None:
    from transformers import AutoTokenizer

    recipe = prepare("gpt2", ["dna"])
    (recipe.parent / "base" / "tokenizer_config.json").write_text(json.dumps({"pad_token": "<nowhere>"}))
    artifact = merge(recipe)
    note = "the special token '<nowhere>' is in its settings, but not in its tokenizer.json, and is left out"
    assert note in artifact.facts["base_notes"]
    said = capsys.readouterr().err
    assert f"merge: the base: {note}" in said
    assert "merge: the base: truncation is on in its tokenizer.json, and is switched off" in said
    assert "merge: the base: padding is on in its tokenizer.json, and is switched off" in said
    assert len(AutoTokenizer.from_pretrained(str(artifact.folder))) == artifact.facts["merged_vocab_size"]


@pytest.mark.parametrize("base", ["gpt2", "bert_cased"])
def test_either_case_is_merged_and_read_back_in_upper_case(prepare: Prepare, base: str) -> None:
    recipe = prepare(base, ["dna", "protein", "smiles"], random_strings=300)
    domains = yaml.safe_load(recipe.read_text())["merge"]["domains"]
    any_case = json.dumps([domain | {"case": "any"} for domain in domains])
    artifact = merge(recipe, f"merge.domains={any_case}")
    assert artifact.facts["domains"][0]["random_strings_failed"] == 0
    merged = Tokenizer.from_file(str(artifact.folder / "tokenizer.json"))
    assert "GATTACAGATTACA" in merged.decode(merged.encode("the gattacagattaca of").ids)


def test_sequences_and_random_strings_are_proved_on_what_was_written(
    prepare: Prepare, plain_lines: Callable[[int], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A later domain that spoils an earlier one stops the merge; so does one of words that changes what is no word of it."""
    words = {"strategy": "continue", "text": ["words.txt"], "new_tokens": 20, "min_count": 3}
    recipe = prepare("gpt2", ["dna", "protein", words])
    (recipe.parent / "words.txt").write_text("\n".join(plain_lines(400)))
    facts = merge(recipe, out="good").facts["domains"]
    assert [(domain["random_strings"], domain["random_strings_failed"]) for domain in facts] == [(100, 0)] * 3
    save = stage.State.tokenizer.fget
    assert save is not None

    def spoilt(state: stage.State) -> Tokenizer:
        content = json.loads(json.dumps(state.json))
        if len(state.vocabulary.domains) == 3:
            dna = state.vocabulary.domains[0]
            units = [content["model"]["vocab"][unit] for unit in dna.model_units.values()]
            assert units
            merges = content["model"]["merges"]
            learnt = next(
                i for i, (left, right) in enumerate(merges) if left in dna.model_units.values() and right in dna.model_units.values()
            )
            merges.insert(learnt, merges.pop(learnt + 5))
        return Tokenizer.from_str(json.dumps(content))

    monkeypatch.setattr(stage.State, "tokenizer", property(spoilt))
    refused(recipe, DataError, "the fast path reads|gets other tokens")


@pytest.mark.parametrize("base", ["gpt2", "bert_cased", "t5"])
def test_random_strings_come_back_with_words_alone(prepare: Prepare, plain_lines: Callable[[int], list[str]], base: str) -> None:
    words = {"strategy": "continue", "text": ["words.txt"], "new_tokens": 20, "min_count": 3}
    recipe = prepare(base, [words], random_strings=1000)
    (recipe.parent / "words.txt").write_text("\n".join(plain_lines(400)))
    (facts,) = merge(recipe).facts["domains"]
    assert (facts["random_strings"], facts["random_strings_failed"]) == (1000, 0)


def test_fewer_words_than_asked_for_and_fewer_lines_are_said(prepare: Prepare, capsys: pytest.CaptureFixture[str]) -> None:
    words = {"strategy": "continue", "text": ["words.txt"], "new_tokens": 2000, "min_count": 3}
    recipe = prepare("gpt2", [words])
    (recipe.parent / "words.txt").write_text("the hyperlipidemia of hyperlipid\n" * 5)
    (facts,) = merge(recipe).facts["domains"]
    said = capsys.readouterr().err
    assert f"merge: words: {facts['new_tokens']} of the 2000 new tokens asked for; the text holds no more" in said
    assert f"{facts['lines_changed']} of 4 plain lines hold them, 0 are cut anew" in said
    assert "merge: proved on 4 plain lines; merge.plain_lines asks for 100,000, but plain_text holds no more" in said


def test_what_a_ready_tokenizer_leaves_unused_is_known(prepare: Prepare) -> None:
    recipe = prepare("gpt2", ["dna", "protein"])
    (recipe.parent / "dna" / "manifest.json").write_text(json.dumps({"facts": {"vocab_size": 150, "tokens_unused_in_train": 3}}))
    dna, protein = merge(recipe).facts["domains"]
    assert (dna["learnt_tokens"], dna["unused_in_training"]) == (150, 3)
    assert (protein["learnt_tokens"], protein["unused_in_training"]) == (None, None)


# --- refusals -----------------------------------------------------------------------------------------------------------------


def refused(recipe: Path, error: type[Exception], match: str, *overrides: str) -> None:
    with pytest.raises(error, match=match):
        merge(recipe, *overrides)
    assert not (recipe.parent / "results" / "merge").exists()
    assert not list((recipe.parent / "results").glob("*.partial"))


def test_a_base_without_tokenizer_json(prepare: Prepare) -> None:
    recipe = prepare()
    (recipe.parent / "base" / "tokenizer.json").unlink()
    refused(recipe, ConfigError, r"base: holds no tokenizer\.json; biollm needs the fast tokenizer of the model")


def test_a_base_whose_tokenizer_json_is_none(prepare: Prepare) -> None:
    recipe = prepare()
    (recipe.parent / "base" / "tokenizer.json").write_text('{"version": "1.0"}')
    refused(recipe, ConfigError, r"tokenizer\.json: not a tokenizer\.json that this version of tokenizers reads")


def test_the_same_domain_twice(prepare: Prepare) -> None:
    refused(
        prepare("gpt2", ["dna", "dna"]), ConfigError, "the base already has a domain 'dna'; a merged tokenizer has one domain of each kind"
    )


def test_a_domain_that_the_base_was_merged_with_before(prepare: Prepare) -> None:
    recipe = prepare("gpt2", ["dna"])
    merge(recipe, out="before")
    refused(recipe, ConfigError, "the base already has a domain 'dna'", "base.model=before/merge")


def test_a_domain_that_no_text_could_hold(prepare: Prepare) -> None:
    recipe = prepare("gpt2", ["protein"])
    domains = "merge.domains=[{strategy: isolate, tokenizer: protein, tags: false}]"
    refused(recipe, ConfigError, "runs and tags are both off, so no text could hold a protein sequence; switch one on", domains)


def test_text_and_overlapping_kmers_cannot_be_isolated(prepare: Prepare, domain_tokenizer: Callable[..., Any]) -> None:
    from biollm.modeling.domain import DomainSpec, DomainTokenizer
    from biollm.tokenizer.train import build_chars, build_overlapping_kmers

    recipe = prepare("gpt2", ["dna"])
    letters = build_chars(None)
    spec = DomainSpec(
        modality="text", kind="char", residues="", case="kept", vocab_size=letters.get_vocab_size(), piece_residues=None, kmer=None,
        overlapping=False, strands=1,
    )  # fmt: skip
    DomainTokenizer(letters, spec, ["words"]).save(recipe.parent / "dna")
    refused(recipe, ConfigError, "the tokenizer dna cannot be isolated: words have no alphabet of their own; .* strategy 'continue'")
    kmers = build_overlapping_kmers("ACGTN", 2)
    spec = spec.model_copy(update={"modality": "dna", "kind": "kmer", "residues": "ACGTN", "case": "upper", "kmer": 2, "overlapping": True})
    spec = spec.model_copy(update={"vocab_size": kmers.get_vocab_size()})
    DomainTokenizer(kmers, spec, ["ACGT"]).save(recipe.parent / "dna")
    refused(recipe, ConfigError, "the tokenizer dna cannot be isolated: overlapping k-mers cannot be cut out of a text")


@pytest.mark.parametrize("name", ["domain.json", "probe.txt"])
def test_a_domain_folder_that_lacks_a_file(prepare: Prepare, name: str) -> None:
    recipe = prepare()
    (recipe.parent / "dna" / name).unlink()
    refused(recipe, ArtifactError, f"dna: no domain tokenizer .{name} is missing.; make it again with the stage 'tokenizer'")


def test_a_domain_folder_with_another_tokenizer_in_it(prepare: Prepare, domain_tokenizer: Callable[..., Any]) -> None:
    recipe = prepare()
    domain_tokenizer("dna", "char").tokenizer.save(str(recipe.parent / "dna" / "tokenizer.json"))
    refused(recipe, ArtifactError, r"dna: domain\.json speaks of 150 tokens, but tokenizer\.json has 5; make it again")


def test_a_domain_folder_that_is_not_there(prepare: Prepare) -> None:
    recipe = prepare()
    refused(
        recipe,
        ResourceError,
        "rna: no such file .that folder holds base, dna, plain.txt",
        "merge.domains=[{strategy: isolate, tokenizer: rna}]",
    )


def test_a_damaged_sidecar_of_a_merged_base(prepare: Prepare) -> None:
    recipe = prepare("gpt2", ["dna", "protein"])
    before = merge(recipe, "merge.domains=[{strategy: isolate, tokenizer: dna}]", out="before")
    sidecar = before.folder / "biollm_vocabulary.json"
    sidecar.write_text(sidecar.read_text()[:50])
    protein = "merge.domains=[{strategy: isolate, tokenizer: protein}]"
    refused(recipe, ConfigError, r"biollm_vocabulary\.json", "base.model=before/merge", protein)


def test_plain_text_that_is_not_utf8(prepare: Prepare) -> None:
    recipe = prepare()
    (recipe.parent / "plain.txt").write_bytes(b"caf\xe9\n")
    refused(recipe, DataError, r"plain\.txt: not UTF-8 text")


def test_kinds_that_do_not_match_are_said_before_anything_is_written(prepare: Prepare, domain_tokenizer: Callable[..., Any]) -> None:
    recipe = prepare("bert_cased", ["dna"])
    domain_tokenizer("dna", "bpe").save(recipe.parent / "dna")
    refused(recipe, ConfigError, "a domain tokenizer of kind 'bpe' cannot live in a WordPiece base")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("merge.domains=[{strategy: isolate}]", r"merge.domains\[0\] names no tokenizer, and the recipe has no section 'tokenizer'"),
        ("merge.domains=[]", "merge.domains"),
        ("merge.domains=[{strategy: append}]", "merge.domains.0"),
        ("merge.domains=[{strategy: isolate, tokenizer: dna, min_run: 3}]", "min_run is 3; it should be greater than or equal to 8"),
        ("merge.plain_text=[]", "merge.plain_text"),
        ("base.model=''", r"the section 'merge' extends the tokenizer of a base model, but the recipe names none"),
    ],
)
def test_recipes_that_cannot_be(prepare: Prepare, override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Run.load(prepare(), [override], out=Path("results"))


def test_the_own_tokenizer_twice_is_refused(prepare: Prepare) -> None:
    own = ["merge.domains=[{strategy: isolate}, {strategy: isolate}]", "tokenizer={kind: bpe, files: [plain.txt]}"]
    with pytest.raises(ConfigError, match=r"merge.domains\[1\] is the recipe's own tokenizer a second time; name another folder"):
        Run.load(prepare(), own, out=Path("results"))


def test_plain_text_without_a_line(prepare: Prepare) -> None:
    recipe = prepare()
    (recipe.parent / "plain.txt").write_text("\n  \n")
    refused(recipe, DataError, r"merge.plain_text: plain.txt hold no line of text, so nothing can be proved; name other files")


def test_a_base_with_the_tags_as_tokens_of_its_own(prepare: Prepare) -> None:
    recipe = prepare()
    file = recipe.parent / "base" / "tokenizer.json"
    base = Tokenizer.from_file(str(file))
    base.add_tokens([AddedToken("<dna>", normalized=False)])
    base.save(str(file))
    refused(recipe, ConfigError, "the base tokenizer has '<dna>' as an added token, .* set tags: false for this domain")
    merge(recipe, "merge.domains=[{strategy: isolate, tokenizer: dna, tags: false}]", out="without")


def test_a_short_sequence_between_tags_is_tried(prepare: Prepare, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = prepare()
    file = recipe.parent / "base" / "tokenizer.json"
    base = Tokenizer.from_file(str(file))
    base.add_tokens([AddedToken("<dna>", normalized=False)])
    base.save(str(file))
    monkeypatch.setattr(stage, "_check_tags", lambda *_: None)
    refused(recipe, DataError, "'of <dna>.*</dna>.' is not read as a sequence between tags")


def test_a_full_disk_in_the_middle_leaves_nothing(
    prepare: Prepare, files_of_at_most: Callable[[int], AbstractContextManager[None]]
) -> None:
    recipe = prepare("gpt2", ["dna"])
    size = (recipe.parent / "base" / "tokenizer.json").stat().st_size
    with files_of_at_most(size):  # the copy of the base's tokenizer passes, the merged one does not
        refused(recipe, ResourceError, r"results/merge: cannot write: the file would exceed the file-size limit")
    assert merge(recipe).facts["new_tokens"] > 0
