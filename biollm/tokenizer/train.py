"""Train a domain tokenizer."""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

UNKNOWN = "[UNK]"
PREFIX = "##"


def train_wordpiece(sequences: Iterable[str], residues: str, vocab_size: int, piece_residues: int) -> Tokenizer:
    """A stock WordPiece tokenizer over residue letters; upper and lower case read alike, decode gives upper case.

    sequences: upper-case, of `residues` only. Each is cut into pieces of `piece_residues` before tokens are looked for.
    The result depends on the sequences' contents alone. It may hold fewer tokens than asked for if the corpus is too small.
    """
    learner = Tokenizer(models.WordPiece(unk_token=UNKNOWN))
    learner.pre_tokenizer = _pieces(piece_residues)
    # The trainer numbers "##A" in the order of a hash map, differently in each run, and breaks ties by number.
    # Named as special tokens they have fixed numbers; the tokenizer below is built from the vocabulary alone.
    fixed = [UNKNOWN, *residues, *(PREFIX + letter for letter in residues)]
    learner.train_from_iterator(
        sequences,
        trainers.WordPieceTrainer(
            vocab_size=vocab_size,
            special_tokens=fixed,
            initial_alphabet=list(residues),
            continuing_subword_prefix=PREFIX,
            show_progress=False,
        ),
    )
    learned = sorted(learner.get_vocab().items(), key=lambda item: item[1])
    vocabulary = {token: number for number, (token, _) in enumerate(learned)}

    tokenizer = Tokenizer(
        models.WordPiece(vocabulary, unk_token=UNKNOWN, continuing_subword_prefix=PREFIX, max_input_chars_per_word=piece_residues)
    )
    tokenizer.normalizer = normalizers.Sequence([normalizers.Replace(letter.lower(), letter) for letter in residues])
    tokenizer.pre_tokenizer = _pieces(piece_residues)
    tokenizer.decoder = decoders.Sequence([decoders.WordPiece(prefix=PREFIX, cleanup=False), decoders.Fuse(), decoders.Replace(" ", "")])
    return tokenizer


def _pieces(residues: int) -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Split(Regex(f".{{1,{residues}}}"), behavior="isolated")
