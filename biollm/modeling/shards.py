"""Grow a vocabulary in the safetensors files of a model, without loading it.

Of the base, only headers and vocabulary tables are read, in chunks; all other bytes go from file to file. So the memory needed is that of
the new rows, whatever the model's size. Layout of a safetensors file (https://github.com/huggingface/safetensors#format):

    8 bytes      length L of the header, little-endian
    L bytes      JSON: {"__metadata__": {…}, name: {"dtype", "shape", "data_offsets": [begin, end)}, …}, spaces behind to a multiple of 8
    the rest     the tensors, without gaps; offsets count from here

New files share nothing with the old ones: no hard links, since a later writer through the new name would change the old model.
Where the file system clones blocks (btrfs, xfs), copy_file_range does, which is safe: a block that is written becomes its own.
Holes stay holes. Files are only ever created, never opened for change.
"""

from __future__ import annotations

import json
import math
import shutil
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from biollm.core.errors import ConfigError, ResourceError, first_line
from biollm.core.files import read_json, write_json
from biollm.core.progress import quiet_libraries
from biollm.core.resources import FUSION_FILE
from biollm.modeling.file_copies import copy_bytes
from biollm.modeling.surgery import (
    MATRICES,
    TRUE_SIZE,
    Growth,
    Role,
    check_special_ids,
    describe_architecture,
    plan_growth,
    sizes_of,
    suppressed_ids,
    tail_rows,
)
from biollm.modeling.vocabulary import TOKENIZER_FILES

Which = Literal["input", "output"]
WEIGHTS, INDEX, CONFIG, GENERATION = "model.safetensors", "model.safetensors.index.json", "config.json", "generation_config.json"
_CHUNK_BYTES = 1 << 24
_HEADER_LIMIT = 100_000_000  # that of the format
FORMATS = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_BITS = {"F64": 64, "I64": 64, "U64": 64, "F32": 32, "I32": 32, "U32": 32, "F16": 16, "BF16": 16, "I16": 16, "U16": 16,
         "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "I8": 8, "U8": 8, "BOOL": 8, "F4": 4, "C64": 64}  # fmt: skip
# Not taken to the new folder: the old vocabulary, weights in other formats, what our own stages write beside a model.
_OLD_TOKENIZER = {*TOKENIZER_FILES, "vocab.txt", "vocab.json", "merges.txt", "added_tokens.json", "tokenizer.model", "spiece.model",
                  "sentencepiece.bpe.model", "base_tokenizer.json"}  # fmt: skip
_OTHER_WEIGHTS = {".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".onnx", ".gguf", ".ot", ".pkl", ".py"}
_OURS = {"manifest.json", FUSION_FILE}


@dataclass(frozen=True)
class Stored:
    """One tensor of a checkpoint: its file, and where in that file's bytes it is."""

    key: str
    file: Path
    dtype: str
    shape: tuple[int, ...]
    begin: int  # from the start of the file
    end: int

    @property
    def is_offset(self) -> bool:
        """Whether it is a row (1, V): what stands in it for a token is one number."""
        return len(self.shape) == 2 and self.shape[0] == 1

    @property
    def rows(self) -> int:
        """Of a vocabulary table: for how many tokens it has a row or a number."""
        return self.shape[1] if self.is_offset else self.shape[0]

    def with_rows(self, rows: int) -> tuple[int, ...]:
        """The shape of a vocabulary table for so many tokens."""
        return (1, rows) if self.is_offset else (rows, *self.shape[1:])

    @property
    def row_bytes(self) -> int:
        return (self.end - self.begin) // self.rows

    def read_rows(self, first: int, last: int) -> NDArray[np.float32]:
        """Rows first to last - 1 in float32; (last - first, D), or (last - first,) of a bias or an offset."""
        with self.file.open("rb") as file:
            file.seek(self.begin + first * self.row_bytes)
            data = bytearray(file.read((last - first) * self.row_bytes))
        row = () if self.is_offset else self.shape[1:]
        return torch.frombuffer(data, dtype=FORMATS[self.dtype]).float().numpy().reshape(last - first, *row)


@dataclass(frozen=True)
class Shard:
    """One safetensors file: its tensors in the order of their bytes, and the metadata of its header."""

    file: Path
    metadata: dict[str, str] | None
    tensors: tuple[Stored, ...]


@dataclass(frozen=True)
class Checkpoint:
    """A model folder that was read and checked, without its weights. `tables` are the stored tensors with one row per token."""

    folder: Path
    raw_config: dict[str, Any]
    config: Any  # transformers' view of it
    index: dict[str, Any] | None
    shards: tuple[Shard, ...]
    tables: dict[str, tuple[Stored, Role]]
    rows: int

    def table(self, which: Which) -> Stored:
        """The stored input or output table; of a tied model, the one that is stored. Raises ConfigError if the table is not there."""
        roles = {role: stored for stored, role in reversed(self.tables.values())}
        if which not in roles and not getattr(self.config, "tie_word_embeddings", False):
            raise ConfigError(f"{self.folder}: its weights hold no {which} table, and its config ties none")
        return roles[which] if which in roles else roles["output" if which == "input" else "input"]

    @property
    def tied(self) -> bool:
        """Whether transformers makes the output table the input table: by the config, unless two that differ are stored (Flan-T5)."""
        matrices = [stored for stored, role in self.tables.values() if role in MATRICES]
        roles = {role for _, role in self.tables.values() if role in MATRICES}
        if not getattr(self.config, "tie_word_embeddings", False):
            return len(roles) == 1
        return len(roles) == 1 or all(_same_bytes(matrices[0], other) for other in matrices[1:])


def expand_shards(
    base_folder: Path,
    out_folder: Path,
    new_rows_ND: NDArray[np.float32],
    vocab_size: int,
    *,
    new_output_rows_ND: NDArray[np.float32] | None = None,
    pad_to_multiple: int = 1,
) -> dict[str, Any]:
    """Write the model of base_folder with a grown vocabulary into out_folder, as surgery.resize would, bit for bit; return the facts.

    new_rows_ND: (N, D), the rows of new tokens, rounded to the tables' own number formats (float32, float16, bfloat16, float64); an
    untied output table gets new_output_rows_ND, or else the same. vocab_size: tokens of the merged tokenizer.
    Written: the safetensors files under their names, their index, config.json, generation_config.json, and copies of the folder's other
    files but for tokenizer files (the caller's), weights in other formats and code; the facts name what was left out.
    The base folder is only read. Raises ConfigError or ResourceError, naming the file, before anything is written; OSError if
    the file system refuses a write (the maker of artifacts tells the user).
    """
    base = read_checkpoint(base_folder)
    growth = plan_growth(base.rows, len(new_rows_ND), vocab_size, pad_to_multiple, getattr(base.config.get_text_config(), TRUE_SIZE, None))
    generation = _generation_values(base, growth)
    for name, values in ((CONFIG, base.config.get_text_config().to_dict()), (GENERATION, generation or {})):
        check_special_ids(str(base_folder / name), values, growth)
    tied = base.tied
    if new_output_rows_ND is not None and tied:
        raise ConfigError(
            f"{base_folder}: rows for the output table were given, but it has no output table apart from its input table: leave them out"
        )
    tails = {key: _tail(stored, role, growth, new_rows_ND, new_output_rows_ND) for key, (stored, role) in base.tables.items()}
    if out_folder.resolve() == base_folder.resolve():
        raise ConfigError(f"{out_folder}: is the base's own folder, which is never changed; choose another")

    for shard in base.shards:
        _write_shard(shard, out_folder / shard.file.name, tails, growth)
    write_json(out_folder / CONFIG, _grown_config(base, growth))
    if generation is not None:
        write_json(out_folder / GENERATION, generation)
    if base.index is not None:
        write_json(out_folder / INDEX, _grown_index(base, growth, tied))
    copied, left_out = _copy_others(base, out_folder)
    return {
        "base_tokens": growth.base_tokens,
        "new_tokens": growth.new_tokens,
        "vocab_size": growth.vocab_size,
        "rows": growth.rows,
        "padding_rows": len(growth.padding_ids),
        "tied": tied,
        "tables": [
            {"key": key, "role": role, "dtype": stored.dtype, "rows_before": stored.rows, "file": stored.file.name}
            for key, (stored, role) in base.tables.items()
        ],
        "shards": len(base.shards),
        "copied": copied,
        "left_out": left_out,
    }


def read_table(folder: Path, which: Which, ids: NDArray[np.int64] | None = None) -> NDArray[np.float32]:
    """The input or output table of a model folder in float32, without loading the model: (V, D), or only the rows of `ids` in their order.

    The output table of a tied model is its input table. Memory: the result, and one chunk. Raises as expand_shards.
    """
    stored = read_checkpoint(folder).table(which)
    wanted = np.arange(stored.rows) if ids is None else np.asarray(ids)
    if len(wanted) and not 0 <= wanted.min() <= wanted.max() < stored.shape[0]:
        raise ConfigError(f"{folder}: row {wanted.max()} was asked for, but its {which} table has {stored.shape[0]} rows")
    rows = np.empty((len(wanted), stored.shape[1]), dtype=np.float32)
    order = np.argsort(wanted, kind="stable")
    step = max(1, _CHUNK_BYTES // stored.row_bytes)
    for first in range(0, stored.shape[0], step):
        last = min(stored.shape[0], first + step)
        here = order[slice(*np.searchsorted(wanted[order], (first, last)))]
        if len(here):
            rows[here] = stored.read_rows(first, last)[wanted[here] - first]
    return rows


def read_checkpoint(folder: Path) -> Checkpoint:
    """Read config, index and all safetensors headers of a model folder, and check them against each other and the architecture.

    Raises ResourceError for a file that is missing; ConfigError for one that is damaged or not what the index or the config says, for
    an architecture that transformers does not have, and for vocabulary tables in a format that has no rounding (quantised).
    """
    if not (folder / CONFIG).is_file():
        raise ResourceError(f"{folder / CONFIG}: no such file; a model folder holds config.json and model.safetensors")
    raw = read_json(folder / CONFIG)
    config, classes = _architectures(folder, raw)
    index = read_json(folder / INDEX) if not (folder / WEIGHTS).is_file() and (folder / INDEX).is_file() else None
    shards = tuple(read_header(file) for file in _weight_files(folder, index))
    stored = {tensor.key: tensor for shard in shards for tensor in shard.tensors}
    if index is not None:
        for key, name in index["weight_map"].items():
            if key not in stored or stored[key].file.name != name:
                raise ConfigError(f"{folder / INDEX}: says that {name} holds {key}, but it does not; fetch the model again")
    tables = _stored_tables(folder, stored, classes, config)
    rows = config.get_text_config().vocab_size
    for key, (tensor, _) in tables.items():
        if tensor.rows != rows:
            raise ConfigError(f"{tensor.file}: {key} has {tensor.rows} rows, but config.json's vocab_size is {rows}; fetch the model again")
        if tensor.dtype not in FORMATS:
            raise ConfigError(
                f"{tensor.file}: {key} is stored as {tensor.dtype}; expected one of {', '.join(FORMATS)}: use the unquantised model"
            )
    return Checkpoint(folder, raw, config, index, shards, tables, rows)


def read_header(file: Path) -> Shard:
    """The header of a safetensors file, checked against the file's size. Raises ResourceError if missing, ConfigError if damaged."""
    remedy = "fetch or save the model again"
    try:
        size = file.stat().st_size
        with file.open("rb") as opened:
            start = opened.read(8)
            length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
            if not 2 <= length <= min(_HEADER_LIMIT, size - 8):
                raise ConfigError(f"{file}: damaged: it does not begin with a safetensors header ({size} bytes in all); {remedy}")
            text = opened.read(length)
    except FileNotFoundError:
        raise ResourceError(f"{file}: no such file, but the model's index names it; {remedy}") from None
    try:
        entries = json.loads(text)
        metadata = entries.pop("__metadata__", None)
        tensors = []
        for key, entry in entries.items():
            begin, end = (8 + length + int(offset) for offset in entry["data_offsets"])
            tensors.append(Stored(key, file, str(entry["dtype"]), tuple(map(int, entry["shape"])), begin, end))
    except (ValueError, KeyError, TypeError, AttributeError, IndexError):
        raise ConfigError(f"{file}: damaged: its safetensors header is not readable; {remedy}") from None
    tensors.sort(key=lambda t: (t.begin, t.end))
    at = 8 + length
    for tensor in tensors:
        bits = math.prod(tensor.shape) * _BITS[tensor.dtype] if tensor.dtype in _BITS else None
        if tensor.begin != at or tensor.end < at or (bits is not None and 8 * (tensor.end - tensor.begin) != bits):
            raise ConfigError(f"{file}: damaged: the header's place of {tensor.key} does not fit its shape {list(tensor.shape)}; {remedy}")
        at = tensor.end
    if at != size:
        raise ConfigError(f"{file}: damaged: {size} bytes, but its header describes {at}; {remedy}")
    return Shard(file, metadata, tuple(tensors))


def _weight_files(folder: Path, index: dict[str, Any] | None) -> list[Path]:
    if index is None:
        if not (folder / WEIGHTS).is_file():
            raise ResourceError(
                f"{folder}: holds neither {WEIGHTS} nor {INDEX} (pickled .bin files are never read); save the model with save_pretrained"
            )
        return [folder / WEIGHTS]
    places = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(places, dict) or not places or not all(isinstance(name, str) for name in places.values()):
        raise ConfigError(f"{folder / INDEX}: has no weight_map of tensor names to files; fetch the model again")
    names = sorted(set(places.values()))
    for name in names:
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise ConfigError(f"{folder / INDEX}: names {name!r}, which is no safetensors file of this folder; fetch the model again")
    return [folder / name for name in names]


def _architectures(folder: Path, raw: Any) -> tuple[Any, list[Any]]:
    """The config object, and the model classes that its weights may be of: those it names, and those the Auto classes would open."""
    import transformers
    from transformers.models.auto import modeling_auto as auto

    quiet_libraries()
    transformers.utils.logging.set_verbosity_error()
    try:
        config = transformers.AutoConfig.from_pretrained(str(folder), trust_remote_code=False, local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{folder / CONFIG}: transformers cannot read it: {first_line(error)}") from error
    classes = []
    for name in raw.get("architectures") or []:
        if (named := getattr(transformers, name, None)) is None:
            raise ConfigError(
                f"{folder / CONFIG}: names the architecture {name}, which transformers {transformers.__version__} does not have"
            )
        classes.append(named)
    for mapping in (
        auto.MODEL_FOR_MASKED_LM_MAPPING, auto.MODEL_FOR_CAUSAL_LM_MAPPING, auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING, auto.MODEL_MAPPING
    ):  # fmt: skip
        found = mapping.get(type(config), None)
        classes += [c for c in (found if isinstance(found, tuple | list) else [found]) if c is not None and c not in classes]
    return config, classes


def _stored_tables(folder: Path, stored: dict[str, Stored], classes: list[Any], config: Any) -> dict[str, tuple[Stored, Role]]:
    """The stored tensors with one row per token.

    Names are compared as transformers' own loader does: a checkpoint may hold them with or without the prefix of its inner model, or
    as an earlier version wrote them.
    """
    found: dict[str, tuple[Stored, Role]] = {}
    unknown = dict(stored)
    for model_class in classes:
        architecture = describe_architecture(model_class, config)
        parameters, rename = architecture.model.state_dict(), loader_names(architecture.model)
        for key, tensor in stored.items():
            name = rename(key)
            if name in architecture.tables:
                found.setdefault(key, (tensor, architecture.tables[name]))
            if name in parameters:
                unknown.pop(key, None)
    if not any(role in MATRICES for _, role in found.values()):
        place = folder / INDEX if (folder / INDEX).is_file() and not (folder / WEIGHTS).is_file() else folder
        what = "names a file for" if place.name == INDEX else "its weights hold"
        raise ConfigError(f"{place}: {what} none of the embedding tables of {classes[0].__name__}; fetch or save the model again")
    rows = config.get_text_config().vocab_size
    for key, tensor in unknown.items():
        if tensor.shape[:1] == (rows,) or tensor.shape == (1, rows):
            raise ConfigError(
                f"{tensor.file}: {key} has one row per token ({rows}), but {classes[0].__name__} has no such parameter, so that it is "
                "not known how to grow it; load the model with transformers and save it again, or expand it in memory"
            )
    return found


def loader_names(model: torch.nn.Module) -> Callable[[str], str]:
    """From the name of a stored tensor to that of the parameter that transformers loads it into."""
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

    transforms = get_model_conversion_mapping(model)
    renamings = [t for t in transforms if isinstance(t, WeightRenaming)]
    converters = [t for t in transforms if isinstance(t, WeightConverter)]
    parameters = model.state_dict()
    return lambda key: str(rename_source_key(key, renamings, converters, model.base_model_prefix, parameters)[0])


def _tail(
    stored: Stored, role: Role, growth: Growth, new_rows: NDArray[np.float32], new_output_rows: NDArray[np.float32] | None
) -> torch.Tensor:
    given = new_output_rows if role == "output" and new_output_rows is not None else new_rows
    return tail_rows(role, stored.read_rows, growth, torch.from_numpy(np.ascontiguousarray(given)), stored.key, FORMATS[stored.dtype])


def _grown_config(base: Checkpoint, growth: Growth) -> dict[str, Any]:
    """config.json with the new number of rows, at the place where this architecture keeps it; every other key as it was."""
    values: dict[str, Any] = json.loads(json.dumps(base.raw_config))
    text = base.config.get_text_config()
    holder = values
    if text is not base.config:
        name = next(name for name in base.config.sub_configs if getattr(base.config, name, None) is text)
        holder = values.setdefault(name, {})
    holder.update({getattr(text, "attribute_map", {}).get(name, name): growth.rows for name in sizes_of(text)})
    holder.pop(TRUE_SIZE, None)
    if growth.padding_ids:
        holder[TRUE_SIZE] = growth.vocab_size
    return values


def _generation_values(base: Checkpoint, growth: Growth) -> dict[str, Any] | None:
    """generation_config.json, with padding suppressed. A folder without one gets one only if there is padding to suppress."""
    import transformers

    path = base.folder / GENERATION
    values: dict[str, Any] | None = read_json(path) if path.is_file() else None
    suppressed = suppressed_ids((values or {}).get("suppress_tokens"), growth)
    if values is None:
        architecture = getattr(transformers, (base.raw_config.get("architectures") or [""])[0], None)
        if suppressed is None or architecture is None or not architecture.can_generate():
            return None
        values = transformers.GenerationConfig.from_model_config(base.config).to_diff_dict()
    if suppressed is None:
        return {key: value for key, value in values.items() if key != "suppress_tokens"}
    return values | {"suppress_tokens": suppressed}


def _grown_index(base: Checkpoint, growth: Growth, tied: bool) -> dict[str, Any]:
    """The index with the sizes of the new files. As in transformers, the parameters of tied tables count once."""
    assert base.index is not None, "a single file has no index"
    metadata = dict(base.index.get("metadata") or {})
    added = {key: (growth.rows - stored.rows) * stored.row_bytes for key, (stored, _) in base.tables.items()}
    metadata["total_size"] = sum(t.end - t.begin for shard in base.shards for t in shard.tensors) + sum(added.values())
    if "total_parameters" in metadata:
        matrices = [stored for stored, role in base.tables.values() if role in MATRICES]
        biases = sum(role == "bias" for _, role in base.tables.values())
        counted = matrices[:1] if tied else _distinct(matrices)
        metadata["total_parameters"] += (growth.rows - base.rows) * (sum(stored.shape[1] for stored in counted) + biases)
    return base.index | {"metadata": metadata}


def _distinct(tables: list[Stored]) -> list[Stored]:
    """The tables that differ: of T5, the encoder's and the decoder's may be stored beside the shared one."""
    kept: list[Stored] = []
    for table in tables:
        if not any(_same_bytes(table, other) for other in kept):
            kept.append(table)
    return kept


def _same_bytes(one: Stored, other: Stored) -> bool:
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return False
    step = max(1, _CHUNK_BYTES // one.row_bytes)
    spans = ((i, min(one.shape[0], i + step)) for i in range(0, one.shape[0], step))
    return all(np.array_equal(one.read_rows(i, j), other.read_rows(i, j)) for i, j in spans)


def _write_shard(shard: Shard, target: Path, tails: dict[str, torch.Tensor], growth: Growth) -> None:
    entries: dict[str, Any] = {} if shard.metadata is None else {"__metadata__": shard.metadata}
    at = 0
    for tensor in shard.tensors:
        grows = tensor.key in tails
        length = growth.rows * tensor.row_bytes if grows else tensor.end - tensor.begin
        shape = tensor.with_rows(growth.rows) if grows else tensor.shape
        entries[tensor.key] = {"dtype": tensor.dtype, "shape": list(shape), "data_offsets": [at, at + length]}
        at += length
    header = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    header += b" " * (-len(header) % 8)
    with shard.file.open("rb") as source, target.open("xb") as out:
        out.write(struct.pack("<Q", len(header)) + header)
        for tensor in shard.tensors:
            if tensor.key not in tails:
                copy_bytes(source, out, tensor.begin, tensor.end - tensor.begin)
                continue
            copy_bytes(source, out, tensor.begin, growth.base_tokens * tensor.row_bytes)
            out.write(tails[tensor.key].contiguous().view(torch.uint8).numpy().data)
        out.truncate(8 + len(header) + at)  # a hole at the end is not written, but counts


def _copy_others(base: Checkpoint, out: Path) -> tuple[list[str], list[str]]:
    """Copy what else the folder holds and stays true. Returns the relative paths of what was copied, and of what was left out."""
    written = {shard.file.name for shard in base.shards} | {CONFIG, GENERATION, INDEX}
    copied, left_out = [], []
    for path in sorted(p for p in base.folder.rglob("*") if p.is_file()):
        name = path.relative_to(base.folder)
        if str(name) in written or any(part.startswith(".") for part in name.parts):
            continue
        stale = path.suffix in _OTHER_WEIGHTS or path.name.endswith(".index.json") or str(name) in _OLD_TOKENIZER | _OURS
        if stale or (out / name).exists():
            left_out.append(name.as_posix())
            continue
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, out / name)
        copied.append(name.as_posix())
    return copied, left_out
