"""How fast merged tokenizers read plain text, against the base: the cost of looking for sequences in every text.

Lines: those that the merge of pipelines/quickstart.yaml is proved on (biomedical text, gene symbols, names, English, code); documents:
the same lines joined in tens. Bases: MiniLM's WordPiece, and the files of ../shared/data/tokenizers where they lie. On one core; small
parts of the texts are read by all tokenizers in turn, and the fastest of some rounds counts: what else the machine does costs tens of
percent in any one of them.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import yaml
from harness import RESULTS, _processor

from biollm.core.alphabets import DNA
from biollm.core.artifacts import package_versions
from biollm.core.machine import usable_cores
from biollm.core.resources import resolve_files, resolve_folder
from biollm.merge.isolate import Recognition, add_domain
from biollm.merge.proof import read_lines, sample_lines
from biollm.merge.tokenizer_file import next_id
from biollm.modeling.domain import DomainTokenizer
from biollm.modeling.vocabulary import DomainVocabulary
from biollm.tokenizer.train import train_wordpiece
from tokenizers import Tokenizer

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared" / "data" / "tokenizers"
LINES, ROUNDS, PARTS = 6000, 9, 60
SEQUENCES = ("dna", "protein", "smiles")


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
        content, vocabulary, _ = add_domain(
            content, vocabulary, json.loads(tokenizer.to_str()), name=modality, modality=ready.spec.modality, kind=kind,
            residues=ready.spec.residues, piece_residues=pieces,
            recognition=Recognition("upper", 12 if modality == "dna" else None, tags=True),
        )  # fmt: skip
        names.append(modality)
        found[" + ".join(names)] = Tokenizer.from_str(json.dumps(content))
    return found


def relative_speeds(tokenizers: dict[str, Tokenizer], texts: list[str]) -> dict[str, float]:
    """Speed of each as a share of the base's: over the sum of each part's fastest round, all in turn."""
    seconds = dict.fromkeys(tokenizers, 0.0)
    for start in range(PARTS):
        part = texts[start::PARTS]
        fastest = dict.fromkeys(tokenizers, float("inf"))
        for _ in range(ROUNDS):
            for name, tokenizer in tokenizers.items():
                started = time.perf_counter()
                tokenizer.encode_batch(part)
                fastest[name] = min(fastest[name], time.perf_counter() - started)
        seconds = {name: seconds[name] + fastest[name] for name in tokenizers}
    return {name: seconds["base"] / taken for name, taken in seconds.items()}


def main() -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    recipe = yaml.safe_load((ROOT / "pipelines" / "quickstart.yaml").read_text())
    lines = sample_lines([read_lines(resolve_files(name, ROOT / "pipelines")) for name in recipe["merge"]["plain_text"]], LINES)
    texts = {"lines": lines, "documents": [" ".join(lines[i : i + 10]) for i in range(0, len(lines), 10)]}
    files = {"MiniLM": resolve_folder(recipe["base"]["model"], ROOT / "pipelines") / "tokenizer.json"}
    files |= {name: SHARED / f"{name}.tokenizer.json" for name in ("gpt2", "mistral01", "modernbert", "gpt_neox")}
    tables: dict[str, Any] = {}
    for name, file in files.items():
        if not file.is_file():
            print(f"{name}: not here, left out")
            continue
        base = Tokenizer.from_file(str(file))
        base.no_truncation()
        base.no_padding()
        tokenizers = merged_tokenizers(base)
        tables[name] = {kind: relative_speeds(tokenizers, some) for kind, some in texts.items()}
        for kind, speeds in tables[name].items():
            print(f"{name:12} {kind:10} " + "   ".join(f"{label} {speed:.2f}" for label, speed in speeds.items()))
    dna = [speed["dna"] for table in tables.values() for speed in table.values()]
    result = {
        "name": "plain_text", "ours": statistics.median(dna), "peers": {"base": 1.0}, "ratios": {"base": statistics.median(dna)},
        "unit": "speed on plain text as a share of the base's; ours: one domain, DNA, median over bases and texts", "tables": tables,
        "versions": package_versions(), "command": f"make bench NAME={Path(sys.argv[0]).stem}",
        "hardware": {"processor": _processor(), "cores": usable_cores()},
    }  # fmt: skip
    (RESULTS / "plain_text.json").write_text(json.dumps(result, indent=2, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
