"""The house rules, as tests: who imports whom, what lies where, and that the documents agree with the code."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from biollm.core.files import sha256_file
from biollm.stages import BY_NAME, STAGES, Run

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "biollm"
SHARED = {"core": set(), "corpus": {"core"}, "modeling": {"core", "corpus"}, "training": {"core", "corpus", "modeling"}}
TOP = {"cli", "stages", "doctor", "workflow", "impute", "predict", "predictor", "mutagenesis", "benchmark", "__init__", "__main__"}
RECIPES = sorted((ROOT / "pipelines").glob("*.yaml"))


def imports_of(file: Path) -> set[str]:
    """The modules that a file imports anywhere in it, by their full names."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return names


def room_of(module: str) -> str:
    return module.split(".")[1] if module.count(".") else "__init__"


@pytest.mark.parametrize("file", sorted(PACKAGE.rglob("*.py")), ids=lambda file: file.relative_to(PACKAGE).as_posix())
def test_a_room_imports_only_the_rooms_that_it_may(file: Path) -> None:
    parts = file.relative_to(PACKAGE).parts
    room = parts[0] if len(parts) > 1 else file.stem
    ours = {room_of(name) for name in imports_of(file) if name == "biollm" or name.startswith("biollm.")} - {room}
    if room in SHARED:
        assert ours <= SHARED[room]
    elif room in BY_NAME:
        assert ours <= set(BY_NAME[room].rooms)
    else:
        assert room in TOP
        assert "cli" not in ours or room == "__main__"


@pytest.mark.parametrize("room", [stage.name for stage in STAGES if "modeling" not in stage.rooms] + ["core", "corpus"])
def test_core_and_the_tabular_stages_never_import_torch(room: str) -> None:
    for file in (PACKAGE / room).rglob("*.py"):
        roots = {name.split(".")[0] for name in imports_of(file)}
        assert not roots & {"torch", "transformers", "deepspeed"}, file


def test_loops_are_compiled_in_one_way() -> None:
    """That of core/compiled.py, which also works where nothing compiled can be kept."""
    assert [file.name for file in PACKAGE.rglob("*.py") if "numba" in imports_of(file)] == ["compiled.py"]


def test_neither_importing_biollm_nor_reading_a_recipe_loads_a_library_that_is_slow_to_load() -> None:
    code = """
import sys
from pathlib import Path
import biollm, biollm.cli, biollm.stages
from biollm.core.recipe import read_recipe
read_recipe(Path("pipelines/quickstart.yaml"), [], biollm.stages.recipe_model())
print(sorted({"torch", "transformers", "deepspeed", "sklearn", "pandas", "polars", "numba"} & set(sys.modules)))
"""
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_no_python_file_in_tokenizers_hides_the_package_of_that_name() -> None:
    assert (ROOT / "tokenizers").is_dir()
    assert not list((ROOT / "tokenizers").rglob("*.py"))


def test_no_module_is_named_after_a_dependency_at_top_level() -> None:
    assert {path.name for path in ROOT.iterdir() if path.is_dir() and (path / "__init__.py").exists()} == {"biollm"}


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)
def test_every_stage_has_a_folder_a_config_and_a_rule(stage) -> None:
    assert {"config.py", "stage.py"} <= {path.name for path in (PACKAGE / stage.name).iterdir()}
    assert f"rule {stage.name}:" in (ROOT / "workflows" / "rules" / f"{stage.name}.smk").read_text()
    for name, field in stage.config_class().model_fields.items():
        assert field.annotation is not None, name


def test_the_readme_has_the_stage_table_of_the_code() -> None:
    readme = (ROOT / "README.md").read_text()
    for stage in STAGES:
        assert f"| `{stage.name}` | {stage.reads} | {stage.writes} |" in readme


def test_the_readme_tree_names_what_exists() -> None:
    tree = (ROOT / "README.md").read_text().split("<!-- tree -->")[1]
    named = [line.split()[0].rstrip("/") for line in tree.splitlines() if line and not line.startswith(("`", " "))]
    assert named
    assert not [name for name in named if not (ROOT / name).exists()]
    missing = {p.name for p in ROOT.iterdir() if p.is_dir() and p.name[0] != "."} - set(named) - {"results", "build", "dist"}
    assert not missing


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
def test_every_recipe_parses_and_is_named_after_its_file(recipe: Path) -> None:
    run = Run.load(recipe)
    assert run.recipe.name == recipe.stem
    assert run.stages


def test_there_are_recipes() -> None:
    assert ROOT / "pipelines" / "quickstart.yaml" in RECIPES


def test_ci_runs_only_what_the_readme_has() -> None:
    readme = (ROOT / "README.md").read_text()
    made = [line for line in (ROOT / ".ci" / "run").read_text().splitlines() if line.startswith("make ")]
    assert "make test" in made
    assert all(f"`{line}`" in readme or f"\n{line}" in readme for line in made)


def test_every_recipe_in_the_ingest_guide_is_one() -> None:
    from biollm.ingest.config import Config

    blocks = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "ingest.md").read_text(), re.DOTALL)
    assert len(blocks) >= 6
    for block in blocks:
        Config.model_validate(yaml.safe_load(block))


def test_the_registry_names_public_files_by_url_and_digest() -> None:
    entries = yaml.safe_load((ROOT / "data" / "registry.yaml").read_text())
    digests = {file.name: sha256_file(file) for file in (ROOT.parent / "shared" / "data").glob("*/*") if file.is_file()}
    for entry in entries:
        assert entry.keys() == {"name", "resource", "licence", "cite"}
        url, digest = re.fullmatch(r"(https://\S+)#sha256=([0-9a-f]{64})", entry["resource"]).groups()  # type: ignore[union-attr]
        assert digests.get(url.rsplit("/", 1)[1], digest) == digest
