"""How fast merged tokenizers read plain text, against the base: the cost of looking for sequences in every text.

Lines: those that the merge of pipelines/quickstart.yaml is proved on (biomedical text, gene symbols, names, English, code); documents:
the same lines joined in tens. Bases: MiniLM's WordPiece; the files of ../shared/data/tokenizers where they lie, and GPT-2's once more with
the words of Llama 3 and of SmolLM2; two Unigrams whose pieces are learnt from the same lines, one with the words of t5-small, one as
transformers makes it of a SentencePiece model. CPU time of one thread; small parts of the texts are read by all tokenizers in turn, and
the fastest of some rounds counts: what else the machine does costs tens of percent in any one of them. Each tokenizer is there several
times, and their mean counts, since copies of one differ by up to 5 %: their tables lie elsewhere in memory, and hash otherwise.
"""

from __future__ import annotations

import json
import os
import statistics
import time
from itertools import product
from pathlib import Path
from typing import Any

import yaml
from harness import record

from biollm.core.alphabets import DNA
from biollm.core.resources import resolve_files, resolve_folder
from biollm.merge.isolate import Recognition, add_domain
from biollm.merge.proof import read_lines, sample_lines
from biollm.merge.tokenizer_file import next_id
from biollm.modeling.domain import DomainTokenizer
from biollm.modeling.gguf_base import repair_pre_tokenizer
from biollm.modeling.vocabulary import DomainVocabulary
from biollm.tokenizer.train import train_unigram, train_wordpiece
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared" / "data" / "tokenizers"
LINES, ROUNDS, COPIES, PARTS = 6000, 3, 8, 60
SEQUENCES = ("dna", "protein", "smiles")


def bases(minilm: Path, lines: list[str]) -> dict[str, Tokenizer]:
    """A base of each kind that is at hand, with neither truncation nor padding."""
    found = {"MiniLM": Tokenizer.from_file(str(minilm)), "Unigram, T5's": unigram(lines, cut=True), "Unigram": unigram(lines, cut=False)}
    for name in ("gpt2", "mistral01", "modernbert", "gpt_neox"):
        if (file := SHARED / f"{name}.tokenizer.json").is_file():
            found[name] = Tokenizer.from_file(str(file))
        else:
            print(f"{name}: not here, left out")
    if "gpt2" in found:
        for words in ("llama-bpe", "smollm"):
            found[f"gpt2, {words}"] = base = Tokenizer.from_str(found["gpt2"].to_str())
            repair_pre_tokenizer(base, words)
    for base in found.values():
        base.no_truncation()
        base.no_padding()
    return found


def unigram(lines: list[str], cut: bool) -> Tokenizer:
    """cut: at whitespace, before each word gets its ▁."""
    tokenizer, metaspace = Tokenizer(models.Unigram()), pre_tokenizers.Metaspace()
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), metaspace]) if cut else metaspace
    tokenizer.decoder = decoders.Metaspace()
    special = ["<pad>", "</s>", "<unk>"]
    trainer = trainers.UnigramTrainer(vocab_size=16_000, special_tokens=special, unk_token="<unk>", show_progress=False)
    tokenizer.train_from_iterator(lines, trainer)
    return Tokenizer.from_str(tokenizer.to_str())  # scores as a file gives them: the last bit decides between ways of equal worth


def merged_tokenizers(base: Tokenizer) -> dict[str, Tokenizer]:
    """The base, and with one, two and three domains in it."""
    content = json.loads(base.to_str())
    vocabulary = DomainVocabulary(base_vocab_size=next_id(content), domains=[])
    found, names = {"base": base}, []
    for modality in SEQUENCES:
        ready = DomainTokenizer.load(next((ROOT / "tokenizers").glob(f"{modality}-bpe-*")))
        tokenizer, kind, pieces = ready.tokenizer, ready.spec.kind, None
        if content["model"]["type"] == "WordPiece":
            if modality != "dna":
                break
            tokenizer, kind, pieces = train_wordpiece(ready.probe, DNA, 512, 50), "wordpiece", 50
        if content["model"]["type"] == "Unigram":
            tokenizer, kind = train_unigram(ready.probe, ready.spec.residues, 512, fold_case=modality != "smiles"), "unigram"
        content, vocabulary, _ = add_domain(
            content, vocabulary, json.loads(tokenizer.to_str()), name=modality, modality=ready.spec.modality, kind=kind,
            residues=ready.spec.residues, piece_residues=pieces,
            recognition=Recognition("upper", 12 if modality == "dna" else None, tags=True),
        )  # fmt: skip
        names.append(modality)
        found[" + ".join(names)] = Tokenizer.from_str(json.dumps(content))
    return found


def relative_speeds(tokenizers: dict[str, Tokenizer], texts: list[str]) -> dict[str, float]:
    """Speed of each as a share of the base's, by the mean of its copies: of each the sum over the parts' fastest rounds, all in turn."""
    copies = {name: [Tokenizer.from_str(tokenizer.to_str()) for _ in range(COPIES)] for name, tokenizer in tokenizers.items()}
    seconds = dict.fromkeys(tokenizers, 0.0)
    for start in range(PARTS):
        part = texts[start::PARTS]
        fastest = {name: [float("inf")] * COPIES for name in tokenizers}
        for number, name in product(range(ROUNDS * COPIES), tokenizers):
            copy = number % COPIES
            started = time.process_time()
            copies[name][copy].encode_batch(part)
            fastest[name][copy] = min(fastest[name][copy], time.process_time() - started)
        seconds = {name: seconds[name] + statistics.mean(fastest[name]) for name in tokenizers}
    return {name: seconds["base"] / taken for name, taken in seconds.items()}


def main() -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    recipe = yaml.safe_load((ROOT / "pipelines" / "quickstart.yaml").read_text())
    lines = sample_lines([read_lines(resolve_files(name, ROOT / "pipelines")) for name in recipe["merge"]["plain_text"]], LINES)
    texts = {"lines": lines, "documents": [" ".join(lines[i : i + 10]) for i in range(0, len(lines), 10)]}
    tables: dict[str, Any] = {}
    for name, base in bases(resolve_folder(recipe["base"]["model"], ROOT / "pipelines") / "tokenizer.json", lines).items():
        tokenizers = merged_tokenizers(base)
        tables[name] = {kind: relative_speeds(tokenizers, some) for kind, some in texts.items()}
        for kind, speeds in tables[name].items():
            print(f"{name:16} {kind:10} " + "   ".join(f"{label} {speed:.2f}" for label, speed in speeds.items()))
    dna = [speed["dna"] for table in tables.values() for speed in table.values()]
    ours = statistics.median(dna)
    unit = "speed on plain text as a share of the base's; ours: one domain, DNA, median over bases and texts"
    record("plain_text", ours, {"base": 1.0}, {"base": ours}, unit, tables=tables)


if __name__ == "__main__":
    main()
