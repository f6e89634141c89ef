"""What the records of whole files become."""

from __future__ import annotations

import gzip
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from biollm.core.alphabets import ALPHABETS
from biollm.core.errors import DataError, ResourceError
from biollm.ingest.records.config import RecordOptions
from biollm.ingest.records.read import RecordTable, read_records

Reads = Callable[..., RecordTable]


def test_every_format_gives_its_records(reads: Reads, example: Any) -> None:
    table = reads({example.name: example.content}, example.modality, **example.options)
    assert table.frame.rows() == example.rows
    assert table.counts["kept"] == len(example.rows) == table.counts["read"] - table.dropped.height


@pytest.mark.parametrize("make", ["lf", "crlf", "cr", "bom", "no_last_end", "gzip", "zstd", "two_members"])
def test_line_ends_and_compression_change_nothing(reads: Reads, example: Any, make: str) -> None:
    """The same records from the same text, however it was written."""
    data, name = example.data, example.name
    if name.endswith(".parquet"):
        return  # no text
    if make == "bom":
        data = b"\xef\xbb\xbf" + data
    elif make == "no_last_end":
        data = data.rstrip(b"\n")
    elif make == "gzip":
        data, name = gzip.compress(data), name + ".gz"
    elif make == "two_members":
        data, name = gzip.compress(data[:20]) + gzip.compress(data[20:]), name + ".gz"
    elif make == "zstd":
        data, name = zstandard.compress(data), name + ".zst"
    else:
        data = data.replace(b"\n", {"lf": b"\n", "crlf": b"\r\n", "cr": b"\r"}[make])
    assert reads({name: data}, example.modality, **example.options).frame.rows() == example.rows


def test_files_follow_each_other_and_ids_name_the_file(reads: Reads) -> None:
    files = {"x/train.csv": "sequence\nAC\nGG\n", "y/train.csv": "sequence\nTT\n"}
    assert reads(files, "dna").frame.rows() == [("x/train:2", "AC"), ("x/train:3", "GG"), ("y/train:2", "TT")]


def test_one_file_and_two_halves_give_the_same_labels(reads: Reads) -> None:
    """A label is a number only if it is one in all files."""
    halves = reads({"a.csv": "sequence,y\nAC,1\n", "b.csv": "sequence,y\nGG,2.5\n"}, "dna", labels={"y": "y"})
    assert halves.frame["label_y"].to_list() == [1.0, 2.5]


def test_the_peptide_na_is_a_peptide(reads: Reads) -> None:
    """Words for a missing value are residues too: Asn-Ala, and the tripeptide Asn-Ala-Asn."""
    table = reads({"a.csv": "sequence,y\nNA,NA\nNAN,1\nnull,2\n"}, "protein", labels={"y": "y"})
    assert table.frame.rows() == [("a:2", "NA", None), ("a:3", "NAN", 1), ("a:4", "NULL", 2)]
    assert table.counts["missing, label_y"] == 1


def test_blank_sequences_are_dropped_counted_and_named(reads: Reads) -> None:
    table = reads({"a.jsonl": '{"text": "x"}\n{"text": null}\n{"text": "  "}\n{}\n'}, "text")
    assert table.counts == {"read": 4, "kept": 1, "dropped, blank sequence": 3}
    assert table.dropped.select("where", "reason").row(0) == ("line 2", "blank sequence")
    assert table.dropped["id"].to_list() == ["a:2", "a:3", "a:4"]


def test_letters_that_are_altered_are_counted(reads: Reads) -> None:
    assert reads({"a.fa": ">a\nACRYNnT\n>b\nuu\n"}, "dna").counts == {"read": 2, "kept": 2, "ambiguous bases read as N": 2}
    assert reads({"a.fa": ">a\nMK*\n>b\nML\n"}, "protein").counts == {"read": 2, "kept": 2, "final stops (*) taken off": 1}


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        (["1", "0", ""], [1, 0, None]),
        (["1", "0.5", "NaN"], [1.0, 0.5, None]),
        (["+1", "-2", "03"], [1, -2, 3]),
        (["1e3", "2", "NA"], [1000.0, 2.0, None]),
        (["yes", "no", "nan"], ["yes", "no", None]),
        (["none", "None", "x"], ["none", "None", "x"]),
    ],
)
def test_labels_are_numbers_or_words_and_null_where_missing(reads: Reads, values: list[str], wanted: list[Any]) -> None:
    rows = "".join(f"AC,{value}\n" for value in values)
    found = reads({"a.csv": "sequence,y\n" + rows}, "dna", labels={"y": "y"}).frame["label_y"]
    assert found.to_list() == wanted
    assert not (found.dtype.is_float() and found.is_nan().any())


def test_nan_of_parquet_is_missing_and_not_a_number(reads: Reads, tmp_path: Path) -> None:
    pl.DataFrame({"sequence": ["AC", "GG"], "y": [float("nan"), 0.1], "b": [True, False]}).write_parquet(tmp_path / "x.parquet")
    table = reads({"x.parquet": (tmp_path / "x.parquet").read_bytes()}, "dna", labels={"y": "y", "b": "b"})
    assert table.frame.rows() == [("x:1", "AC", None, "true"), ("x:2", "GG", 0.1, "false")]


def test_missing_words_are_those_of_the_options(reads: Reads) -> None:
    table = reads({"a.csv": "sequence,y\nAC,-\nGG,1\n"}, "dna", labels={"y": "y"}, missing=["", "-"])
    assert table.frame["label_y"].to_list() == [None, 1]


def test_group_split_and_covariates(reads: Reads) -> None:
    text = "sequence,p,s,age,site\nAC,7,Train,31,a\nGG,7,VAL,NA,2\nTT,,testing,40,3\n"
    table = reads({"a.csv": text}, "dna", group="p", split="s", covariates={"age": "age", "site": "site"})
    assert table.frame.drop("id", "sequence").rows() == [("7", "train", 31, "a"), ("7", "validation", None, "2"), (None, "test", 40, "3")]
    assert table.counts["missing, group"] == 1


def test_rows_of_train_that_validate(reads: Reads) -> None:
    """FLIP marks them in a column of their own."""
    text = "sequence,set,validation\nAC,train,\nGG,train,True\nTT,test,True\n"
    table = reads({"a.csv": text}, "dna", split="set", split_validation="validation")
    assert table.frame["split"].to_list() == ["train", "validation", "test"]


def test_file_names_say_the_split(reads: Reads) -> None:
    files = {f"{name}.csv": f"sequence\n{sequence}\n" for name, sequence in [("Train", "AC"), ("dev", "GG"), ("test", "TT")]}
    assert reads(files, "dna", split_from_name=True).frame["split"].to_list() == ["train", "validation", "test"]


@pytest.mark.parametrize(("sign", "said"), [(",", "comma"), (";", "semicolon"), ("\t", "tab"), ("|", "pipe")])
def test_the_separator_is_found_and_told(reads: Reads, sign: str, said: str) -> None:
    table = reads({"a.csv": f"sequence{sign}y\nAC{sign}1\n"}, "dna", labels={"y": "y"})
    assert table.frame["label_y"].to_list() == [1]
    assert list(table.facts.values()) == [f"table, {said}-separated"]


def test_a_table_without_header_after_a_preface(reads: Reads) -> None:
    table = reads({"a.csv": "2,1,x,AMP\nMK, 1\nLL, 0\n"}, "protein", sequence="column_1", labels={"y": "column_2"},
                  table={"header": False, "skip_lines": 1})  # fmt: skip
    assert table.frame.rows() == [("a:2", "MK", 1), ("a:3", "LL", 0)]


def test_residues_spread_over_columns_are_joined_without_and_text_with_a_line_end(reads: Reads) -> None:
    assert reads({"a.csv": "p_1,p_2,q\nA,C,x\nG,,x\n"}, "dna", sequence="p_*").frame["sequence"].to_list() == ["AC"]
    text = reads({"b.csv": "title,body\nA,C\nG,\n"}, "text", sequence=["title", "body"])
    assert text.frame["sequence"].to_list() == ["A\nC", "G"]


def test_a_long_sequence_in_a_table_is_read_whole(reads: Reads) -> None:
    """The csv module refuses fields over 131,072 letters unless told."""
    assert len(reads({"a.csv": f"sequence\n{'ACGT' * 50_000}\n"}, "dna").frame["sequence"][0]) == 200_000


def test_fasta_ids_are_the_first_word_or_the_whole_header(reads: Reads) -> None:
    text = ">a one\nAC\n>ä\ttwo\nGG\n"
    assert reads({"a.fa": text}, "dna").frame["id"].to_list() == ["a", "ä"]
    assert reads({"a.fa": text}, "dna", id="header").frame["id"].to_list() == ["a one", "ä\ttwo"]


def test_fields_of_uniprot_headers_keep_their_white_space(reads: Reads) -> None:
    text = ">sp|P1|X_HUMAN Thing of x OS=Homo sapiens OX=9606 GN=ABC PE=1\nMK\n"
    table = reads({"a.fa": text}, "protein", labels={"os": "OS", "pe": "PE"})
    assert table.frame.rows() == [("sp|P1|X_HUMAN", "MK", "Homo sapiens", 1)]


def test_invalid_smiles_are_dropped_with_rdkits_reason(reads: Reads, capfd: pytest.CaptureFixture[str]) -> None:
    text = "smiles\nCCO\nCN(C)(C)(C)C\nC(\nCC>O\n"
    table = reads({"a.csv": text}, "smiles", smiles={"max_invalid_fraction": 0.8})
    assert table.frame["sequence"].to_list()[0] == "CCO"
    assert table.counts["dropped, invalid SMILES"] == 3
    assert "Explicit valence for atom # 1 N, 5" in table.dropped["reason"][0]
    assert table.dropped["where"].to_list() == ["line 3", "line 4", "line 5"]
    assert capfd.readouterr() == ("", ""), "RDKit's own log is silenced"


def test_canonical_smiles_of_one_molecule_are_equal_and_raw_ones_kept(reads: Reads) -> None:
    text = "smiles\nOCC\nC(O)C \n"
    assert reads({"a.csv": text}, "smiles").frame["sequence"].to_list() == ["CCO", "CCO"]
    assert reads({"a.csv": text}, "smiles", smiles={"canonical": False}).frame["sequence"].to_list() == ["OCC", "C(O)C"]


def test_paragraphs_of_a_text_are_documents(reads: Reads) -> None:
    table = reads({"a.txt": "one\ntwo\n \n\nthree\n"}, "text", text={"documents": "paragraphs"})
    assert table.frame.rows() == [("a:1", "one\ntwo"), ("a:5", "three")]


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ({"prompt": "q", "response": "a"}, "q\n\na"),
        ({"prompt": "q", "completion": "a"}, "q\n\na"),
        ({"instruction": "q", "input": "more", "output": "a"}, "q\n\nmore\n\na"),
        ({"instruction": "q", "input": "", "output": "a"}, "q\n\na"),
    ],
)
def test_instruction_pairs_become_messages(reads: Reads, line: dict[str, str], text: str) -> None:
    table = reads({"a.jsonl": json.dumps(line | {"y": 3}) + "\n"}, "text", labels={"y": "y"})
    (row,) = table.frame.to_dicts()
    assert (row["sequence"], row["label_y"]) == (text, 3)
    assert [message["role"] for message in json.loads(row["messages"])] == ["user", "assistant"]


def test_tags_of_a_sentence_are_as_many_as_its_words(reads: Reads) -> None:
    text = "-DOCSTART- -X- O\n\nBRCA1 NN B-Gene\nis VB O\n\n\nbad JJ O\n"
    table = reads({"a.conll": text}, "text")
    for row in table.frame.to_dicts():
        assert len(row["sequence"].split(" ")) == len(json.loads(row["tags"]))
    assert table.frame["sequence"].to_list() == ["BRCA1 is", "bad"]


def test_an_ancestor_is_missing_where_there_are_several(reads: Reads) -> None:
    obo = "format-version: 1.2\n" + "".join(
        f"\n[Term]\nid: {name}\nname: n{name}\n" + "".join(f"is_a: {parent}\n" for parent in parents)
        for name, parents in {"R": "", "A": "R", "B": "R", "C": "A", "D": ["A", "B"], "E": "C", "X": ""}.items()
    )
    table = reads({"a.obo": obo}, "text", labels={"top": "ancestor"}, ontology={"root": "R", "level": 1})
    assert dict(table.frame.select("id", "label_top").iter_rows()) == {"R": None, "A": "nA", "B": "nB", "C": "nA", "D": None, "E": "nA"}
    assert table.counts["dropped, term not below the root"] == 1


def test_a_circle_of_terms_ends(reads: Reads) -> None:
    obo = "format-version: 1.2\n\n[Term]\nid: R\nname: r\n\n[Term]\nid: A\nname: a\nis_a: B\nis_a: R\n\n[Term]\nid: B\nname: b\nis_a: A\n"
    assert reads({"a.obo": obo}, "text", labels={"t": "ancestor"}, ontology={"level": 1}).frame["label_t"].to_list() == [None, "a", "a"]


def test_definitions_of_an_ontology_become_answers(reads: Reads) -> None:
    obo = 'format-version: 1.2\n\n[Term]\nid: A\nname: a term\ndef: "What \\"a\\" is." [x]\n\n[Term]\nid: B\nname: b\n'
    table = reads({"a.obo": obo}, "text", ontology={"question": "What is {name}?"})
    assert [json.loads(turns) for turns in table.frame["messages"]] == [
        [{"role": "user", "content": "What is a term?"}, {"role": "assistant", "content": 'What "a" is.'}]
    ]
    assert table.dropped["reason"].to_list() == ["term without a definition"]
    assert "messages" not in reads({"a.obo": obo}, "text").frame.columns


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.text("ACGTUNRYacgtunry", min_size=1, max_size=30), min_size=1, max_size=8),
    st.sampled_from(["dna", "rna"]),
    st.integers(1, 9),
)
def test_sequences_are_those_that_the_alphabet_reads(reads: Reads, sequences: list[str], modality: Any, width: int) -> None:
    """However a FASTA file is wrapped, and the same from a table."""
    wrapped = "".join(f">{i}\n" + "".join(s[k : k + width] + "\n" for k in range(0, len(s), width)) for i, s in enumerate(sequences))
    wanted = [ALPHABETS[modality].read(sequence) for sequence in sequences]
    assert reads({"a.fa": wrapped}, modality).frame["sequence"].to_list() == wanted
    assert reads({"a.csv": "sequence\n" + "\n".join(sequences)}, modality).frame["sequence"].to_list() == wanted


def test_more_records_than_one_batch_keep_their_order(reads: Reads, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("biollm.ingest.records.read._BATCH_ROWS", 3)
    table = reads({"a.csv": "sequence,y\n" + "".join(f"{'A' * (i + 1)},{i}\n" for i in range(10))}, "dna", labels={"y": "y"})
    assert table.frame["label_y"].to_list() == list(range(10))


@pytest.mark.parametrize(
    ("module", "name", "content", "modality"),
    [("rdkit.Chem", "a.smi", "C\n", "smiles"), ("anndata", "a.h5ad", b"\x89HDF\r\n\x1a\n", "text")],
)
def test_a_missing_package_names_its_extra(
    reads: Reads, monkeypatch: pytest.MonkeyPatch, module: str, name: str, content: Any, modality: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ResourceError, match=r"is not installed.*pip install 'biollm\[(chemistry|cells)\]'"):
        reads({name: content}, modality)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "s", "split_from_name": True}, "keep one of them"),
        ({"split_validation": "v"}, "name that column too"),
        ({"labels": {"Not good": "x"}}, "lower-case"),
        ({"labls": {}}, "Extra inputs"),
        ({"format": "xlsx"}, "fasta"),
    ],
)
def test_options_that_contradict_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        RecordOptions(**options)


def test_no_file_and_one_file_twice_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no file of records"):
        read_records([], RecordOptions(), "dna")
    with pytest.raises(DataError, match=r"x\.csv: listed twice; name each file once"):
        read_records([tmp_path / "x.csv", tmp_path / "x.csv"], RecordOptions(), "dna")


def _fasta(letters: str, records: int, seed: int = 0) -> str:
    rng = np.random.default_rng(seed)
    return "".join(f">r{i}\n{''.join(rng.choice(list(letters), 20))}\n" for i in range(records))


@pytest.mark.parametrize("letters", ["ACGT", "acgtn", "ACGU"])
def test_nucleotides_read_as_protein_are_refused(tmp_path: Path, letters: str) -> None:
    (tmp_path / "x.fa").write_text(_fasta(letters, 10))
    with pytest.raises(DataError, match=r"x\.fa line 1: its 200 letters are all of ACGTUN, .*ingest\.modality is protein: set it to dna"):
        read_records([tmp_path / "x.fa"], RecordOptions(), "protein")


@pytest.mark.parametrize("text", [_fasta("ACGT", 9), _fasta("A", 30), _fasta("ACGT", 30) + ">p\nMKV\n"])
def test_few_or_plain_letters_may_be_protein(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.fa").write_text(text)
    assert read_records([tmp_path / "x.fa"], RecordOptions(), "protein").frame.height == text.count(">")


@pytest.mark.parametrize(("text", "ids"), [("@a\nACGT\n+\nIIII\n", ["a"]), ("@RELATION x\n@attribute seq string\n@data\nACGT\n", ["x:4"])])
def test_fastq_and_arff_without_a_suffix_are_told_apart(tmp_path: Path, text: str, ids: list[str]) -> None:
    (tmp_path / "x").write_text(text)
    assert read_records([tmp_path / "x"], RecordOptions(), "dna").frame["id"].to_list() == ids
