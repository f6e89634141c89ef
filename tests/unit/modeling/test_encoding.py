from __future__ import annotations

from pathlib import Path

import numpy as np

from biollm.modeling.encoding import Encoder, pad, pad_features


def test_padding_is_on_the_right_and_marked() -> None:
    ids, mask = pad([np.asarray([5, 6, 7]), np.asarray([8])], 0, multiple=2)
    assert ids.tolist() == [[5, 6, 7, 0], [8, 0, 0, 0]]
    assert mask.tolist() == [[1, 1, 1, 0], [1, 0, 0, 0]]


def test_padding_has_no_features() -> None:
    found = pad_features([np.ones((2, 3), dtype=np.float32), np.ones((1, 3), dtype=np.float32)], 3)
    assert found.shape == (2, 3, 3)
    assert found.sum(axis=(1, 2)).tolist() == [6.0, 3.0]
    assert not found[1, 1:].any()


def test_text_has_the_tokens_of_the_stock_tokenizer_and_no_residues(bert_base: Path) -> None:
    encoder = Encoder(bert_base)
    (encoded,) = encoder.encode_text(["the gene"])
    assert [encoder.tokenizer.id_to_token(i) for i in encoded.ids] == ["the", "gene"]
    assert not encoded.residues.any()


def test_without_a_domain_vocabulary_a_sequence_is_the_text_that_it_is(bert_base: Path) -> None:
    encoder = Encoder(bert_base)
    (encoded,) = encoder.encode_sequences(["ACGT" * 5])
    assert encoded.ids.tolist() == encoder.encode_text(["ACGT" * 5])[0].ids.tolist()
    assert not encoder.is_sequence("ACGT" * 5)


def test_a_special_token_in_a_text_is_found_at_its_place(tiny_results: Path) -> None:
    encoder = Encoder(tiny_results / "merge")
    (encoded,) = encoder.encode_text(["ACGTACGTACGTAC [MASK] the"])
    tokens = [encoder.tokenizer.id_to_token(i) for i in encoded.ids]
    assert tokens[-2:] == ["[MASK]", "the"]
    assert encoded.residues[-2:].tolist() == [0, 0]
    assert encoded.residues.sum() == 14
