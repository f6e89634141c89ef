"""Resize a model's vocabulary: input table, output table (tied or not), output bias and the logits' offset together.

Legend: V base tokens, N new tokens, D width.

A grown table, from the first row to the last:

    0 … V-1          base tokens          bit for bit as they were
    V … V+N-1        new tokens           the rows given; a bias: the mean of the base's biases; an offset: 0
    V+N … rows-1     padding, if asked    no tokens: see `padding_ids`
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from biollm.core.errors import ConfigError

Role = Literal["input", "output", "bias", "offset"]  # offset: a buffer (1, V) that is added to the logits, as BART's final_logits_bias
MATRICES: tuple[Role, ...] = ("input", "output")
# Added to a padding row's logit where the head has a bias or an offset: finite in float16 too, and 0 after any softmax.
PADDING_BIAS = -10_000.0
# The key of config.json that says how many rows are tokens, where the tables are padded; vocab_size counts the rows.
TRUE_SIZE = "unpadded_vocab_size"
_SIZES = ("vocab_size", "decoder_vocab_size")  # keys of config.json; Marian counts the same tokens again for its decoder
_CHUNK_VALUES = 1 << 22


@dataclass(frozen=True)
class Tables:
    """The parameters of a model that have one row per token. `output` is None if it is tied to `input` or absent."""

    input: nn.Parameter
    output: nn.Parameter | None
    bias: nn.Parameter | None


@dataclass(frozen=True)
class Growth:
    """How many rows are what: base tokens before new tokens before padding. old_rows: those of the base's tables."""

    base_tokens: int
    vocab_size: int
    rows: int
    old_rows: int

    @property
    def new_tokens(self) -> int:
        return self.vocab_size - self.base_tokens

    @property
    def padding_ids(self) -> range:
        """Rows that are no tokens.

        Each is the mean of the base tokens' rows, so that without an output bias its logit is the mean of their logits: never above
        the highest, whatever the hidden state, and at most 1/V of the probability (geometric <= arithmetic mean). A row of
        zeros would have the logit 0, which wins wherever a model's logits are all negative, as GPT-2's are. An output bias or
        offset is PADDING_BIAS there, and generation config suppresses the ids, so that sampling cannot draw them either.
        """
        return range(self.vocab_size, self.rows)


def plan_growth(old_rows: int, new_tokens: int, vocab_size: int, pad_to_multiple: int = 1, true_size: int | None = None) -> Growth:
    """The layout of the grown tables.

    old_rows: rows of the base's tables; true_size: how many of them are tokens, where the base's config says so. A base may have
    rows that its tokenizer has no token for (Qwen2: 151,936 rows, 151,665 tokens): these are no tokens, and are not kept.
    Raises ConfigError if the base cannot have had vocab_size - new_tokens tokens, or if the multiple is below 1.
    """
    if pad_to_multiple < 1:
        raise ConfigError(f"pad_to_multiple is {pad_to_multiple}; expected 1 (no padding) or more, for example 64")
    base_tokens = vocab_size - new_tokens
    known = old_rows if true_size is None else true_size
    if base_tokens > known or base_tokens < 1 or (true_size is not None and base_tokens != true_size):
        raise ConfigError(
            f"the model has {known} rows; with {new_tokens} new tokens that is {known + new_tokens}, "
            f"but the merged tokenizer has {vocab_size} tokens; model and tokenizer do not belong together"
        )
    return Growth(base_tokens, vocab_size, -(-vocab_size // pad_to_multiple) * pad_to_multiple, old_rows)


def tables_of(model: nn.Module) -> Tables:
    """The vocabulary tables of a top-level Hugging Face model. Raises ConfigError if they disagree about the vocabulary."""
    inputs: nn.Parameter = model.get_input_embeddings().weight  # type: ignore[operator]
    head = model.get_output_embeddings()  # type: ignore[operator]
    output = None if head is None or head.weight is inputs else head.weight
    bias = None if head is None else _output_bias(model, head)
    sizes = {len(table) for table in (inputs, output, bias) if table is not None}
    if len(sizes) > 1:
        raise ConfigError(f"the model's vocabulary tables disagree: sizes {sorted(sizes)}; it was resized in part: restore the original")
    return Tables(inputs, output, bias)


def resize(
    model: nn.Module, vocab_size: int, new_rows_ND: Tensor, *, pad_to_multiple: int = 1, new_output_rows_ND: Tensor | None = None
) -> Growth:
    """Grow the vocabulary in place, and say how: old rows stay bit for bit, new rows are `new_rows_ND`.

    An untied output table gets new_output_rows_ND, or else the same new rows; a bias gets the mean of the old biases, an offset of
    the logits (a buffer) zeros. Rows are padded to a multiple on request (see Growth.padding_ids). config.vocab_size follows, and
    generation config.
    The parameters stay the objects that they were, with their ties. transformers' own resize_token_embeddings is not used: it
    makes all new rows practically equal, forgets the bias of ESM, ties an untied T5 head (Flan-T5) and an untied BERT's biases.
    Raises ConfigError, before anything is changed, if the model has other than vocab_size - N tokens, if output rows are given for
    a tied table, or if new rows are not finite in the model's number format.
    """
    tables = tables_of(model)
    config = model.config.get_text_config()  # type: ignore[union-attr, operator]
    growth = plan_growth(len(tables.input), len(new_rows_ND), vocab_size, pad_to_multiple, getattr(config, TRUE_SIZE, None))
    check_special_ids("the model's config", config.to_dict(), growth)
    if new_output_rows_ND is not None and tables.output is None:
        raise ConfigError("rows for the output table were given, but the model's output table is tied to its input table: leave them out")
    grown: dict[int, tuple[Tensor, Tensor]] = {}
    for name, role in describe_architecture(type(model), model.config).tables.items():
        table = table_named(model, name)
        if id(table) in grown:
            continue
        role = "input" if table is tables.input else role
        given = new_output_rows_ND if role == "output" and new_output_rows_ND is not None else new_rows_ND
        old = table.detach().reshape(-1) if role == "offset" else table.detach()
        tail = tail_rows(role, _reader_of(old), growth, given, name, old.dtype)
        values = torch.cat([old[: growth.base_tokens], tail.to(old.device)])
        grown[id(table)] = table, values[None] if role == "offset" else values
    if id(tables.input) not in grown:
        raise ConfigError(f"{type(model).__name__}: the size of its embedding table is not the config's vocab_size; it cannot be resized")
    with torch.no_grad():
        for table, values in grown.values():
            table.data = values  # the same object: every module that shares it sees the new rows
            table.grad = None
    _tell_modules(model, growth.rows)
    if growth.padding_ids:
        setattr(config, TRUE_SIZE, vocab_size)
    elif hasattr(config, TRUE_SIZE):
        delattr(config, TRUE_SIZE)
    generation: Any = getattr(model, "generation_config", None)
    if generation is not None:
        generation.suppress_tokens = suppressed_ids(generation.suppress_tokens, growth)
    assert tables_of(model).output is tables.output, "resizing changed which tables are tied"
    return growth


@dataclass(frozen=True)
class Architecture:
    """A model class without storage, and the names of its tensors that have one row per token (tied ones under each name)."""

    model: nn.Module
    tables: dict[str, Role]


def describe_architecture(model_class: Any, config: Any) -> Architecture:
    """Which parameters and stored buffers of a model class have one row per token, and what they are for.

    Nothing is loaded: the architecture is built without storage (torch's meta device) for V and for V + 1 tokens, and the tensors
    whose size differs are the vocabulary's. So no name is guessed, and none forgotten (the bias beside ESM's head, T5's
    three tables, the offset of BART's logits). Raises ConfigError if one has its tokens along another axis.
    """
    here, larger = (_build_without_storage(model_class, config, more) for more in (0, 1))
    head = here.get_output_embeddings()  # type: ignore[operator]
    sizes = larger.state_dict()
    buffers = {name for name, _ in here.named_buffers(remove_duplicate=False)}
    tables: dict[str, Role] = {}
    for name, tensor in here.state_dict().items():
        more = sizes[name].shape
        if tensor.shape == more:
            continue
        if name in buffers and tensor.ndim == 2 and len(tensor) == 1 and more == (1, tensor.shape[1] + 1):
            tables[name] = "offset"
            continue
        if name in buffers or tensor.ndim > 2 or tensor.shape[1:] != more[1:] or more[0] != len(tensor) + 1:
            raise ConfigError(f"{model_class.__name__}: {name} {tuple(tensor.shape)} has not one row per token; it cannot be resized")
        is_output = head is not None and here.get_submodule(name.rpartition(".")[0]) is head
        tables[name] = "bias" if tensor.ndim == 1 else "output" if is_output else "input"
    return Architecture(here, tables)


def table_named(model: nn.Module, name: str) -> Tensor:
    """A parameter or a buffer of a model by its name."""
    place, _, own = name.rpartition(".")
    table: Tensor = getattr(model.get_submodule(place), own)
    return table


def tail_rows(
    role: Role,
    read_rows: Callable[[int, int], NDArray[np.float32]],
    growth: Growth,
    new_rows_ND: Tensor,
    name: str,
    dtype: torch.dtype,
) -> Tensor:
    """What stands behind the base tokens in a grown table: rows of new tokens, then padding, in the table's number format.

    read_rows(i, j) gives rows i to j - 1 of the old table in float32. Returns (rows - V, D), or (rows - V,) for a bias or an offset.
    Raises ConfigError naming the table if the new rows have another width or are not finite in its format.
    """
    padding = len(growth.padding_ids)
    if role not in MATRICES:
        start = float(mean_row(read_rows, growth.base_tokens, 1)) if role == "bias" else 0.0
        return torch.cat([torch.full((growth.new_tokens,), start), torch.full((padding,), PADDING_BIAS)]).to(dtype)
    width = read_rows(0, 1).shape[1]
    if tuple(new_rows_ND.shape) != (growth.new_tokens, width):
        expected = f"({growth.new_tokens}, {width})"
        raise ConfigError(f"{name}: new rows have the shape {tuple(new_rows_ND.shape)}, expected {expected}: one row per new token")
    tail = new_rows_ND.detach().to(device="cpu", dtype=dtype)
    if padding:
        row = torch.from_numpy(mean_row(read_rows, growth.base_tokens, width).astype(np.float32)).to(dtype)
        tail = torch.cat([tail, row.expand(padding, -1)])
    if not torch.isfinite(tail).all():
        raise ConfigError(f"{name}: new rows are not finite in {str(dtype).removeprefix('torch.')}; choose another initialiser")
    return tail


def mean_row(read_rows: Callable[[int, int], NDArray[np.float32]], rows: int, width: int) -> NDArray[np.float64]:
    """The mean of the first `rows` rows, summed in float64 in one fixed order, with few rows in memory at once."""
    step = max(1, _CHUNK_VALUES // width)
    total: Any = 0.0
    for i in range(0, rows, step):
        total = total + read_rows(i, min(rows, i + step)).sum(axis=0, dtype=np.float64)
    return np.asarray(total / rows)


def suppressed_ids(before: Iterable[int] | None, growth: Growth) -> list[int] | None:
    """The generation config's suppress_tokens for a grown vocabulary: what was padding may be a token now, and the other way round."""
    kept = {i for i in before or () if i < growth.base_tokens}
    return sorted(kept | set(growth.padding_ids)) or None


def check_special_ids(place: str, values: dict[str, Any], growth: Growth) -> None:
    """Raise ConfigError if a pad, bos, eos … id of a config lies behind the base's tokens: it would come to mean a new token, or none.

    An id that has no row before and none after is no concern of the growth: configs have those of other vocabularies by default.
    """
    for key, value in values.items():
        if not key.endswith("_token_id") or value is None:
            continue
        for number in value if isinstance(value, list) else [value]:
            # where the base had rows that are no tokens, the new tables may be smaller, and transformers opens none with a pad id behind
            if isinstance(number, int) and growth.base_tokens <= number < max(growth.rows, growth.old_rows):
                bearer = "a new token" if number < growth.vocab_size else "no token"
                raise ConfigError(
                    f"{place}: {key} is {number}, but the base's tokenizer has {growth.base_tokens} tokens, so that {bearer} "
                    f"would have this id; set {key} to the id that the tokenizer gives that token"
                )


def _build_without_storage(model_class: Any, config: Any, more_tokens: int) -> nn.Module:
    resized = copy.deepcopy(config)
    set_rows(resized.get_text_config(), resized.get_text_config().vocab_size + more_tokens)
    with torch.device("meta"):
        model: nn.Module = model_class(resized)
    return model


def _reader_of(table: Tensor) -> Callable[[int, int], NDArray[np.float32]]:
    return lambda i, j: table[i:j].float().cpu().numpy()


def _output_bias(model: nn.Module, head: nn.Module) -> nn.Parameter | None:
    """The bias that the head adds: its own, or one that lies beside it (ESM)."""
    if isinstance(own := getattr(head, "bias", None), nn.Parameter):
        return own
    name = next(name for name, module in model.named_modules() if module is head)
    beside = getattr(model.get_submodule(name.rpartition(".")[0]), "bias", None)
    return beside if isinstance(beside, nn.Parameter) else None


def _tell_modules(model: nn.Module, rows: int) -> None:
    """Let what modules and their configs say of the vocabulary's size follow the tables."""
    table = model.get_input_embeddings().weight  # type: ignore[operator]
    old_rows = model.config.get_text_config().vocab_size  # type: ignore[union-attr, operator]
    assert len(table) == rows, "the input table was not resized"
    for module in model.modules():
        if isinstance(module, nn.Embedding) and len(module.weight) == rows:
            module.num_embeddings = rows
        if isinstance(module, nn.Linear) and len(module.weight) == rows:
            module.out_features = rows
        if getattr(module, "vocab_size", None) == old_rows:
            module.vocab_size = rows  # type: ignore[assignment]
    configs = {id(c): c for module in model.modules() if (c := getattr(module, "config", None)) is not None}
    for config in configs.values():
        if getattr(config.get_text_config(), "vocab_size", None) == old_rows:
            set_rows(config.get_text_config(), rows)


def set_rows(config: Any, rows: int) -> None:
    """Let a config count so many rows, also where it counts the same tokens twice."""
    for name in sizes_of(config):
        setattr(config, name, rows)


def sizes_of(config: Any) -> list[str]:
    """The attributes of a config that count the rows."""
    return [name for name in _SIZES if getattr(config, name, None) == config.vocab_size]
