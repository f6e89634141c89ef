"""Embeddings from a model folder, as arrays. Legend: n records, d width, T tokens and L letters of a record."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from biollm.core.alphabets import Modality
from biollm.core.errors import ConfigError, DataError, listed
from biollm.core.progress import say
from biollm.core.resources import model_folder
from biollm.corpus.columns import COVERAGE
from biollm.embed.attention import AttentionMap, attention_map
from biollm.embed.config import Config
from biollm.embed.engine import Engine
from biollm.embed.inputs import COLUMN, gather, is_fasta, is_list, is_series, track_columns
from biollm.embed.reading import GivenTracks, check_list, check_strands, check_tracks, other_strand, turned
from biollm.embed.settings import InputKind, LayerPooling, PoolingName, Precision, Settings, Strands, TracksMode
from biollm.embed.vectors import Records, Vectors
from biollm.embed.windows import spread
from biollm.modeling.channels import FusionSpec
from biollm.modeling.encoding import IntArray
from biollm.modeling.pooling import FloatArray
from biollm.modeling.precision import Fidelity
from biollm.modeling.tracks import RecordTracks
from biollm.modeling.vocabulary import DomainVocabulary


@dataclass(frozen=True)
class Embedded:
    """vectors: (n, d) float32; tokens: (n,) int64, the tokens of each record without special ones."""

    vectors: FloatArray
    tokens: IntArray


@dataclass(frozen=True)
class TokenVectors:
    """One record. vectors: (T, d) float32; spans: (T, 2) int64, the letters [start, end) of the record behind each token."""

    vectors: FloatArray
    spans: IntArray


class Embedder:
    """Embeddings of sequences or text by a model folder: encoder, decoder, or the encoder of an encoder-decoder.

    Padding, special tokens and missing tracks are never counted. Vectors depend neither on the batch size nor on neighbours (fp32:
    differences below 1e-5), and nothing is kept from call to call. Sequences beyond the context are read in overlapping windows and
    recombined, every token counting once; nothing is cut.

    A fused folder reads its tracks: those that follow from the sequence by itself, measured ones from `embed(…, tracks=…)`.
    One Embedder is for one thread at a time.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        pooling: PoolingName | Sequence[PoolingName] = "mean",
        layer: int | Sequence[int] = -1,
        layer_pooling: LayerPooling = "mean",
        window: int | None = None,
        stride: int | None = None,
        strands: Strands = "forward",
        centre_base: int | None = None,
        input: InputKind = "auto",
        modality: Modality | None = None,
        tracks: TracksMode = "auto",
        precision: Precision = "fp32",
        int8_min_cosine: float = 0.9999,
        tokens_per_batch: int = 4096,
    ) -> None:
        """
        folder: a folder, package:NAME/path, or a hub name.
        pooling: how token vectors become one, a list: several side by side.
            mean      every token alike
            weighted  by position, later tokens more (for decoders)
            cls       the first special token; of several windows their mean, by their tokens
            last      the last token
            max       the largest value of each dimension
            centre    the token over one base: `centre_base`, from 0 (negative: from the end); by default the middle one
        layer: -1 the last, 0 the token embeddings, …; of several, layer_pooling takes the mean or puts them side by side.
        window, stride: tokens, without special ones, of a window of a long sequence, and how far apart windows begin; by default what
            the model can read, and three quarters of it.
        strands: both: the mean of the embeddings of a sequence and its reverse complement (DNA and RNA), with its tracks turned.
        input: auto: a record of a FASTA file is a sequence, and so is a string that is one run of at least `min_run` (12) residue
            letters, in either case (soft-masked too); any other is read as the stock tokenizer.json reads it; sequence: every string is
            a sequence, however short; text: none is. IUPAC codes of sequences are read as N, U of DNA as T, T of RNA as U. Without
            input='sequence' a string of IUPAC letters is a sequence if more than three quarters of it are single bases or N.
        modality: what the sequences are. Needed where a model reads those of several domains.
        tracks: off withholds the tracks of a fused model.
        precision: fp32; bf16 where the hardware has it; int8 on a CPU: as many layers as keep a cosine of int8_min_cosine to fp32 on a
            sample; auto: bf16 where the hardware has it, else fp32. `fidelity` says what it costs.
        tokens_per_batch: bounds memory, and changes no result.

        Raises ResourceError if there is no such model or the hardware lacks the precision, ConfigError if the folder is not a loadable
        model or the settings do not fit it.
        """
        self.settings = Settings.of(
            pooling=pooling,
            layer=layer,
            layer_pooling=layer_pooling,
            window=window,
            stride=stride,
            strands=strands,
            centre_base=centre_base,
            input=input,
            modality=modality,
            tracks=tracks,
            precision=precision,
            int8_min_cosine=int8_min_cosine,
            tokens_per_batch=tokens_per_batch,
        )
        self._engine = Engine(model_folder(folder), self.settings)
        _check_fits(self._engine, self.settings, str(folder))
        self._vectors = Vectors(self._engine, self.settings)
        self._told_coverage = False

    @property
    def dimension(self) -> int:
        """d, the width of the vectors."""
        return self._engine.dimension * len(self.settings.poolings)

    @property
    def precision(self) -> str:
        """What the model computes in: fp32, bf16 or int8."""
        return self._engine.precision

    @property
    def fidelity(self) -> Fidelity | None:
        """What the precision costs against fp32, measured on random tokens when the model was loaded; None for fp32."""
        return self._engine.fidelity

    @property
    def fusion(self) -> FusionSpec | None:
        """The tracks that the model reads; None if it reads none."""
        return self._engine.spec

    @property
    def measured_tracks(self) -> list[str]:
        """The tracks that it reads of a table: its channels that do not follow from the sequence; none with tracks='off'."""
        return self.fusion.measured_names if self.fusion and self.settings.tracks == "auto" else []

    @property
    def why_padded(self) -> str | None:
        """Why rows are padded to the longest of their batch; None if they are read without padding."""
        return self._engine.why_padded

    def embed(
        self,
        source: Any,
        tracks: Sequence[GivenTracks] | None = None,
        *,
        names: Sequence[str] | None = None,
        column: str = COLUMN,
        id_column: str | None = None,
        batch_size: int | None = None,
        show_progress: bool = True,
    ) -> FloatArray:
        """Embed sequences or texts, in their order: (n, d) float32. No records give (0, d).

        source: a list, array or Series of strings; the Path of a FASTA or Parquet file; a data frame of polars or pandas; an AnnData, whose
        observations are read. Of tables, `column` is read, names come from `id_column` (default: "id", where there is one), and tracks from
        the columns track_<channel>. `biollm embed-file` is for files that do not fit into memory.
        tracks: for each record a mapping from channel to its values, one for each base, NaN = missing (or a Track with coverages), or
        None for a record without tracks; names: what records are called in errors; batch_size: records in a forward pass (default: by
        tokens_per_batch); show_progress: a bar on stderr if it takes longer than two seconds.
        Raises DataError naming the record: an empty string, foreign letters of what is read as a sequence, tracks that do not fit, a
        vector that is not finite; ConfigError for a batch_size below 1.
        """
        kind = self.settings.input
        if is_series(source):
            source = source.to_list()
        if not is_list(source):
            self.tell_unread(track_columns(source))
            found = gather(source, column=column, id_column=id_column, channels=self.measured_tracks if tracks is None else [])
            kind = "sequence" if kind == "auto" and is_fasta(source) else kind
            source, names, tracks = found.texts, names or found.ids, tracks if tracks is not None else found.tracks
        return self._embed(source, tracks, names, batch_size, show_progress, kind, own_tracks=True).vectors

    def embed_counted(
        self,
        texts: Sequence[str],
        tracks: Sequence[GivenTracks] | None = None,
        *,
        names: Sequence[str] | None = None,
        batch_size: int | None = None,
        show_progress: bool = True,
        own_tracks: bool = False,
    ) -> Embedded:
        """As `embed` of a list, with the number of tokens of each record. own_tracks: False: tracks may be those of other records, as a
        control, or of a sequence before it was changed, and where their values stand is not checked."""
        return self._embed(texts, tracks, names, batch_size, show_progress, self.settings.input, own_tracks)

    def _embed(
        self,
        texts: Sequence[str],
        tracks: Sequence[GivenTracks] | None,
        names: Sequence[str] | None,
        batch_size: int | None,
        show_progress: bool,
        kind: InputKind,
        own_tracks: bool,
    ) -> Embedded:
        if batch_size is not None and batch_size < 1:
            raise ConfigError(f"batch_size is {batch_size}; expected 1 or more, or None: by tokens_per_batch")
        records = self._read(texts, tracks, names, kind, spans="centre" in self.settings.poolings, own_tracks=own_tracks)
        centres = self._centres(records)
        vectors = self._vectors.pooled(records, centres, batch_size, show_progress)
        if self.settings.strands == "both":
            from_end = [len(text) - 1 - base for text, base in zip(records.texts, centres, strict=True)]
            other = self._vectors.pooled(self._other_strand(records), from_end, batch_size, show_progress)
            vectors = (vectors + other) / np.float32(2)
        return Embedded(vectors, np.asarray([len(found.ids) for found in records.tokens], dtype=np.int64))

    def per_token(
        self, texts: Sequence[str], tracks: Sequence[GivenTracks] | None = None, *, names: Sequence[str] | None = None
    ) -> list[TokenVectors]:
        """The vector of every token of each record; tokens that several windows see are averaged. `pooling` plays no part. Spans are those
        of the record as it is read: of a protein without the stop at its end.

        Raises as `embed` does, and ConfigError for strands='both', whose tokens differ.
        """
        if self.settings.strands == "both":
            raise ConfigError("per_token: the tokens of the two strands differ; use strands='forward', or per_base")
        records = self._read(texts, tracks, names, self.settings.input, spans=True)
        vectors = self._vectors.of_tokens(records)
        return [TokenVectors(of_record, found.spans) for of_record, found in zip(vectors, records.tokens, strict=True)]

    def per_base(
        self, texts: Sequence[str], tracks: Sequence[GivenTracks] | None = None, *, names: Sequence[str] | None = None
    ) -> list[FloatArray]:
        """(L, d) float32 for each record: every base, residue or letter has the vector of the token that it is in.

        strands='both' averages both strands at every base. Raises as `embed` does, and DataError for a letter without a token.
        """
        records = self._read(texts, tracks, names, self.settings.input, spans=True)
        forward = self._of_bases(records)
        if self.settings.strands == "forward":
            return forward
        other = self._of_bases(self._other_strand(records))
        return [(a + b[::-1]) / np.float32(2) for a, b in zip(forward, other, strict=True)]

    def attention(
        self,
        sequence: str,
        layer: int | None = None,
        head: int | None = None,
        *,
        tracks: GivenTracks = None,
        name: str = "number 0",
    ) -> AttentionMap:
        """The attention weights of one sequence, of all layers and heads or of one; they count from 0, or from behind.

        The model's own attention is used again afterwards. Raises DataError for a sequence longer than a window, which has no one map;
        ConfigError for a layer or head that does not exist, and for a model that does not tell its weights.
        """
        records = self._read([sequence], [tracks] if tracks is not None else None, [name], self.settings.input, spans=True)
        return attention_map(self._vectors, records, layer, head)

    def count_tokens(self, texts: Sequence[str]) -> int:
        """How many tokens, without special ones, the texts have together."""
        records = self._vectors.read(texts, check_list(texts, None), None, self.settings.input, spans=False)
        return sum(len(found.ids) for found in records.tokens)

    def _read(
        self,
        texts: Sequence[str],
        tracks: Sequence[GivenTracks] | None,
        names: Sequence[str] | None,
        kind: InputKind,
        *,
        spans: bool,
        own_tracks: bool = True,
    ) -> Records:
        labels = check_list(texts, names)
        checked = check_tracks(self._engine.spec, self.settings.tracks, tracks, labels)
        if self._engine.spec is not None and own_tracks:
            for i, of_record in enumerate(checked or []):
                self._engine.spec.check_places(texts[i], of_record or {}, labels[i])
        self._tell_coverage(checked)
        return self._vectors.read(texts, labels, checked, kind, spans=spans)

    def _tell_coverage(self, tracks: Sequence[RecordTracks | None] | None) -> None:
        """Say once if tracks come without the coverage that the model was trained with."""
        if self.fusion is None or self._told_coverage:
            return
        counted = [channel.name for channel in self.fusion.channels if channel.mean_coverage != 1]
        given = [of_record for of_record in tracks or [] if of_record]
        if bare := [name for name in counted if any(name in each and each[name].coverage is None for each in given)]:
            self._told_coverage = True
            say(
                f"embed: the tracks {listed(bare)} come without coverage, which this model was trained with, so it is told none; "
                f"give Track(level, coverage) (in a table: columns {COVERAGE}<channel>)"
            )

    def tell_unread(self, tracks: Sequence[str]) -> None:
        """Say which tracks of a table this model does not read."""
        computed = [channel.name for channel in self.fusion.channels if channel.computed is not None] if self.fusion else []
        if self.settings.tracks == "auto" and (unread := [name for name in tracks if name not in (*self.measured_tracks, *computed)]):
            reads = f"it was trained with {listed(self.measured_tracks)}" if self.measured_tracks else "it reads none"
            say(f"embed: the model does not read the tracks {listed(unread)} of this table; {reads}")

    def _other_strand(self, records: Records) -> Records:
        turned_texts = other_strand(self._engine.encoder, records.texts, records.names, records.tokens)
        return self._vectors.read(turned_texts, records.names, turned(records.tracks), "sequence", spans=False)

    def _centres(self, records: Records) -> list[int]:
        base = self.settings.centre_base
        if base is None:
            return [len(text) // 2 for text in records.texts]
        if short := [name for name, text in zip(records.names, records.texts, strict=True) if not -len(text) <= base < len(text)]:
            raise DataError(f"record {short[0]}: has no base {base} (centre_base counts from 0); leave it out, or set another")
        return [base % len(text) for text in records.texts]

    def _of_bases(self, records: Records) -> list[FloatArray]:
        out = []
        vectors = self._vectors.of_tokens(records)
        for text, name, found, of_tokens in zip(records.texts, records.names, records.tokens, vectors, strict=True):
            of_letters, covered = spread(of_tokens, found.spans, len(text))
            if not covered.all():
                at = int(np.flatnonzero(~covered)[0])
                raise DataError(
                    f"record {name}: {text[at]!r} at position {at + 1} is in no token; per_base is for sequences: use per_token"
                )
            out.append(of_letters)
        return out


def open_model(folder: Path, config: Config, *, modality: Modality, is_base: bool, with_tracks: bool) -> Embedder:
    """A model as the recipe's section says, for the stage and for whoever scores new records with its heads. modality: of the corpus.

    As in its training, a sequence is read by the model's own domain of that modality, and where it has none as the text that it is to it.
    The base has no domain vocabulary, and text has one direction.
    """
    vocabulary = DomainVocabulary.load(folder)
    reads = not is_base and vocabulary is not None and vocabulary.sequence_domain(modality) is not None
    return Embedder(
        folder,
        pooling=config.pooling,
        layer=config.layer,
        layer_pooling=config.layer_pooling,
        strands="forward" if is_base else config.strands,
        input="sequence" if reads else "text",
        modality=modality,
        tracks="auto" if with_tracks else "off",
        precision=config.precision,
        tokens_per_batch=config.tokens_per_batch,
    )


def _check_fits(engine: Engine, settings: Settings, folder: str) -> None:
    """Raises ConfigError if the model cannot do what the settings ask for."""
    vocabulary = engine.encoder.vocabulary
    if settings.input == "sequence" and vocabulary is None:
        raise ConfigError(f"{folder}: has no domain vocabulary, so nothing tells sequences from text; use input='text', or a merged model")
    if settings.input != "text":
        _check_modality(vocabulary.sequence_modalities if vocabulary else [], settings, folder)
    if settings.strands == "both":
        check_strands(engine.encoder)
    if "cls" not in settings.poolings:
        return
    if not len(engine.encoder.prefix):
        raise ConfigError(f"{folder}: pooling 'cls' needs a special token before the text, but this tokenizer puts none; use 'mean'")
    if engine.is_causal:
        raise ConfigError(f"{folder}: in a causal model the first token sees nothing; use pooling 'last', 'weighted' or 'mean'")


def _check_modality(read: list[Modality], settings: Settings, folder: str) -> None:
    """Raises ConfigError if it is open which sequences are meant, or if the model does not read them. read: what its domains read."""
    wanted = settings.modality
    if wanted is None and len(read) > 1:
        raise ConfigError(
            f"{folder}: reads sequences of several domains ({', '.join(read)}), and nothing says which are meant; say it with modality="
            f"'{read[0]}' (command line: --modality {read[0]}), or use input='text'"
        )
    if wanted not in (None, "text", *read):
        raise ConfigError(
            f"{folder}: modality is {wanted}, but this model reads {f'sequences of {listed(read)}' if read else 'text only'}; "
            "leave it out, use input='text', or choose another model"
        )
