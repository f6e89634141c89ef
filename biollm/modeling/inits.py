"""First values for the rows of new tokens: seven ways, one call.

`initialise` is the door. Four of the ways (`mean`, `neighbours`, `mix`, `weighted`) are fixed weights over base rows, found from
the tokens' texts alone: `row_weights` gives them as a sparse matrix. `normal` and `omp` need the table, `distill` the model.
A table is read in blocks of rows, so that one on disk is never in memory as a whole, and gives the same bits as one in memory.

What holds for every way, whatever the text (DNA in a base of English words, a single letter, a token without pieces):
rows are finite; they repeat with the generator; and their norms lie within the 1st to 99th percentile of the base's.
Rows of tokens that a way cannot tell apart are equal: no noise is added. Noise would make a row more than a function of the token's
text (two ways of editing a table could then no longer be equal bit for bit), its size would be one more knob, and training tells
such tokens apart from the first step on, because their contexts differ.

Legend: V base tokens, N new tokens, D width.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from biollm.core.errors import ConfigError, DataError

if TYPE_CHECKING:
    from biollm.modeling.distill import Teacher

FloatMatrix = NDArray[np.float32]
FloatVector = NDArray[np.float64]
InitName = Literal["mean", "normal", "neighbours", "mix", "weighted", "omp", "distill"]
WeightedName = Literal["mean", "neighbours", "mix", "weighted"]

# Chosen on the development words and sentences of benchmarks/init.py, never on those that it reports.
_NGRAMS = (2, 6)
_NEIGHBOURS = 10
_NEIGHBOUR_TEMPERATURE = 0.1
_NEIGHBOUR_SHARE = 0.6
_PIECE_TEMPERATURE = 0.3

# Sizes that bound memory and time.
_SIMILARITY_ROWS = 256  # 256 x 150,000 similarities are at most 300 MB
_TABLE_ROWS = 4096
_ATOMS = 8192  # their Gram matrix is 256 MB
_CANDIDATES = 256
_CODE_LENGTH = 32


@dataclass(frozen=True)
class NewTokens:
    """The tokens that get rows. N new, V base.

    texts: readable text of every new token; a leading space marks the start of a word (see `readable_texts`).
    pieces: the base tokens that this text had, N lists of ids; a list may be empty.
    base_texts: readable text of every base token, V strings, "" for special ones.
    """

    texts: list[str]
    pieces: list[list[int]]
    base_texts: list[str]

    def __post_init__(self) -> None:
        assert len(self.texts) == len(self.pieces), "every new token has a text and a list of pieces"
        assert all(0 <= i < len(self.base_texts) for row in self.pieces for i in row), "pieces are ids of base tokens"


@dataclass(frozen=True)
class Table:
    """An input or output table that is read in blocks. read_rows(i, j) gives rows i to j - 1 in float32, (j - i, width)."""

    rows: int
    width: int
    read_rows: Callable[[int, int], FloatMatrix]

    def blocks(self) -> Iterator[tuple[int, FloatMatrix]]:
        """All rows in turn: the number of the first, and the block. The cuts are always the same, and so is what is summed over them."""
        for first in range(0, self.rows, _TABLE_ROWS):
            yield first, self.read_rows(first, min(self.rows, first + _TABLE_ROWS))

    def take(self, ids: NDArray[np.int64]) -> FloatMatrix:
        """The rows of `ids`, in their order: (ids, width)."""
        taken = np.empty((len(ids), self.width), dtype=np.float32)
        for first, block in self.blocks():
            here = np.flatnonzero((ids >= first) & (ids < first + len(block)))
            taken[here] = block[ids[here] - first]
        return taken

    def mean(self) -> FloatVector:
        """The mean of all rows, (width,), summed in float64."""
        total = np.zeros(self.width)
        for _, block in self.blocks():
            total += block.sum(axis=0, dtype=np.float64)
        return total / self.rows


def table_of(rows: FloatMatrix) -> Table:
    """A table that is in memory."""
    return Table(rows.shape[0], rows.shape[1], lambda first, last: rows[first:last])


@dataclass(frozen=True)
class Donor:
    """A model that already knows the new tokens, for `omp`. table: of any width; texts: readable text of each of its rows."""

    table: Table
    texts: list[str]


@dataclass(frozen=True)
class _Request:
    base: Table
    tokens: NewTokens
    rng: np.random.Generator
    donor: Donor | None
    teacher: Teacher | None


def initialise(
    name: InitName,
    base: FloatMatrix | Table,
    tokens: NewTokens,
    rng: np.random.Generator,
    donor: Donor | None = None,
    teacher: Teacher | None = None,
) -> FloatMatrix:
    """Rows for the new tokens, (N, D) float32, one way or another.

    base: (V, D), an input or an output table of the base, with a row for every base text; it is only read, and a `Table` only in
    blocks. An untied output table is initialised by a call of its own, but not with `distill`, which learns input rows.
    donor: for `omp`, its table of the same kind; without one the base is its own donor. teacher: for `distill`.
    The last step is the same for all: rows whose norm is outside the 1st to 99th percentile of the base's get the nearest norm
    inside, their direction kept. Averages are shorter than what they average and least-squares sums can be far longer; a
    model has never seen such rows, and layers without normalisation of their input pass the scale on.
    Raises ConfigError if the way needs a teacher and there is none or a donor shares no token with the base;
    DataError if the base table is not finite.
    """
    table = base if isinstance(base, Table) else table_of(base)
    assert table.rows == len(tokens.base_texts), "one text for every base row"
    norms_V = _norms_of(table)
    if not np.isfinite(norms_V).all():
        raise DataError(
            f"the base's table of tokens is not finite in row {int(np.argmin(np.isfinite(norms_V)))}; restore the model's weights"
        )
    if not tokens.texts:
        return np.empty((0, table.width), dtype=np.float32)
    rows = INITS[name](_Request(table, tokens, rng, donor, teacher))
    return within_norms(rows, norm_bounds(norms_V), rng)


def norm_bounds(norms_V: FloatVector) -> tuple[float, float]:
    """The norms that new rows may have: the base's 1st to 99th percentile, less a thousandth for the rounding of bf16 tables."""
    low, high = np.percentile(norms_V, [1, 99])
    margin = min(1e-3 * high, (high - low) / 4)
    return float(low + margin), float(high - margin)


def row_weights(name: WeightedName, tokens: NewTokens) -> Any:
    """The weights over base rows of a way that needs no table: a SciPy CSR array, (N, V + 1) float32, every row sums to 1.

    Column V is the weight of the mean of all base rows: where a token has nothing else to go by, it gets that mean.
    """
    return _WEIGHTS[name](tokens)


# --- weights over base rows -----------------------------------------------------------------------------------------------------------


def _mean_weights(tokens: NewTokens) -> Any:
    """`mean`: the mean of the base tokens that the new token's text had.

    The usual strong default: Koto, Lau & Baldwin, "IndoBERTweet", EMNLP 2021; Gee et al., "Fast Vocabulary Transfer", EMNLP 2022.
    Tokens whose text the base splits into the same pieces get equal rows. A token without pieces gets the mean of all base rows.
    """
    return _piece_weights(tokens, np.ones(sum(map(len, tokens.pieces))))


def _weighted_weights(tokens: NewTokens) -> Any:
    """`weighted`: pieces weighted by how much of the new token they are.

    The local heuristic of TokenAdapt (Sharthak et al., arXiv:2505.09738, 2025): a softmax over (similarity of piece and token + length of
    the piece / length of the token) / 2. Their similarity is that of a sentence encoder; ours is the cosine of
    character n-grams, so that no second model is needed. Without pieces as `mean`.
    """
    base, new = _ngram_vectors(tokens)
    counts = np.array([len(row) for row in tokens.pieces], dtype=np.int64)
    row_of = np.repeat(np.arange(len(counts)), counts)
    piece_of = np.fromiter((i for row in tokens.pieces for i in row), dtype=np.int64, count=int(counts.sum()))
    similarity = np.asarray(new[row_of].multiply(base[piece_of]).sum(axis=1)).ravel()
    own_length = np.array([max(1, len(text.strip())) for text in tokens.texts])
    piece_length = np.array([len(text.strip()) for text in tokens.base_texts])
    scores = (similarity + piece_length[piece_of] / own_length[row_of]) / 2
    return _piece_weights(tokens, np.exp(scores / _PIECE_TEMPERATURE))  # scores are at most 1: no overflow


def _neighbour_weights(tokens: NewTokens) -> Any:
    """`neighbours`: the base tokens whose text is most alike, weighted by a softmax over the cosine of character n-grams.

    The shape of FOCUS (Dobler & de Melo, EMNLP 2023), which weights the tokens nearest in an auxiliary fastText space. Without
    such a space the n-grams that fastText is built from serve themselves: tf-idf over 2 to 6 letters, case folded.
    Softmax over the 10 nearest did as well as FOCUS's sparsemax or better. A token that has no n-gram in common with any base
    token gets the mean of its pieces, and without pieces the mean of all base rows. For DNA, k-mers that share
    stretches share neighbours: similar rows for similar k-mers, though the neighbours mean nothing by themselves.
    """
    from scipy.sparse import csr_array

    base, new = _ngram_vectors(tokens)
    ids: list[NDArray[np.int64]] = []
    weights: list[FloatVector] = []
    for own_ids, similarities in _nearest(base, new):
        raised = np.exp((similarities - similarities.max(initial=0.0)) / _NEIGHBOUR_TEMPERATURE)
        ids.append(own_ids)
        weights.append(raised / raised.sum() if len(raised) else raised)
    counts = np.array([len(row) for row in ids], dtype=np.int64)
    starts = np.concatenate([[0], np.cumsum(counts)])
    near = csr_array((np.concatenate(weights), np.concatenate(ids), starts), shape=(len(ids), len(tokens.base_texts) + 1))
    alone = csr_array(np.where(counts == 0, 1.0, 0.0)[:, None])
    return (near + _mean_weights(tokens).multiply(alone)).tocsr().astype(np.float32)


def _mix_weights(tokens: NewTokens) -> Any:
    """`mix`: 0.4 of `mean` and 0.6 of `neighbours`.

    The idea of TokenAdapt's hybrid (Sharthak et al., arXiv:2505.09738, 2025): what a word is made of and what it looks like each know
    something that the other does not. With the plain mean of pieces in place of their weighted one, which did worse in the mix.
    The best of the ways that need no training, see benchmarks/init.py.
    """
    return (_NEIGHBOUR_SHARE * _neighbour_weights(tokens) + (1 - _NEIGHBOUR_SHARE) * _mean_weights(tokens)).astype(np.float32)


_WEIGHTS: dict[WeightedName, Callable[[NewTokens], Any]] = {
    "mean": _mean_weights,
    "neighbours": _neighbour_weights,
    "mix": _mix_weights,
    "weighted": _weighted_weights,
}


def _piece_weights(tokens: NewTokens, scores: FloatVector) -> Any:
    """Scores of all pieces in turn as weights that sum to 1 for each token; no pieces: all weight on the mean of the base."""
    from scipy.sparse import csr_array

    average = len(tokens.base_texts)
    rows = [row or [average] for row in tokens.pieces]
    counts = np.array([len(row) for row in rows], dtype=np.int64)
    starts = np.concatenate([[0], np.cumsum(counts)])
    values = np.ones(starts[-1])
    values[np.repeat([bool(row) for row in tokens.pieces], counts)] = scores
    values /= np.repeat(np.add.reduceat(values, starts[:-1]), counts)
    return csr_array((values.astype(np.float32), np.concatenate(rows), starts), shape=(len(rows), average + 1))


def _ngram_vectors(tokens: NewTokens) -> tuple[Any, Any]:
    """Unit tf-idf vectors of the character n-grams of base and new texts: sparse (V, n-grams), (N, n-grams)."""
    from scipy.sparse import csr_array
    from sklearn.feature_extraction.text import TfidfVectorizer

    if all(len(text) < _NGRAMS[0] for text in tokens.base_texts):  # a base of single letters, such as a protein model
        return csr_array((len(tokens.base_texts), 1)), csr_array((len(tokens.texts), 1))
    vectoriser = TfidfVectorizer(analyzer="char", ngram_range=_NGRAMS, sublinear_tf=True, dtype=np.float32)
    base = vectoriser.fit_transform(tokens.base_texts)
    return csr_array(base), csr_array(vectoriser.transform(tokens.texts))


def _nearest(base: Any, new: Any) -> Iterator[tuple[NDArray[np.int64], FloatVector]]:
    """For each new token, ids and cosines of the base tokens most alike, best first, ties by id. At most `_NEIGHBOURS`, may be none."""
    transposed = base.T.tocsr()
    for start in range(0, new.shape[0], _SIMILARITY_ROWS):
        block = new[start : start + _SIMILARITY_ROWS] @ transposed
        for left, right in zip(block.indptr[:-1], block.indptr[1:], strict=True):
            ids, cosines = block.indices[left:right].astype(np.int64), block.data[left:right].astype(np.float64)
            if len(ids) > _NEIGHBOURS:
                likely = cosines >= np.partition(cosines, -_NEIGHBOURS)[-_NEIGHBOURS]
                ids, cosines = ids[likely], cosines[likely]
            best = np.lexsort((ids, -cosines))[:_NEIGHBOURS]
            yield ids[best], cosines[best]


def _apply_weights(weights: Any, base: Table) -> FloatMatrix:
    """Weighted sums of base rows, the last column of the weights standing for their mean. (N, V + 1) x (V, D) -> (N, D)."""
    by_row = weights.tocsc()
    rows = np.zeros((weights.shape[0], base.width), dtype=np.float32)
    for first, block in base.blocks():
        here = by_row[:, first : first + len(block)].tocsr()
        held = np.flatnonzero(np.diff(here.indptr))
        rows[held] += here[held] @ block
    average = by_row[:, [base.rows]].toarray()
    if average.any():
        rows += (average * base.mean()).astype(np.float32)
    return rows


def _from_weights(name: WeightedName) -> Callable[[_Request], FloatMatrix]:
    return lambda request: _apply_weights(row_weights(name, request.tokens), request.base)


# --- ways that need the table ---------------------------------------------------------------------------------------------------------


def _normal(request: _Request) -> FloatMatrix:
    """`normal`: draws from a normal distribution with the base table's mean and covariance.

    Hewitt, "Initializing New Word Embeddings for Pretrained Language Models", 2021. Ignores what the tokens are; no two rows are equal.
    """
    base = request.base
    mean = base.mean()
    covariance = np.zeros((base.width, base.width))
    for _, block in base.blocks():
        centred = block - mean
        covariance += centred.T @ centred
    values, vectors = np.linalg.eigh(covariance / base.rows)
    spread = (vectors * np.sqrt(values.clip(min=0))).T
    rows = np.empty((len(request.tokens.texts), base.width), dtype=np.float32)
    for start in range(0, len(rows), _TABLE_ROWS):
        block = rows[start : start + _TABLE_ROWS]
        block[:] = mean + request.rng.standard_normal(block.shape) @ spread
    return rows


def _omp(request: _Request) -> FloatMatrix:
    """`omp`: what the donor's row is made of, made again from the base's rows.

    Goddard & Fernandes Neto, "Training-Free Tokenizer Transplantation via Orthogonal Matching Pursuit", arXiv:2506.06607, 2025: a sparse
    code of the donor's row over the tokens that donor and base share, applied to the base's rows of these tokens. Widths
    may differ. Against the paper, for speed: at most 8,192 shared tokens serve (drawn by the generator where there are more), of
    which the 256 that correlate most with a row are searched, for codes of at most 32.
    A token that the donor does not have gets its `mix` row. Without a donor the base is its own: the `mix` row is
    coded over base tokens, which says the same again in other rows; it is there to compare, not to gain.
    """
    base, tokens = request.base, request.tokens
    rows = _from_weights("mix")(request)
    if request.donor is None:
        atoms = np.array([i for i, text in enumerate(tokens.base_texts) if text], dtype=np.int64)
        images = base.take(_drawn(atoms if len(atoms) else np.arange(base.rows), request.rng))
        return _transplant(rows, images, images)
    donor_ids = _ids_by_text(request.donor.texts)
    base_ids = _ids_by_text(tokens.base_texts)
    shared = [text for text in base_ids if text in donor_ids]
    if not shared:
        raise ConfigError(
            "expand.init is 'omp', but donor and base have no token in common; take a donor of the same script, or another initialiser"
        )
    chosen = [shared[i] for i in _drawn(np.arange(len(shared)), request.rng)]
    donor_atoms = request.donor.table.take(np.array([donor_ids[text] for text in chosen]))
    base_atoms = base.take(np.array([base_ids[text] for text in chosen]))
    known = [i for i, text in enumerate(tokens.texts) if text in donor_ids]
    if known:
        targets = request.donor.table.take(np.array([donor_ids[tokens.texts[i]] for i in known]))
        rows[known] = _transplant(targets, donor_atoms, base_atoms)
    return rows


def _ids_by_text(texts: list[str]) -> dict[str, int]:
    """The first id of every text that is not empty."""
    return {text: number for number, text in reversed(list(enumerate(texts))) if text}


def _drawn(numbers: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    return numbers if len(numbers) <= _ATOMS else np.sort(rng.choice(numbers, _ATOMS, replace=False))


def _transplant(targets: FloatMatrix, atoms: FloatMatrix, images: FloatMatrix) -> FloatMatrix:
    """Sparse codes of the targets over the atoms, applied to the images. (n, D'), (A, D'), (A, D) -> (n, D)."""
    from sklearn.linear_model import orthogonal_mp_gram

    lengths = np.sqrt(_squares(atoms))
    usable = lengths > 0
    shrink = (1 / lengths[usable, None]).astype(np.float32)
    units, images = atoms[usable] * shrink, images[usable] * shrink
    gram = units @ units.T
    length = min(_CODE_LENGTH, len(units), units.shape[1])
    rows = np.empty((len(targets), images.shape[1]), dtype=np.float32)
    for start in range(0, len(targets), _TABLE_ROWS):
        correlations = targets[start : start + _TABLE_ROWS] @ units.T
        for i, correlation in enumerate(correlations, start):
            near = np.argsort(-np.abs(correlation), kind="stable")[:_CANDIDATES]
            with warnings.catch_warnings():
                # it stops early where a target is met exactly by fewer atoms, which is no fault
                warnings.filterwarnings("ignore", message="\\s*Orthogonal matching pursuit ended prematurely", category=RuntimeWarning)
                code = orthogonal_mp_gram(gram[np.ix_(near, near)], correlation[near], n_nonzero_coefs=min(length, len(near)))
            rows[i] = code @ images[near]
    return rows


def _distill(request: _Request) -> FloatMatrix:
    """`distill`: learnt from the model itself, see `biollm.modeling.distill`. Starts from `mix`."""
    from biollm.modeling.distill import distill

    if request.teacher is None:
        raise ConfigError("expand.init is 'distill', which learns from texts that hold the new tokens; give texts, or take 'mix'")
    start = within_norms(_from_weights("mix")(request), norm_bounds(_norms_of(request.base)), request.rng)
    return distill(request.teacher, start, request.rng)


INITS: dict[InitName, Callable[[_Request], FloatMatrix]] = {
    "mean": _from_weights("mean"),
    "normal": _normal,
    "neighbours": _from_weights("neighbours"),
    "mix": _from_weights("mix"),
    "weighted": _from_weights("weighted"),
    "omp": _omp,
    "distill": _distill,
}
assert set(INITS) == set(get_args(InitName))


# --- norms ----------------------------------------------------------------------------------------------------------------------------


def _squares(rows: FloatMatrix) -> FloatVector:
    squares: FloatVector = np.einsum("nd,nd->n", rows, rows, dtype=np.float64)
    return squares


def _norms(rows: FloatMatrix) -> FloatVector:
    norms: FloatVector = np.sqrt(_squares(rows))
    return norms


def _norms_of(table: Table) -> FloatVector:
    return np.concatenate([_norms(block) for _, block in table.blocks()])


def within_norms(rows: FloatMatrix, bounds: tuple[float, float], rng: np.random.Generator) -> FloatMatrix:
    """Rows scaled to the nearest norm within the bounds. A row of zeros, which has no direction, gets one from the generator."""
    zero = np.flatnonzero(_squares(rows) == 0)
    if len(zero):
        rows = rows.copy()
        rows[zero] = rng.standard_normal((len(zero), rows.shape[1]))
        rows[zero] *= (bounds[0] / _norms(rows[zero]))[:, None]
    norms = _norms(rows)
    scale = np.divide(norms.clip(*bounds), norms, out=np.ones_like(norms), where=norms > 0)
    scaled: FloatMatrix = rows * scale.astype(np.float32)[:, None]
    return scaled
