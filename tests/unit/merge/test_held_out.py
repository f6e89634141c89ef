"""Which sequences prove a domain, and what is said of those that a text would not read as its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from biollm.core.artifacts import Artifact, open_artifact
from biollm.core.job import Job
from biollm.merge import stage
from biollm.merge.config import Config, IsolateConfig
from biollm.modeling.corpus import read_records
from biollm.modeling.domain import DomainTokenizer
from biollm.stages import BY_NAME, Run
from tokenizers import Tokenizer

PROTEINS = [f"MK{'ACDEFGHIKLMNPQRSTVWY'[i % 20 :]}{'LV' * (i % 7)}" for i in range(60)]


def job(folder: Path, ingest: Path, tokenizer: Artifact) -> Job[Config]:
    config = Config(plain_text=["plain.txt"])
    inputs = {"ingest": open_artifact(ingest), "tokenizer": tokenizer}
    return Job(config, 1, inputs, folder, folder, folder, folder, "base")


def test_a_tokenizer_of_files_is_proved_on_its_own_probe_whatever_the_corpus_is(tmp_path: Path, tiny_results: Path) -> None:
    (tmp_path / "x.txt").write_text("".join(f"{protein}\n" for protein in PROTEINS))
    recipe = {"name": "p", "tokenizer": {"modality": "protein", "kind": "char", "files": ["x.txt"]}}
    (tmp_path / "p.yaml").write_text(yaml.safe_dump(recipe))
    of_files = Run.load(tmp_path / "p.yaml", out=tmp_path / "out").run_stage(BY_NAME["tokenizer"])[0]
    of_corpus = open_artifact(tiny_results / "tokenizer")
    found = {}
    for name, artifact in (("files", of_files), ("corpus", of_corpus)):
        domain = DomainTokenizer.load(artifact.folder)
        found[name] = stage._held_out(job(tmp_path, tiny_results / "ingest", artifact), IsolateConfig(), domain)
    assert set(found["files"]) < set(PROTEINS)
    assert found["corpus"] == read_records(tiny_results / "ingest", "validation")["sequence"].to_list()


@pytest.mark.parametrize(
    ("tags", "advice"), [(True, "between <rna> and </rna> they are rna"), (False, "set tags: true, so that texts can mark them")]
)
def test_rna_that_is_written_as_dna_is_merged_and_said(
    tmp_path: Path,
    base_tokenizer: Callable[[str], Tokenizer],
    domain_tokenizer: Callable[..., Any],
    capsys: pytest.CaptureFixture[str],
    tags: bool,
    advice: str,
) -> None:
    (tmp_path / "base").mkdir()
    base_tokenizer("gpt2").save(str(tmp_path / "base" / "tokenizer.json"))
    for modality in ("dna", "rna"):
        (tmp_path / modality).mkdir()
        domain_tokenizer(modality, "bpe").save(tmp_path / modality)
    (tmp_path / "rna" / "probe.txt").write_text("GAGAGACCAGAGACA\nGAUUACAGAUUACA\n")
    (tmp_path / "plain.txt").write_text("The gene is in the cell.\nA run of GATTACAGATTACA.\nNumbers 1234.\n")
    domains = [{"strategy": "isolate", "tokenizer": "dna"}, {"strategy": "isolate", "tokenizer": "rna", "tags": tags}]
    merge = {"plain_text": ["plain.txt"], "random_strings": 50, "domains": domains}
    (tmp_path / "r.yaml").write_text(yaml.safe_dump({"name": "r", "seed": 1, "base": {"model": "base"}, "merge": merge}))
    facts = Run.load(tmp_path / "r.yaml", out=tmp_path / "out").run_stage(BY_NAME["merge"])[0].facts
    dna, rna = facts["domains"]
    assert (dna["runs_of_earlier_domains"], rna["runs_of_earlier_domains"]) == (0, 1)
    first = "<rna>GAGAGACCAGAGACA</rna>" if tags else "GAGAGACCAGAGACA"
    assert [example["text"] for example in rna["examples"]] == [first, "GAUUACAGAUUACA"]
    said = capsys.readouterr().err
    alone = (
        "merge: rna: 1 of 2 held-out sequences are written in letters of dna alone; bare in a text they are read as dna, which was merged"
    )
    assert f"{alone} before; {advice}" in said
    assert "merge: dna: 1 of 3 plain lines hold what is read as a sequence; if they are ordinary text, let fewer words count" in said
