"""A recipe's faults are all found before anything runs, and named by file, key, what was found and what was expected."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from biollm.core.errors import ConfigError
from biollm.core.recipe import Section, read_recipe
from biollm.stages import BY_NAME, Run

TinyRecipe = Callable[..., Path]


def refusal(path: Path, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        Run.load(path, list(overrides))
    return str(caught.value)


def written(tmp_path: Path, text: str | bytes) -> Path:
    path = tmp_path / "r.yaml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_a_right_recipe_is_read_with_its_sections_in_stage_order(tmp_path: Path, tiny_recipe: TinyRecipe) -> None:
    run = Run.load(tiny_recipe(tmp_path))
    assert [stage.name for stage in run.stages] == ["ingest", "tokenizer", "merge", "expand", "pretrain", "embed"]
    assert run.results == Path("results/tiny")


def test_a_recipe_cannot_be_changed_after_it_was_read(tmp_path: Path, tiny_recipe: TinyRecipe) -> None:
    run = Run.load(tiny_recipe(tmp_path))
    with pytest.raises(ValidationError, match="frozen"):
        run.recipe.seed = 4


@pytest.mark.parametrize(
    ("changes", "key", "hint"),
    [
        ({"sed": 1}, "sed", "did you mean 'seed'?"),
        ({"ingest": {"window_base": 64}}, "ingest.window_base", "did you mean 'window_bases'?"),
        ({"ingest": {"sources": [{"name": "a", "sequnces": "x.fa"}]}}, "ingest.sources.0.sequnces", "did you mean 'sequences'?"),
        ({"expand": {"fusion": {"chanels": ["cpg"]}}}, "expand.fusion.chanels", "did you mean 'channels'?"),
        ({"tokenizer": {"zzz": 1}}, "tokenizer.zzz", "known keys here: kind, vocab_size, piece_residues"),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest_known_one(
    tmp_path: Path, tiny_recipe: TinyRecipe, changes: dict[str, Any], key: str, hint: str
) -> None:
    path = tiny_recipe(tmp_path, **changes)
    assert f"{path}: unknown key '{key}'; {hint}" in refusal(path)


def test_a_missing_key_is_named(tmp_path: Path, tiny_recipe: TinyRecipe) -> None:
    path = tiny_recipe(tmp_path, merge={"plain_text": None})
    assert refusal(path) == f"{path}: key 'merge.plain_text' is missing; add it"


def test_a_recipe_that_merges_needs_a_base(tmp_path: Path, tiny_recipe: TinyRecipe) -> None:
    path = tiny_recipe(tmp_path, base=None)
    assert refusal(path) == (
        f"{path}: the section 'merge' extends the tokenizer of a base model, but the recipe names none; add 'base: {{model: …}}'"
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ingest": {"window_bases": "wide"}}, "ingest.window_bases is 'wide'; it should be a valid integer"),
        ({"ingest": {"window_bases": 4}}, "ingest.window_bases is 4; it should be greater than or equal to 8"),
        ({"seed": -1}, "seed is -1; it should be greater than or equal to 0"),
        (
            {"expand": {"init": "avg"}},
            "expand.init is 'avg'; it should be 'mean', 'normal', 'neighbours', 'mix', 'weighted', 'omp' or 'distill'",
        ),
        ({"ingest": {"sources": []}}, "ingest.sources: List should have at least 1 item"),
        ({"name": "../up"}, "name: String should match pattern"),
        ({"tokenizer": 5}, "tokenizer is 5; it should be a section with keys of its own: kind, vocab_size"),
    ],
)
def test_a_wrong_value_is_refused_with_file_key_and_what_was_found(
    tmp_path: Path, tiny_recipe: TinyRecipe, changes: dict[str, Any], message: str
) -> None:
    path = tiny_recipe(tmp_path, **changes)
    found = refusal(path)
    key, _, rest = message.partition(" ")
    assert found.startswith(f"{path}: {key}")
    assert rest in found


def test_a_long_wrong_value_is_shown_cut(tmp_path: Path, tiny_recipe: TinyRecipe) -> None:
    path = tiny_recipe(tmp_path, seed="x" * 500)
    assert len(refusal(path)) < len(str(path)) + 150
    assert "…; it should be a valid integer" in refusal(path)


def test_all_faults_stand_in_one_message_each_on_a_line(tmp_path: Path, tiny_recipe: TinyRecipe) -> None:
    path = tiny_recipe(tmp_path, seed="x", threads=0, tokenizer={"vocab_size": 1})
    assert len(refusal(path).splitlines()) == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tokenizer": None}, "merge.domains[0] names no tokenizer, and the recipe has no section 'tokenizer' that would train one"),
        ({"expand": {"fusion": {"channels": ["cpg", "meth"]}}}, "expand.fusion.channels names ['meth'], but ingest.tracks makes ['cpg']"),
        ({"ingest": {"labels": [{"name": "a", "feature": "CDS"}] * 2}}, "ingest.labels: several are called a; names must differ"),
        ({"ingest": {"sources": [{"name": "one", "sequences": "one.fa"}]}}, "labels need an annotation, but sources ['one'] have none"),
        ({"ingest": {"split": {"validation": 0.5, "test": 0.45}}}, "ingest.split: validation + test is 0.95; leave at least 0.1 for train"),
    ],
)
def test_contradictions_between_keys_are_refused(tmp_path: Path, tiny_recipe: TinyRecipe, changes: dict[str, Any], message: str) -> None:
    assert message in refusal(tiny_recipe(tmp_path, **changes))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed: 1\nseed: 2\n", "r.yaml line 2: not valid YAML: key 'seed' stands twice; mend that line"),
        ("base:\n  model: a\n  model: b\n", "r.yaml line 3: not valid YAML: key 'model' stands twice"),
        ("name: x\nseed: [1, 2\n", "r.yaml line 3: not valid YAML"),
        ("name: x\n\tseed: 1\n", "r.yaml line 2: not valid YAML"),
        ("? [a]\n: 1\n", "r.yaml line 1: not valid YAML: found unhashable key"),
        ("name: \x07\n", "r.yaml: not valid YAML"),
        ("- a\n- b\n", "r.yaml: a recipe is a mapping of keys to values; found list"),
        ("", "r.yaml: a recipe is a mapping of keys to values; found NoneType"),
        (b"name: \xff\n", "r.yaml: not UTF-8 text (byte 6); save it as UTF-8"),
        ("!!python/object/apply:os.system ['true']\n", "r.yaml line 1: not valid YAML: could not determine a constructor"),
    ],
)
def test_text_that_is_no_recipe_is_refused_with_its_line(tmp_path: Path, text: str | bytes, message: str) -> None:
    assert message in refusal(written(tmp_path, text))


def test_a_merge_key_brings_the_keys_of_its_anchor_which_may_be_given_anew(tmp_path: Path) -> None:
    class Track(Section):
        name: str
        file: str

    class Two(Section):
        one: Track
        other: Track

    (tmp_path / "r.yaml").write_text("one: &calls {name: CG, file: calls.gz}\nother: {<<: *calls, name: CHG}\n")
    found = read_recipe(tmp_path / "r.yaml", [], Two)
    assert (found.other.name, found.other.file) == ("CHG", "calls.gz")


def test_a_key_that_is_no_string_is_refused_in_one_line(tmp_path: Path, tiny_recipe: TinyRecipe) -> None:
    path = tiny_recipe(tmp_path)
    path.write_text(path.read_text() + "1: x\n")
    assert str(path) in refusal(path)


def test_a_missing_recipe_and_a_folder_are_refused(tmp_path: Path) -> None:
    assert "none.yaml: no such recipe file; recipes lie in pipelines/" in refusal(tmp_path / "none.yaml")
    assert "is a folder; give the recipe file in it" in refusal(tmp_path)


def test_set_overrides_the_file_and_is_read_as_yaml(tmp_path: Path, tiny_recipe: TinyRecipe) -> None:
    run = Run.load(tiny_recipe(tmp_path), ["seed=9", "ingest.split.gap_bases=0", "expand.compare_steps=7", "base.model=other"])
    recipe: Any = run.recipe
    assert (recipe.seed, recipe.ingest.split.gap_bases, recipe.expand.compare_steps, recipe.base.model) == (9, 0, 7, "other")


def test_set_can_add_a_section(tmp_path: Path, tiny_recipe: TinyRecipe) -> None:
    path = tiny_recipe(tmp_path, pretrain=None, embed=None)
    assert BY_NAME["embed"] in Run.load(path, ["embed.models=[base]"]).stages


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seed", "--set seed: expected key=value, for example --set ingest.window_bases=512"),
        ("=5", "--set =5: expected key=value"),
        ("seed.x=5", "--set seed.x=5: seed holds a value, not a section"),
        ("seed=[1", "--set seed=[1: the value is not valid YAML; quote it"),
        ("ingest.windowbases=5", "unknown key 'ingest.windowbases'; did you mean 'window_bases'?"),
        ("seed=x", "seed is 'x'; it should be a valid integer"),
    ],
)
def test_a_wrong_override_is_refused(tmp_path: Path, tiny_recipe: TinyRecipe, override: str, message: str) -> None:
    assert message in refusal(tiny_recipe(tmp_path), override)


@pytest.mark.parametrize(
    "changes", [{"base": {"model": "/models/bert"}}, {"ingest": {"sources": [{"name": "a", "sequences": "/x.fa", "annotation": "b"}]}}]
)
def test_an_absolute_path_is_refused(tmp_path: Path, tiny_recipe: TinyRecipe, changes: dict[str, Any]) -> None:
    run = Run.load(tiny_recipe(tmp_path, **changes))
    with pytest.raises(ConfigError, match=r"^/.*: a recipe holds no absolute path, so that it runs elsewhere too; write it relative"):
        [run.resource_digests(stage) for stage in run.stages]


@pytest.mark.parametrize("number", [".inf", ".nan"])
def test_a_number_that_is_not_finite_is_refused(tmp_path: Path, tiny_recipe: TinyRecipe, number: str) -> None:
    assert "pretrain.learning_rate" in refusal(tiny_recipe(tmp_path), f"pretrain.learning_rate={number}")


def test_a_section_written_without_a_value_is_not_dropped_in_silence(tmp_path: Path, tiny_recipe: TinyRecipe) -> None:
    # `embed:` with nothing behind it is YAML for null; a user who writes it wants the stage, and all its keys have defaults.
    path = tiny_recipe(tmp_path, embed=None)
    path.write_text(path.read_text() + "embed:\n")
    try:
        stages = [stage.name for stage in Run.load(path).stages]
    except ConfigError as error:
        stages = [word for word in ("embed",) if word in str(error)]  # refusing it by name is as good
    assert "embed" in stages


def test_a_stage_that_the_recipe_lacks_cannot_be_run(tmp_path: Path, tiny_recipe: TinyRecipe) -> None:
    run = Run.load(tiny_recipe(tmp_path, embed=None), out=tmp_path / "out")
    with pytest.raises(ConfigError, match=r"has no section 'embed', so there is nothing to do; add 'embed: {}'"):
        run.run_stage(BY_NAME["embed"])


def test_results_do_not_depend_on_where_the_recipe_lies(tmp_path: Path, tiny_recipe: TinyRecipe) -> None:
    here, there = Run.load(tiny_recipe(tmp_path / "a")), Run.load(tiny_recipe(tmp_path / "b" / "c"))
    assert [here.own_key(stage) for stage in here.stages] == [there.own_key(stage) for stage in there.stages]


@pytest.mark.parametrize("override", ["seed=4", "threads=2", "ingest.window_bases=65"])
def test_a_changed_recipe_changes_the_key(tmp_path: Path, tiny_recipe: TinyRecipe, override: str) -> None:
    path = tiny_recipe(tmp_path)
    ingest = BY_NAME["ingest"]
    assert Run.load(path).own_key(ingest) != Run.load(path, [override]).own_key(ingest)


def test_a_changed_input_file_changes_the_key(tmp_path: Path, tiny_recipe: TinyRecipe) -> None:
    path = tiny_recipe(tmp_path)
    ingest, merge = BY_NAME["ingest"], BY_NAME["merge"]
    before = Run.load(path)
    keys = before.own_key(ingest), before.own_key(merge)
    (tmp_path / "plain.txt").write_text("other text\n")
    after = Run.load(path)
    assert after.own_key(ingest) == keys[0]
    assert after.own_key(merge) != keys[1]


def test_a_contradiction_between_sections_is_named_without_an_empty_key(tmp_path: Path, tiny_recipe: TinyRecipe) -> None:
    path = tiny_recipe(tmp_path, tokenizer=None)
    assert refusal(path).startswith(f"{path}: merge.domains[0] names no tokenizer")


def test_checkpoints_fall_on_points_of_the_training_curve(tmp_path: Path, tiny_recipe: TinyRecipe) -> None:
    message = refusal(tiny_recipe(tmp_path, pretrain={"checkpoint_steps": 5, "log_steps": 2}))
    assert "checkpoint_steps is 5; it should be a multiple of log_steps (2)" in message


def test_a_stage_run_from_python_leaves_the_environment_as_it_was(tmp_path: Path, tiny_recipe: TinyRecipe) -> None:
    before = dict(os.environ)
    Run.load(tiny_recipe(tmp_path), out=tmp_path / "out").run_stage(BY_NAME["ingest"])
    assert dict(os.environ) == before
