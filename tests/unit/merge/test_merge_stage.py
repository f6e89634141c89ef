from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from biollm.core.artifacts import open_artifact
from tokenizers import Tokenizer

_TRAIN = """
import random, sys
from biollm.tokenizer.train import train_wordpiece
rng = random.Random(1)
sequences = ["".join(rng.choices("ACGT", k=400)) for _ in range(30)]
sys.stdout.write(train_wordpiece(sequences, "ACGTN", 80, 50).to_str())
"""


def test_a_trained_tokenizer_is_the_same_in_every_process() -> None:
    root = str(Path(__file__).parents[3])
    texts = [
        subprocess.run(
            [sys.executable, "-c", _TRAIN], capture_output=True, check=True, env={"PYTHONHASHSEED": seed, "PYTHONPATH": root}
        ).stdout
        for seed in ("0", "1", "random")
    ]
    assert texts[0] == texts[1] == texts[2]
    assert len(json.loads(texts[0])["model"]["vocab"]) == 80


def test_the_stage_writes_a_stock_tokenizer_beside_the_base_one(tiny_results: Path, bert_base: Path) -> None:
    artifact = open_artifact(tiny_results / "merge")
    assert (artifact.folder / "base_tokenizer.json").read_bytes() == (bert_base / "tokenizer.json").read_bytes()
    facts = artifact.facts
    assert (facts["plain_lines"], facts["plain_lines_changed"], facts["lines_with_domain_sequences"]) == (4, 0, 1)
    assert (facts["domain_sequences_changed"], facts["round_trip_failures"], facts["unreachable_tokens"]) == (0, 0, 0)
    assert facts["truncation_switched_off"]
    assert facts["padding_switched_off"]
    assert facts["bases_per_token_before"] < facts["bases_per_token_after"]
    assert (
        facts["merged_vocab_size"]
        == facts["base_vocab_size"] + facts["new_tokens"]
        == Tokenizer.from_file(str(artifact.folder / "tokenizer.json")).get_vocab_size()
    )


def test_transformers_opens_the_merged_tokenizer_without_us(tiny_results: Path) -> None:
    from transformers import AutoTokenizer

    stock = AutoTokenizer.from_pretrained(str(tiny_results / "merge"))
    plain = Tokenizer.from_file(str(tiny_results / "merge" / "tokenizer.json"))
    text = "the gene GATTACAGATTACAGATTACA is in the cell"
    assert stock(text)["input_ids"] == plain.encode(text).ids
    assert stock.mask_token_id == plain.token_to_id("[MASK]")


def test_saving_and_loading_five_times_gives_the_same_bytes(tiny_results: Path, tmp_path: Path) -> None:
    path = tiny_results / "merge" / "tokenizer.json"
    first = path.read_bytes()
    for i in range(5):
        again = tmp_path / f"{i}.json"
        Tokenizer.from_file(str(path)).save(str(again))
        assert again.read_bytes() == first
        path = again


@pytest.mark.parametrize("name", ["id_map.json", "biollm_vocabulary.json"])
def test_the_sidecars_agree_with_the_tokenizer(tiny_results: Path, name: str) -> None:
    merged = Tokenizer.from_file(str(tiny_results / "merge" / "tokenizer.json"))
    domain = Tokenizer.from_file(str(tiny_results / "tokenizer" / "tokenizer.json"))
    values = json.loads((tiny_results / "merge" / name).read_text())
    if name == "id_map.json":
        assert len(values) == domain.get_vocab_size() - 1
        assert all(merged.id_to_token(new) is not None and domain.id_to_token(int(old)) is not None for old, new in values.items())
    else:
        assert values["base_vocab_size"] + values["new_tokens"] == merged.get_vocab_size()
