"""Embeddings on the disk: Parquet with the columns id (text) and embedding (d float32 numbers)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import pyarrow as pa
import pyarrow.parquet as pq

from biollm.modeling.pooling import FloatArray


class EmbeddingWriter:
    """A Parquet file of embeddings that is written in pieces."""

    def __init__(self, path: Path, dimension: int) -> None:
        self._dimension = dimension
        self._schema = pa.schema([("id", pa.string()), ("embedding", pa.list_(pa.float32(), dimension))])
        self._writer = pq.ParquetWriter(path, self._schema, compression="zstd")

    def write(self, ids: Sequence[str], vectors: FloatArray) -> None:
        """Append rows. vectors: (n, d)."""
        flat = pa.array(vectors.ravel(), type=pa.float32())
        columns = [pa.array(ids, type=pa.string()), pa.FixedSizeListArray.from_arrays(flat, self._dimension)]
        self._writer.write_table(pa.table(columns, schema=self._schema))

    def __enter__(self) -> EmbeddingWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._writer.close()
