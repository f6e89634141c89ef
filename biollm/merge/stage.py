"""Merge: base tokenizer + domain tokenizer into one stock tokenizer.json, proved lossless."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from biollm.core.alphabets import DNA
from biollm.core.errors import DataError
from biollm.core.files import canonical_json, read_json, write_json
from biollm.core.job import Job
from biollm.merge.config import Config
from biollm.merge.isolate import check_base, choose_private_letters, merge_tokenizers
from biollm.merge.proof import describe_base, prove_domain, prove_plain_text, prove_reachable, sample_lines
from biollm.modeling.corpus import read_records
from biollm.modeling.vocabulary import TOKENIZER, DomainVocabulary, load_tokenizer
from tokenizers import Tokenizer

_EXAMPLES = 3


def run(job: Job[Config]) -> dict[str, Any]:
    base_folder, domain_folder = job.base_folder(), job.input("tokenizer")
    base, domain = load_tokenizer(base_folder), load_tokenizer(domain_folder)
    base_json, domain_json = read_json(base_folder / TOKENIZER), read_json(domain_folder / TOKENIZER)
    piece_residues = domain_json["model"]["max_input_chars_per_word"]
    check_base(base_json, piece_residues)
    vocabulary = DomainVocabulary(
        strategy=job.config.strategy,
        modality="dna",
        private_letters=choose_private_letters(DNA, base),
        continuing_prefix=base_json["model"]["continuing_subword_prefix"],
        min_run=job.config.min_run,
        piece_residues=piece_residues,
        base_vocab_size=base.get_vocab_size(),
        new_tokens=domain.get_vocab_size() - 1,  # all but the unknown token
    )
    merged_json, id_map = merge_tokenizers(base_json, domain_json, vocabulary)

    shutil.copyfile(base_folder / TOKENIZER, job.out / "base_tokenizer.json")
    Tokenizer.from_str(canonical_json(merged_json)).save(str(job.out / TOKENIZER))
    write_json(job.out / "tokenizer_config.json", _tokenizer_config(base_folder))
    write_json(job.out / "id_map.json", {str(domain_id): merged_id for domain_id, merged_id in id_map.items()})
    vocabulary.save(job.out)

    merged = load_tokenizer(job.out)  # what is proved is what was written
    lines = sample_lines(job.files(job.config.plain_text), job.config.plain_lines)
    records = read_records(job.input("ingest"))
    of_split = {split: frame["sequence"].to_list() for (split,), frame in records.group_by("split", maintain_order=True)}
    validation = of_split["validation"]
    _prove_transformers_opens(job.out, merged, [*lines[:200], *validation[:20]])
    return {
        "strategy": vocabulary.strategy,
        "base_vocab_size": vocabulary.base_vocab_size,
        "merged_vocab_size": merged.get_vocab_size(),
        "new_tokens": vocabulary.new_tokens,
        "truncation_switched_off": base_json["truncation"] is not None,
        "padding_switched_off": base_json["padding"] is not None,
        **prove_plain_text(base, merged, vocabulary, lines),
        **prove_domain(domain, merged, id_map, vocabulary, validation),
        **prove_reachable(domain, of_split["train"]),
        **describe_base(base, validation),
        "examples": [
            {
                "text": sequence[:48],
                "before": base.encode(sequence[:48], add_special_tokens=False).tokens,
                "after": domain.encode(sequence[:48]).tokens,
            }
            for sequence in validation[:_EXAMPLES]
        ],
    }


def _tokenizer_config(base_folder: Path) -> dict[str, Any]:
    """The base's settings, but read from tokenizer.json as it stands: a class such as BertTokenizer would build its own
    normaliser from the vocabulary, and drop ours in silence."""
    path = base_folder / "tokenizer_config.json"
    config: dict[str, Any] = read_json(path) if path.is_file() else {}
    return config | {"tokenizer_class": "PreTrainedTokenizerFast"}


def _prove_transformers_opens(folder: Path, merged: Tokenizer, texts: list[str]) -> None:
    import transformers
    from transformers import AutoTokenizer

    transformers.utils.logging.set_verbosity_error()  # it would warn that a text is longer than the model reads
    stock = AutoTokenizer.from_pretrained(str(folder))
    for text in texts:
        if stock(text)["input_ids"] != merged.encode(text).ids:
            raise DataError(f"merge: AutoTokenizer reads the merged tokenizer otherwise than tokenizers does, for example {text[:60]!r}")
