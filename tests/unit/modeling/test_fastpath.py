"""The fast path on small tokenizers written by hand: where tables come from, what they say, and how foreign letters are reported."""

from __future__ import annotations

import json
import os
import string
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from biollm.core.errors import ConfigError
from biollm.modeling.fastpath import ForeignLetterError, SequenceEncoder
from biollm.modeling.sequence_tables import (
    BpeTables,
    GreedyTables,
    KmerTables,
    Tables,
    UnigramTables,
    tables_from_domain,
    tables_from_merged,
)
from tokenizers import Tokenizer, models

SHIPPED = sorted((Path(__file__).parents[3] / "tokenizers").glob("*/tokenizer.json"))
MARK = "\u07e8"  # two bytes, which byte-level BPE spells "ß¨"
# 62 letters, all pairs of them, and as many triples as make one token too many for the fast path.
LETTERS = string.ascii_letters + string.digits
ALL_PAIRS = [(i, j, 62 + 62 * i + j) for i in range(62) for j in range(62)] + [
    (62 + n // 62, n % 62, 62 + 62 * 62 + n) for n in range(32769 - 62 - 62 * 62)
]
UNITS = {residue: MARK + residue for residue in "ACGT"}
BYTE_UNITS = {residue: "ß¨" + residue for residue in "ACGT"}


def bpe_json(vocabulary: list[str], merges: list[tuple[str, str]], **options: Any) -> dict[str, Any]:
    content = json.loads(Tokenizer(models.BPE({token: i for i, token in enumerate(vocabulary)}, merges)).to_str())
    content["model"] |= options
    return content


@pytest.fixture
def byte_level() -> dict[str, Any]:
    """A byte-level base with the word "at" and a merge across letters, and behind it a domain AT, ATAT, GA with its scaffold."""
    base = ["A", "C", "G", "T", "a", "t", "ß", "¨", "at", "AT"]
    domain = ["ß¨", *BYTE_UNITS.values(), "ß¨Aß¨T", "ß¨Aß¨Tß¨Aß¨T", "ß¨Gß¨A"]
    merges = [("a", "t"), ("A", "T"), ("ß", "¨"), *(("ß¨", residue) for residue in "ACGT")]
    merges += [("ß¨A", "ß¨T"), ("ß¨Aß¨T", "ß¨Aß¨T"), ("ß¨G", "ß¨A")]
    return bpe_json([*base, *domain], merges)


def test_merged_bpe_tables_hold_the_merges_of_whole_units_only(byte_level: dict[str, Any]) -> None:
    tables = tables_from_merged(byte_level, BYTE_UNITS, range(10, 18))
    assert isinstance(tables, BpeTables)
    assert tables.residue_ids == {"A": 11, "C": 12, "G": 13, "T": 14}
    assert tables.merges == [(11, 14, 15), (15, 15, 16), (13, 11, 17)]
    assert tables.whole_tokens == {}


@pytest.mark.parametrize("sequence", ["A", "AT", "GATATA", "GATTACA", "ATATATATG" * 20])
def test_merged_bpe_has_the_ids_of_the_stock_tokenizer(byte_level: dict[str, Any], sequence: str) -> None:
    encoder = SequenceEncoder(tables_from_merged(byte_level, BYTE_UNITS, range(10, 18)), fold_case=True)
    wanted = Tokenizer.from_str(json.dumps(byte_level)).encode("".join(BYTE_UNITS[residue] for residue in sequence)).ids
    assert encoder.encode_one(sequence).tolist() == wanted
    assert encoder.encode_one(sequence.lower()).tolist() == wanted


def test_merges_written_the_older_way_are_read(byte_level: dict[str, Any]) -> None:
    older = json.loads(json.dumps(byte_level))
    older["model"]["merges"] = [" ".join(merge) for merge in byte_level["model"]["merges"]]
    assert tables_from_merged(older, BYTE_UNITS, range(10, 18)) == tables_from_merged(byte_level, BYTE_UNITS, range(10, 18))


def test_a_second_domain_with_another_mark_is_not_seen(byte_level: dict[str, Any]) -> None:
    tables = tables_from_merged(byte_level, BYTE_UNITS, range(10, 18))
    byte_level["model"]["vocab"] |= {"ß©A": 18, "ß©Aß©A": 19}
    byte_level["model"]["merges"] += [["ß©A", "ß©A"]]
    assert tables_from_merged(byte_level, BYTE_UNITS, range(10, 18)) == tables


@pytest.fixture
def wordpiece() -> dict[str, Any]:
    tokens = [
        "[UNK]",
        "tag",
        *UNITS.values(),
        *("##" + unit for unit in UNITS.values()),
        MARK + "A" + MARK + "T",
        "##" + MARK + "T" + MARK + "T",
    ]
    model = models.WordPiece({token: i for i, token in enumerate(tokens)}, unk_token="[UNK]", max_input_chars_per_word=8)
    return json.loads(Tokenizer(model).to_str())


def test_merged_wordpiece_tables_tell_first_tokens_from_later_ones(wordpiece: dict[str, Any]) -> None:
    tables = tables_from_merged(wordpiece, UNITS, range(2, 12), piece_residues=4)
    assert tables == GreedyTables(
        {"A": 2, "C": 3, "G": 4, "T": 5, "AT": 10}, {"A": 6, "C": 7, "G": 8, "T": 9, "TT": 11}, unknown_id=0, piece_residues=4
    )
    # ATTT|TACA: a piece begins with a first token
    assert SequenceEncoder(tables, fold_case=True).encode_one("atttTACA").tolist() == [10, 11, 5, 6, 7, 6]


@pytest.mark.parametrize("piece", [None, 5])
def test_wordpiece_without_short_enough_pieces_is_refused(wordpiece: dict[str, Any], piece: int | None) -> None:
    with pytest.raises(ConfigError, match=f"words of 4 residues at most, and its sequences are cut into pieces of {piece}; give"):
        tables_from_merged(wordpiece, UNITS, range(2, 12), piece_residues=piece)


def test_merged_unigram_tables_hold_the_scores() -> None:
    vocabulary = [("<unk>", 0.0), ("cat", -1.0), *((unit, -2.0) for unit in UNITS.values()), (MARK + "A" + MARK + "T", -3.5)]
    stock = Tokenizer(models.Unigram(vocabulary, unk_id=0))
    tables = tables_from_merged(json.loads(stock.to_str()), UNITS, range(2, 7))
    assert tables == UnigramTables({"A": (2, -2.0), "C": (3, -2.0), "G": (4, -2.0), "T": (5, -2.0), "AT": (6, -3.5)})
    assert SequenceEncoder(tables, fold_case=True).encode_one("CATAT").tolist() == [3, 6, 6]


def test_a_domain_tokenizer_gets_the_ids_of_the_map() -> None:
    domain = bpe_json(["A", "T", "AT"], [("A", "T")])
    tables = tables_from_domain(domain, {0: 50, 1: 60, 2: 70}, "AT")
    assert tables == BpeTables({"A": 50, "T": 60}, [(50, 60, 70)], {})
    assert SequenceEncoder(tables, fold_case=True).encode_one("TATA").tolist() == [60, 70, 50]


def test_overlapping_kmers_are_one_at_each_residue() -> None:
    encoder = SequenceEncoder(KmerTables(2, "AT", {"AT": 1, "TA": 2, "A": 3}, unknown_id=0, overlapping=True), fold_case=True)
    assert [ids.tolist() for ids in encoder.encode(["ATAT", "A", "TT", ""])] == [[1, 2, 1], [3], [0], []]


def test_a_word_without_a_token_is_reported_where_there_is_no_unknown_one() -> None:
    with pytest.raises(ForeignLetterError, match=r"sequence number 1 holds 'TT' at position 3"):
        SequenceEncoder(KmerTables(2, "AT", {"AT": 1}, unknown_id=None), fold_case=True).encode(["AT", "ATTTAT"])


ONE_OF_EACH = [
    BpeTables({"A": 0, "T": 1}, [(0, 1, 2)], {}),
    GreedyTables({"A": 0, "T": 1, "AT": 2}, {"A": 3, "T": 4}, None, 50),
    UnigramTables({"A": (0, -1.0), "T": (1, -1.0), "AT": (2, -1.5)}),
    KmerTables(1, "AT", {"A": 0, "T": 1}, None),
]


@pytest.mark.parametrize("tables", ONE_OF_EACH, ids=lambda tables: type(tables).__name__)
def test_no_sequences_and_empty_ones_have_no_ids(tables: Tables) -> None:
    encoder = SequenceEncoder(tables, fold_case=True)
    assert encoder.encode([]) == []
    found = encoder.encode(["", "AT", ""])
    assert [len(found[0]), len(found[2])] == [0, 0]
    assert len(found[1]) > 0
    assert all(ids.dtype == np.int64 for ids in found)


@pytest.mark.parametrize("tables", ONE_OF_EACH, ids=lambda tables: type(tables).__name__)
@pytest.mark.parametrize(
    ("foreign", "position"), [("AAXA", 2), ("é", 0), ("A T", 1), ("AAé X", 2), ("AX é", 1), ("A\x00", 1), ("ATı", 2), ("TA\U0001f9ec", 2)]
)
def test_a_foreign_letter_is_reported_with_its_place(tables: Tables, foreign: str, position: int) -> None:
    with pytest.raises(ForeignLetterError) as caught:
        SequenceEncoder(tables, fold_case=True).encode(["TATA", "", foreign, "QQ"])
    error = caught.value
    assert (error.sequence, error.position, error.letter) == (2, position, foreign[position])


def test_a_foreign_letter_has_the_same_place_with_many_threads() -> None:
    encoder = SequenceEncoder(ONE_OF_EACH[0], fold_case=True, threads=4)
    with pytest.raises(ForeignLetterError, match="sequence number 700 holds 'X' at position 3"):
        encoder.encode([*["AT" * 500] * 700, "ATX", *["AT" * 500] * 200, "Q"])


def test_lower_case_is_foreign_where_case_has_a_meaning() -> None:
    assert SequenceEncoder(ONE_OF_EACH[0], fold_case=True).encode_one("at").tolist() == [2]
    with pytest.raises(ForeignLetterError, match="holds 'a' at position 1"):
        SequenceEncoder(ONE_OF_EACH[0], fold_case=False).encode_one("at")
    cased = SequenceEncoder(BpeTables({"C": 0, "c": 1}, [], {}), fold_case=False)
    assert cased.encode_one("Cc").tolist() == [0, 1]


def test_the_result_does_not_keep_the_ids_of_other_sequences_alive() -> None:
    assert all(ids.base is None for ids in SequenceEncoder(ONE_OF_EACH[0], fold_case=True).encode(["AT", "TA"]))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (bpe_json(["A", "AA"], [("A", "A")], dropout=0.1), "the domain tokenizer has dropout 0.1; the fast path reads BPE without it"),
        (bpe_json(["A"], [], end_of_word_suffix="</w>"), "has end_of_word_suffix '</w>'"),
        (bpe_json(["C"], []), "has no token for the single residue 'A'; the fast path needs one for each"),
        ({"model": {"type": "Other"}}, "is a Other model; the fast path reads BPE, WordPiece, Unigram and WordLevel"),
        ({"model": {"type": "WordLevel", "vocab": {}, "unk_token": "?"}}, "is a WordLevel model without 'kmer'; its domain.json says"),
    ],
)
def test_a_tokenizer_that_the_fast_path_does_not_know_is_refused(content: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        tables_from_domain(content, None, "A")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        (BpeTables({"A": 0, "ß": 1}, [], {}), "residues of one ASCII letter; this vocabulary has 'ß'"),
        (BpeTables({"A": 0}, [(0, 0, 1), (0, 1, 2), (1, 0, 3)], {}), "BPE merges make one token under two ids"),
        (BpeTables({"A": 0, "T": 1}, [(0, 0, 2), (0, 1, 2)], {}), "BPE merges make id 2 of 'AA' and of 'AT'"),
        (
            BpeTables({letter: i for i, letter in enumerate(LETTERS)}, ALL_PAIRS, {}),
            "32769 BPE tokens; the fast path knows for 32768 at most",
        ),
    ],
    ids=["not ASCII", "two ids", "two texts", "too many"],
)
def test_tables_that_cannot_be_packed_are_refused(tables: BpeTables, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        SequenceEncoder(tables, fold_case=True)
    assert message in str(caught.value)


def test_bpe_steps_back_from_a_token_that_leads_nowhere() -> None:
    """AAB fits at the start, but BC is joined first, so the row is AA, BC."""
    tables = BpeTables({"A": 0, "B": 1, "C": 2}, [(1, 2, 3), (0, 0, 4), (4, 1, 5)], {})
    encoder = SequenceEncoder(tables, fold_case=True)
    assert encoder.encode_one("AAB").tolist() == [5]
    assert encoder.encode_one("AABC").tolist() == [4, 3]
    assert encoder.encode_one("AABC" * 3 + "AAB").tolist() == [4, 3] * 3 + [5]


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.parent.name)
def test_a_shipped_tokenizer_has_the_same_ids_on_its_probe(file: Path) -> None:
    spec = json.loads((file.parent / "domain.json").read_text())
    probe = (file.parent / "probe.txt").read_text().splitlines()
    tables = tables_from_domain(json.loads(file.read_text()), None, spec["residues"])
    found = SequenceEncoder(tables, fold_case=spec["case"] == "upper").encode(probe)
    assert probe
    assert [ids.tolist() for ids in found] == [encoding.ids for encoding in Tokenizer.from_file(str(file)).encode_batch(probe)]


def test_it_works_where_nothing_compiled_can_be_kept() -> None:
    """numba told to look only for a place that is not there, as where neither the package's folder nor the home can be written."""
    code = (
        "from biollm.modeling.fastpath import SequenceEncoder\n"
        "from biollm.modeling.sequence_tables import KmerTables\n"
        "print(SequenceEncoder(KmerTables(1, 'A', {'A': 7}, None), fold_case=True).encode_one('AA').tolist())"
    )
    environment = os.environ | {"NUMBA_CACHE_LOCATOR_CLASSES": "ZipCacheLocator"}
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[7, 7]"
