"""What a training run will need, before it begins: rules of thumb, good to a factor of about one and a half."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from biollm.core.errors import ConfigError, first_line
from biollm.training.config import TrainingConfig
from biollm.training.deepspeed import has_cuda


@dataclass(frozen=True)
class Shape:
    """What of a model decides its cost. parameters: all; table: those of the embedding tables, of which a token reads a row."""

    parameters: int
    table: int
    layers: int
    width: int
    vocabulary: int

    @classmethod
    def of(cls, config: Any, parameters: int) -> Shape:
        """From a transformers config and the number of parameters in the weight files."""
        config = config.get_text_config()
        width = int(getattr(config, "hidden_size", None) or config.d_model)
        layers = int(getattr(config, "num_hidden_layers", None) or config.num_layers)
        return cls(parameters, int(config.vocab_size) * width, layers, width, int(config.vocab_size))

    @classmethod
    def of_gguf(cls, file: Path) -> Shape:
        """From the header of a GGUF file. Raises ConfigError for a damaged one, or one that does not tell its shape."""
        from gguf import GGUFReader

        try:
            reader = GGUFReader(file)
            values = {name: field.contents() for name, field in reader.fields.items() if not name.startswith("tokenizer.")}
            sizes = {tensor.name: int(tensor.n_elements) for tensor in reader.tensors}
            kind = values["general.architecture"]
            layers, width, table = int(values[f"{kind}.block_count"]), int(values[f"{kind}.embedding_length"]), sizes["token_embd.weight"]
        except (ValueError, KeyError, IndexError, OverflowError, UnicodeDecodeError) as error:
            raise ConfigError(f"{file}: no whole GGUF model ({first_line(error)}); fetch it again") from error
        return cls(sum(sizes.values()), table, layers, width, table // width)


def memory_bytes(shape: Shape, config: TrainingConfig, tokens_per_pass: int, labelled_share: float, bf16: bool) -> float:
    """Memory of one process: model states as ZeRO shares them out (Rajbhandari et al. 2020, figure 1), activations (34 bytes per token,
    layer and unit of width in half precision; Korthikanti et al. 2022), logits of the labelled tokens with their gradient."""
    weights, gradients, optimizer = (2, 2, 12) if bf16 else (4, 4, 8)
    shared = config.world_size
    states = weights / (shared if config.zero >= 3 else 1) + gradients / (shared if config.zero >= 2 else 1)
    states += optimizer / (shared if config.zero >= 1 else 1)
    per_unit = (2 if config.gradient_checkpointing else 34) * (1 if bf16 else 2)
    activations = tokens_per_pass * shape.width * (shape.layers * per_unit + (34 if config.gradient_checkpointing else 0))
    logits = tokens_per_pass * labelled_share * shape.vocabulary * 4 * 3
    return shape.parameters * states + activations + logits


def memory_knobs(config: TrainingConfig) -> str:
    """The settings by which the same run needs less memory, of those that it can still take. More processes help where each has a
    memory of its own."""
    accumulation, knobs = config.gradient_accumulation, []
    if config.micro_batch_size > 1:
        knobs.append(f"raise gradient_accumulation (now {accumulation}) to divide the batch of {config.batch_size}")
    if not config.gradient_checkpointing:
        knobs.append("set gradient_checkpointing: true")
    if has_cuda() and config.offload == "none":
        knobs.append("set offload: optimizer" + ("" if config.zero else " with zero: 1"))
    if config.zero < 3 and (has_cuda() or config.nodes > 1):
        knobs.append(f"set zero: {'3' if config.zero == 2 else '2 or 3'} with more processes")
    knobs.append("make what is read at a time shorter (pretrain.row_tokens, ingest.window_bases)")
    return "; or ".join(knobs)


def checkpoint_bytes(shape: Shape, kept: int = 3) -> float:
    """Disk of the checkpoints that stand at once while one is written: weights, master copy and moments."""
    return shape.parameters * 16.0 * kept


def operations(shape: Shape, tokens: float, labelled_share: float) -> float:
    """Floating-point operations of a run: six for each parameter and token (Kaplan et al. 2020), the output table's for labelled ones."""
    return 6.0 * tokens * (max(1, shape.parameters - shape.table) + labelled_share * shape.table)
