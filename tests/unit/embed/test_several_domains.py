"""A model that reads sequences of several domains: the one that is meant is read, and nothing is guessed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from biollm import Embedder, SequenceEmbedder
from biollm.benchmark.scoring import BenchmarkModel, _open_embedder
from biollm.cli import app
from biollm.core.errors import ConfigError
from biollm.embed.config import Config
from biollm.embed.embedder import open_model
from biollm.modeling.encoding import Encoder

PROTEIN = "MKVLAAGIVGLLLAQWERTYPSDFGHKLCVNM"


@pytest.fixture
def sequence(dna: Callable[[int, int], str]) -> str:
    return dna(60, 1)


def tokens(folder: Path, modality: str, sequence: str) -> int:
    """As pretrain reads it."""
    return len(Encoder(folder, modality).encode_sequences([sequence])[0].ids)


def test_the_named_domain_is_read(several: Path, sequence: str) -> None:
    assert tokens(several, "dna", sequence) != tokens(several, "protein", sequence)
    assert Embedder(several, input="sequence", modality="dna").count_tokens([sequence]) == tokens(several, "dna", sequence)
    assert Embedder(several, input="sequence", modality="protein").count_tokens([PROTEIN]) == tokens(several, "protein", PROTEIN)
    assert Embedder(several, strands="both", modality="dna").embed([sequence]).shape == (1, 32)


def test_the_stage_the_benchmark_and_scikit_learn_read_the_domain_of_the_corpus(several: Path, sequence: str) -> None:
    wanted = Embedder(several, input="sequence", modality="dna").embed([sequence])
    opened = open_model(several, Config(models=["pretrain"]), modality="dna", is_base=False, with_tracks=True)
    benchmarked, notes = _open_embedder(BenchmarkModel("x", several, ""), "dna")
    assert notes == []
    for embedder in (opened, benchmarked, SequenceEmbedder(several, modality="dna").fit([sequence]).embedder_):
        np.testing.assert_allclose(embedder.embed([sequence]), wanted, atol=1e-6)


def test_what_no_domain_reads_is_text_to_the_model_as_in_its_training(several: Path) -> None:
    opened = open_model(several, Config(models=["pretrain"]), modality="text", is_base=False, with_tracks=True)
    assert opened.count_tokens(["the gene is in the cell"]) == tokens(several, "text", "the gene is in the cell")
    assert _open_embedder(BenchmarkModel("x", several, ""), "smiles")[1] == ["reads smiles as text"]


def test_an_open_question_is_an_error_that_names_the_domains(several: Path, merged: Path) -> None:
    for input in ("auto", "sequence"):
        with pytest.raises(ConfigError, match=r"reads sequences of several domains \(protein, dna\), and nothing says which.*--modality"):
            Embedder(several, input=input)  # type: ignore[arg-type]
    assert Embedder(several, input="text").embed(["the gene"]).shape == (1, 32)
    with pytest.raises(ConfigError, match="modality is rna, but this model reads sequences of protein, dna; leave it out"):
        Embedder(several, modality="rna")
    with pytest.raises(ConfigError, match="modality is protein, but this model reads sequences of dna"):
        Embedder(merged, modality="protein")
    with pytest.raises(ConfigError, match="modality is 'DNA'"):
        Embedder(merged, modality="DNA")  # type: ignore[arg-type]


def test_the_commands_take_the_modality(several: Path, sequence: str, tmp_path: Path) -> None:
    (tmp_path / "a.fa").write_text(f">a\n{sequence}\n")
    file = ["embed-file", str(several), str(tmp_path / "a.fa"), "-o", str(tmp_path / "out")]
    assert "several domains" in str(CliRunner().invoke(app, file).exception)
    assert CliRunner().invoke(app, [*file, "--modality", "dna"]).exit_code == 0
    seen = CliRunner().invoke(app, ["attention", str(several), sequence[:20], "-o", str(tmp_path / "map"), "--modality", "dna"])
    assert seen.exit_code == 0, seen.output
