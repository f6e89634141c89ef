"""A model card in every model folder: README.md as the Hugging Face hub reads it, made from the facts that go into the manifest.

Source: https://huggingface.co/docs/hub/model-cards (front matter), https://github.com/huggingface/hub-docs/blob/main/modelcard.md.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from huggingface_hub import EvalResult, ModelCardData

from biollm.core.adapters import FOLDABLE, PROMPTS
from biollm.core.artifacts import Artifact
from biollm.core.files import read_json, write_text_atomic
from biollm.core.job import Job
from biollm.core.resources import FUSION_FILE, HUB

Facts = dict[str, Any]
ModelStage = Literal["expand", "pretrain", "finetune"]

CARD = "README.md"
# What a folder opens with, by a file of its own; without either with transformers.
_LIBRARIES = {"adapter_config.json": "peft", "bottleneck.json": "biollm"}
_VOCABULARY_FILE = "biollm_vocabulary.json"
_PIPELINE_TAGS = {
    "masked": "fill-mask", "diffusion": "fill-mask", "causal": "text-generation", "prefix": "text-generation",
    "seq2seq": "text2text-generation", "span_corruption": "text2text-generation",
    "classification": "text-classification", "multilabel": "text-classification", "pair_classification": "text-classification",
    "regression": "text-classification", "token_classification": "token-classification", "instruction": "text-generation",
}  # fmt: skip
# Our names of scores, as the hub names them (ids of the `evaluate` library where it has one).
_METRICS = {
    "accuracy": "accuracy", "macro_f1": "f1", "auroc": "roc_auc", "macro_auroc": "roc_auc", "r2": "r_squared", "spearman": "spearmanr",
    "rmse": "rmse", "perplexity": "perplexity", "bits_per_byte": "bits_per_byte", "nats_per_token": "nats_per_token",
}  # fmt: skip
_DONE = {
    "expand": "Its vocabulary and embedding table were extended; nothing has been trained yet.",
    "pretrain": "It was trained further on text or sequences of the domain.",
    "finetune": "It was fine-tuned on labelled records of the domain.",
}
_UNITS = {"dna": "base", "methylated_dna": "base", "rna": "base", "protein": "residue", "smiles": "letter", "text": "byte"}


def write_model_card(folder: Path, stage: ModelStage, job: Job[Any], facts: Facts, *, made_from: Path, method: str | None = None) -> Path:
    """Write README.md into a model folder of a stage, over one that a library may have left there; returns its path.

    facts: what the stage returns for its manifest. made_from: the folder of the model that this one was made from; its card tells the
    licence. method: which of the methods of `finetune` the folder holds. The same facts give the same bytes: no time, no absolute path.
    """
    data = read_card(made_from)
    library = next((library for file, library in _LIBRARIES.items() if (folder / file).is_file()), "transformers")
    channels = read_json(folder / FUSION_FILE)["channels"] if (folder / FUSION_FILE).is_file() else []
    measured = [channel["name"] for channel in channels if channel.get("computed") is None]
    domains = read_json(folder / _VOCABULARY_FILE)["domains"] if (folder / _VOCABULARY_FILE).is_file() else []
    read = {domain["modality"] for domain in domains if domain["strategy"] == "isolate"}
    licence: Facts = {key: data[key] for key in ("license", "license_name", "license_link", "language") if key in data}
    text = model_card(stage, job.base_model, facts, job.inputs, licence, library, method, measured, several=len(read) > 1)
    write_text_atomic(folder / CARD, text)
    return folder / CARD


def read_card(folder: Path) -> Facts:
    """The front matter of a folder's README.md; empty if there is no card, or none that can be read (it is not ours to judge)."""
    import yaml

    path = (folder if folder.is_dir() else folder.parent) / CARD
    found = re.match(r"---\s*\n(.*?)\n---", path.read_text(encoding="utf-8", errors="replace"), re.DOTALL) if path.is_file() else None
    try:
        data = yaml.safe_load(found[1]) if found else None
    except yaml.YAMLError:
        return {}
    return data if isinstance(data, dict) else {}


def model_card(
    stage: ModelStage,
    base_model: str,
    facts: Facts,
    upstream: dict[str, Artifact],
    licence: Facts | None = None,
    library: str = "transformers",
    method: str | None = None,
    measured: Sequence[str] = (),
    *,
    several: bool = False,
) -> str:
    """The text of a card: YAML front matter and Markdown. The front matter is checked by huggingface_hub, offline.

    library: what the folder opens with: transformers, or of an adapter peft or biollm. measured: the tracks that the model reads and that
    do not follow from the sequence. several: whether it reads sequences of several kinds, so that a user has to say which are meant.
    Raises ValueError if a fact does not fit the hub's form, which only a bug of ours can cause.
    """
    ingest = upstream["ingest"].facts if "ingest" in upstream else {}
    title = _title(base_model, ingest, method)
    data = ModelCardData(
        base_model=base_model.removeprefix(HUB).partition("@")[0] if base_model.startswith(HUB) else None,
        library_name=library,
        pipeline_tag=_PIPELINE_TAGS.get(facts.get("task") or facts.get("objective", "masked")),
        tags=_tags(stage, ingest, method),
        metrics=_metrics(facts, method),
        eval_results=_results(facts, ingest, method),
        model_name=title,
        **(licence or {}),
    )
    parts = [
        f"# {title}",
        f"Made by biollm: {_base(base_model)}, adapted to {_domain(ingest)}. {_DONE[stage]}",
        "## What was measured\n\n" + _table(_measured(facts, ingest, method)),
        "## How it was made\n\n" + _table(_made(stage, base_model, facts, upstream, method)),
        "## How to use it\n\n" + _usage(facts, library, method, measured, ingest.get("modality") if several else None),
        "## Limits\n\n" + _limits(facts, ingest),
    ]
    return f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(parts) + "\n"


def _title(base_model: str, ingest: Facts, method: str | None) -> str:
    base = base_model.removeprefix(HUB).removeprefix("package:").partition("@")[0].removesuffix(".gguf").removesuffix("/model")
    name = base.rpartition("/")[2] or "model"
    return f"{name}, adapted to {_domain(ingest)}" + (f" ({method.replace('_', ' ')})" if method else "")


def _base(base_model: str) -> str:
    return f"`{base_model}`" if base_model else "a base model"


def _domain(ingest: Facts) -> str:
    return ", ".join(ingest["sources"]) if ingest.get("sources") else "a domain vocabulary"


def _tags(stage: ModelStage, ingest: Facts, method: str | None) -> list[str]:
    own = {"expand": "vocabulary-expansion", "pretrain": "continued-pretraining", "finetune": "fine-tuned"}[stage]
    modality = ingest.get("modality")
    return ["biollm", "biology", own, *([modality] if modality else []), *([method.replace("_", "-")] if method else [])]


def _scores(facts: Facts, method: str | None) -> tuple[str, dict[str, float]]:
    """The split that was scored last, and the method's scores on it."""
    found = facts["methods"][method].get("scores", {}) if method is not None and "methods" in facts else {}
    split = next((name for name in ("test", "validation") if name in found), "test")
    return split, found.get(split, {})


def _metrics(facts: Facts, method: str | None) -> list[str] | None:
    return sorted({_METRICS.get(name, name) for name in _scores(facts, method)[1]}) or None


def _results(facts: Facts, ingest: Facts, method: str | None) -> list[EvalResult] | None:
    split, scores = _scores(facts, method)
    task = _PIPELINE_TAGS.get(facts.get("task", ""), "other")
    return [
        EvalResult(
            task_type=task, dataset_type="biollm-corpus", dataset_name=_domain(ingest), dataset_split=split,
            metric_type=_METRICS.get(name, name), metric_name=name.replace("_", " "), metric_value=round(value, 6),
        )
        for name, value in scores.items()
    ] or None  # fmt: skip


def _before_and_after(measured: Facts) -> str:
    said = f"{measured['after']:.3f}, before: {measured['before']:.3f}"
    if (change := measured["change"]) is None:
        return said
    return f"{said} (95 % interval of the change {change['low']:+.3f} to {change['high']:+.3f})"


def _measured(facts: Facts, ingest: Facts, method: str | None) -> list[tuple[str, str]]:
    unit = _UNITS[ingest.get("modality", "dna")]
    rows: list[tuple[str, str]] = []
    if bits := facts.get("bits_per_base"):
        rows.append((f"held-out records of the domain, bits per {unit}", _before_and_after(bits)))
    if general := facts.get("bits_per_byte_general"):
        rows.append(("held-out general text, bits per byte", _before_and_after(general)))
    for init, value in (facts.get("held_out_bits_per_base") or {}).items():
        rows.append((f"held-out records of the domain right after expansion, '{init}', bits per {unit}", f"{value:.3f}"))
    split, scores = _scores(facts, method)
    baseline = facts.get("baseline")
    for name, value in scores.items():
        trivial = (baseline or {}).get("scores", {}).get(split, {}).get(name)
        compared = f"; {baseline['what']}: {trivial:.3f}" if baseline and trivial is not None else ""
        rows.append((f"{name.replace('_', ' ')} on the {split} split", f"{value:.3f}{compared}"))
    return rows or [("nothing", "no held-out records were at hand")]


def _made(stage: ModelStage, base_model: str, facts: Facts, upstream: dict[str, Artifact], method: str | None) -> list[tuple[str, str]]:
    ingest = upstream["ingest"].facts if "ingest" in upstream else {}
    of_method = facts["methods"][method] if method is not None else {}
    records = ", ".join(f"{split} {count:,}" for split, count in ingest.get("records", {}).items())
    audit = ingest.get("audit") or {}
    said = {
        "base model": _base(base_model),
        "stage": f"`{stage}`" + (f", {method.replace('_', ' ')}" if method else ""),
        "data": _domain(ingest) if ingest else None,
        "records": records or None,
        "leak audit of the splits": audit.get("verdict"),
        "leaks were allowed, because": audit.get("allowed"),
        "new tokens": f"{facts['new_rows']:,}" if "new_rows" in facts else None,
        "objective": facts["objective"].replace("_", " ") if "objective" in facts else None,
        "task": facts["task"].replace("_", " ") if "task" in facts else None,
        "steps": f"{of_method.get('steps', facts.get('steps')):,}" if of_method.get("steps", facts.get("steps")) is not None else None,
        "tracks": ", ".join(facts.get("fused_channels") or (facts.get("fusion") or {}).get("channels", [])) or None,
        **{f"made from `{name}`": f"digest {artifact.digest[:12]}" for name, artifact in upstream.items()},
    }
    return [(name, str(value)) for name, value in said.items() if value is not None]


def _usage(facts: Facts, library: str, method: str | None, measured: Sequence[str], modality: str | None) -> str:
    """modality: what is to be said of sequences, where the model reads several kinds."""
    folder = "path/to/this/folder"
    embed = _python(*_embedding(f'"{folder}"' + (f', modality="{modality}"' if modality else ""), measured))
    if library == "transformers":
        stock = "Without biollm the folder opens with `AutoTokenizer` and `AutoModel` of transformers"
        tracks = "; the tracks are then not read." if facts.get("fused_channels") or facts.get("fusion") else "."
        return f"{embed}\n\n{stock}{tracks}"
    if method in PROMPTS:
        code = _python("from biollm.modeling.loading import load_model", "", f'model = load_model("{folder}").stock  # on its base')
        return f"An adapter of prompts, which no weight of its base can take in: it is used with its base.\n\n{code}"
    if method in FOLDABLE:
        command = f"```\nbiollm merge-adapter {folder} merged-model\n```"
        return f"An adapter. To fold it into its base, checked to give the same outputs:\n\n{command}"
    only = " Other libraries do not read it." if library == "biollm" else ""
    return f"An adapter, which cannot be folded into its base: biollm opens both together.{only}\n\n{embed}"


def _embedding(model: str, measured: Sequence[str]) -> list[str]:
    """Lines of code that give vectors; of a model that reads measured tracks with these, as it refuses sequences alone."""
    if not measured:
        return ["from biollm import Embedder", "", f"vectors = Embedder({model}).embed(sequences)  # float32 (n, d)"]
    values = ", ".join(f'"{name}": [...]' for name in measured)
    return [
        "from biollm import Embedder",
        "",
        f"tracks = [{{{values}}}, ...]  # for each sequence its tracks: a number for each letter, NaN where nothing was measured",
        f"vectors = Embedder({model}).embed(sequences, tracks=tracks)  # float32 (n, d)",
        f'vectors = Embedder({model}, tracks="off").embed(sequences)  # without them',
    ]


def _python(*lines: str) -> str:
    return "\n".join(["```python", *lines, "```"])


def _limits(facts: Facts, ingest: Facts) -> str:
    said = ["The figures are of one corpus, one split and one seed. They are no evidence for other organisms, assays or cohorts."]
    if "bits_per_base" in facts and not facts.get("bits_per_byte_general"):
        said.append("What the training cost on general text was not measured.")
    if (ingest.get("audit") or {}).get("verdict") == "leaks":
        said.append("The splits leak: read the figures as too good.")
    said.append("Not a medical device: no output is fit to decide on a person's care.")
    return " ".join(said)


def _table(rows: list[tuple[str, str]]) -> str:
    lines = [f"| {_cell(name)} | {_cell(value)} |" for name, value in rows]
    return "\n".join(["| | |", "|---|---|", *lines])


def _cell(text: str) -> str:
    return re.sub(r"([|<>])", r"\\\1", text).replace("\n", " ")
