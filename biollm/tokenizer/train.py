"""Train a domain tokenizer: every result is a stock tokenizer that depends on the contents of its sequences alone.

`residues` is the alphabet, every letter of which gets a token. For text it is None: words are read as bytes (GPT-2's byte letters), so
that no text is unknown to any kind and decode gives back each byte.

Sources. BPE: Sennrich et al. 2016, arXiv:1508.07909. WordPiece: Schuster and Nakajima 2012, doi:10.1109/ICASSP.2012.6289079.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable

from biollm.core.errors import ConfigError
from biollm.modeling.domain import PREFIX, UNKNOWN
from biollm.tokenizer.unigram import learn_pieces
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

MAX_KMER_TOKENS = 200_000
_MIN_FREQUENCY = 2


def train_bpe(words: Iterable[str], residues: str | None, vocab_size: int, *, fold_case: bool = True) -> Tokenizer:
    """BPE over single residues, without an unknown token; sequences are not cut. It may hold fewer tokens than asked for."""
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = _text_words() if residues is None else None
    learner.train_from_iterator(
        words,
        trainers.BpeTrainer(vocab_size=vocab_size, min_frequency=_MIN_FREQUENCY, initial_alphabet=_letters(residues), show_progress=False),
    )
    return dress(Tokenizer(learner.model), residues, fold_case)


def build_chars(residues: str | None, *, fold_case: bool = True) -> Tokenizer:
    """One token per residue: a BPE without merges."""
    return dress(Tokenizer(models.BPE({letter: i for i, letter in enumerate(_letters(residues))}, [])), residues, fold_case)


def train_wordpiece(
    sequences: Iterable[str], residues: str | None, vocab_size: int, piece_residues: int, *, fold_case: bool = True
) -> Tokenizer:
    """A stock WordPiece tokenizer over residue letters; upper and lower case read alike, decode gives upper case.

    sequences: upper-case, of `residues` only. Each is cut into pieces of `piece_residues` before tokens are looked for.
    The result depends on the sequences' contents alone. It may hold fewer tokens than asked for if the corpus is too small.
    """
    learner = Tokenizer(models.WordPiece(unk_token=UNKNOWN))
    learner.pre_tokenizer = _pieces(piece_residues) if residues is not None else _text_words(piece_residues)
    letters = _letters(residues)
    # The trainer numbers "##A" in the order of a hash map, differently in each run, and breaks ties by number.
    # Named as special tokens they have fixed numbers; the tokenizer below is built from the vocabulary alone.
    fixed = [UNKNOWN, *letters, *(PREFIX + letter for letter in letters)]
    learner.train_from_iterator(
        sequences,
        trainers.WordPieceTrainer(
            vocab_size=vocab_size,
            min_frequency=_MIN_FREQUENCY,
            special_tokens=fixed,
            initial_alphabet=letters,
            continuing_subword_prefix=PREFIX,
            show_progress=False,
        ),
    )
    learned = sorted(learner.get_vocab().items(), key=lambda item: item[1])
    vocabulary = {token: number for number, (token, _) in enumerate(learned)}
    return dress_wordpiece(vocabulary, residues, piece_residues, fold_case)


def build_kmers(residues: str, k: int, *, fold_case: bool = True) -> Tokenizer:
    """Fixed k-mers: a sequence is cut into pieces of k from its start; the tail, if shorter, has a token of its own.

    A WordPiece model in which every piece stands whole. Raises ConfigError if there would be more than 200,000 tokens.
    """
    vocabulary = {token: number for number, token in enumerate([UNKNOWN, *_kmers(residues, k)])}
    return dress_wordpiece(vocabulary, residues, k, fold_case)


def build_overlapping_kmers(residues: str, k: int, *, fold_case: bool = True) -> Tokenizer:
    """One token per k-mer of a text that spell_kmers wrote: a stock tokenizer.json cannot overlap tokens of a raw sequence.

    Sequences shorter than k are one token. Raises ConfigError if there would be more than 200,000 tokens.
    """
    vocabulary = {token: number for number, token in enumerate([UNKNOWN, *_kmers(residues, k)])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.normalizer = _upper(residues) if fold_case else None
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return tokenizer


def train_unigram(words: Iterable[str], residues: str | None, vocab_size: int, *, fold_case: bool = True) -> Tokenizer:
    """Unigram pieces with their log probabilities, without an unknown piece; sequences are not cut.

    It may hold fewer tokens than asked for if the corpus is too small.
    """
    if residues is None:
        splitter = _text_words()
        words = (word for text in words for word, _ in splitter.pre_tokenize_str(text))
    return dress(Tokenizer(models.Unigram(learn_pieces(words, _letters(residues), vocab_size))), residues, fold_case)


def _kmers(residues: str, k: int) -> list[str]:
    number = sum(len(residues) ** i for i in range(1, k + 1)) + 1
    if number > MAX_KMER_TOKENS:
        raise ConfigError(
            f"tokenizer.kmer is {k}: over {len(residues)} letters ({residues}) that makes {number:,} tokens, "
            f"more than {MAX_KMER_TOKENS:,}; lower it"
        )
    return ["".join(letters) for size in range(1, k + 1) for letters in itertools.product(residues, repeat=size)]


def _letters(residues: str | None) -> list[str]:
    return sorted(pre_tokenizers.ByteLevel.alphabet()) if residues is None else list(residues)


def dress(tokenizer: Tokenizer, residues: str | None, fold_case: bool) -> Tokenizer:
    """The way in and out around a BPE or Unigram model."""
    if residues is None:
        tokenizer.pre_tokenizer, tokenizer.decoder = _text_words(), decoders.ByteLevel()
    else:
        tokenizer.normalizer = _upper(residues) if fold_case else None
        tokenizer.decoder = decoders.Fuse()
    return tokenizer


def dress_wordpiece(vocabulary: dict[str, int], residues: str | None, piece: int, fold_case: bool, cut: str | None = None) -> Tokenizer:
    """The way in and out around a WordPiece model. cut: the pattern of the pieces; None: so many letters."""
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token=UNKNOWN, continuing_subword_prefix=PREFIX, max_input_chars_per_word=piece))
    joined = [decoders.WordPiece(prefix=PREFIX, cleanup=False), decoders.Fuse(), decoders.Replace(" ", "")]
    if residues is None:
        tokenizer.pre_tokenizer = _text_words(piece)
        tokenizer.decoder = decoders.Sequence([*joined, decoders.ByteLevel()])
    else:
        tokenizer.normalizer = _upper(residues) if fold_case else None
        tokenizer.pre_tokenizer = _pieces(piece) if cut is None else pre_tokenizers.Split(Regex(cut), behavior="isolated")
        tokenizer.decoder = decoders.Sequence(joined)
    return tokenizer


def _upper(residues: str) -> normalizers.Normalizer:
    return normalizers.Sequence([normalizers.Replace(letter.lower(), letter) for letter in residues])


def _pieces(residues: int) -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Split(Regex(f".{{1,{residues}}}"), behavior="isolated")


def _text_words(piece: int | None = None) -> pre_tokenizers.PreTokenizer:
    """Words with the space before them, numbers and punctuation, as bytes."""
    words = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return words if piece is None else pre_tokenizers.Sequence([words, _pieces(piece)])
