"""Bottleneck adapters, which peft has none of, put behind the blocks of a model through hooks.

Each is down-projection, ReLU, up-projection; `up` is zero at the start, so that there is no effect:

    series    (Houlsby 2019; Pfeiffer 2021)       parallel (He 2022)

    x ── FFN ──┬──────────(+)── to the residual    x ──┬── FFN ───────────(+)── to the residual
               └─ down─up ─┘                           └─ down─up ─ ·scale ─┘

Legend: B records, T tokens, D model width.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from biollm.core.errors import ConfigError
from biollm.core.files import write_json

BOTTLENECK, BOTTLENECK_WEIGHTS = "bottleneck.json", "bottleneck.safetensors"
Placement = Literal["ffn", "attention_and_ffn"]


class BottleneckSpec(BaseModel):
    """`bottleneck.json`: bottleneck adapters and the output modules that were trained whole beside them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["series", "parallel"]
    placement: Placement
    width: int
    scale: float
    dropout: float
    hidden_size: int
    outputs: list[str]


class Bottleneck(nn.Module):
    """Down-projection, ReLU, up-projection, times a scale. (…, D) -> (…, D); all zeros at the start."""

    def __init__(self, hidden_size: int, width: int, scale: float, dropout: float) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(hidden_size, width), nn.Linear(width, hidden_size)
        self.scale, self.dropout = scale, nn.Dropout(dropout)
        nn.init.normal_(self.down.weight, std=0.02)
        for tensor in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(tensor)

    def forward(self, hidden: Tensor) -> Tensor:
        added: Tensor = self.up(self.dropout(functional.relu(self.down(hidden)))) * self.scale
        return added


# Where in a layer a block is read and where its result is, by the names that transformers gives them.
_FFN_SITES = (("mlp", "mlp"), ("intermediate", "output.dense"), ("ffn", "ffn"))
_ATTENTION_ENDS = ("attention.output.dense", "attn.c_proj", "self_attn.o_proj", "attention.dense", "attn.Wo", "attention.out_lin")


class BottleneckModel(nn.Module):
    """A transformers model with bottleneck adapters. The model itself is not changed: the adapters act through hooks.

    Attributes that are not its own are those of the model.
    """

    def __init__(self, base: nn.Module, spec: BottleneckSpec) -> None:
        """Raises ConfigError if the model's layers are built in a way that is not known here."""
        super().__init__()
        self.base, self.spec = base, spec
        like = next(base.parameters())
        self.adapters = nn.ModuleDict()
        self._read: dict[str, Tensor] = {}
        for key, (start, end) in _sites(base, spec).items():
            adapter = Bottleneck(spec.hidden_size, spec.width, spec.scale, spec.dropout)
            self.adapters[key] = adapter.to(device=like.device, dtype=like.dtype)
            if spec.kind == "parallel":
                start.register_forward_pre_hook(partial(self._keep, key))
            end.register_forward_hook(partial(self._add, key))

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "base":
                raise
            return getattr(self.base, name)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.base(*args, **kwargs)

    def _keep(self, key: str, module: nn.Module, args: tuple[Tensor, ...]) -> None:
        self._read[key] = args[0]

    def _add(self, key: str, module: nn.Module, args: Any, output: Tensor) -> Tensor:
        read = self._read.pop(key) if self.spec.kind == "parallel" else output
        added: Tensor = self.adapters[key](read)
        return output + added

    def save_pretrained(self, folder: str) -> None:
        """Write the adapters and the output modules that were trained beside them."""
        tensors = {f"adapters.{name}": tensor for name, tensor in self.adapters.state_dict().items()}
        for output in self.spec.outputs:
            tensors |= {f"outputs.{output}.{name}": tensor for name, tensor in self.base.get_submodule(output).state_dict().items()}
        Path(folder).mkdir(parents=True, exist_ok=True)
        write_json(Path(folder) / BOTTLENECK, self.spec.model_dump())
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, str(Path(folder) / BOTTLENECK_WEIGHTS))

    def load(self, path: Path) -> None:
        tensors = load_file(str(path))
        wanted = {f"adapters.{name}" for name in self.adapters.state_dict()}
        for output in self.spec.outputs:
            wanted |= {f"outputs.{output}.{name}" for name in self.base.get_submodule(output).state_dict()}
        check_names(path, wanted, set(tensors))
        for prefix, module in [("adapters.", self.adapters), *((f"outputs.{o}.", self.base.get_submodule(o)) for o in self.spec.outputs)]:
            module.load_state_dict({name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)})


def _sites(base: nn.Module, spec: BottleneckSpec) -> dict[str, tuple[nn.Module, nn.Module]]:
    """Where adapters go: by a name for each, the module whose input and the module whose output counts."""
    found: dict[str, tuple[nn.Module, nn.Module]] = {}
    for layers in (module for module in base.modules() if isinstance(module, nn.ModuleList)):
        for layer in layers:
            ffn = next((site for site in _FFN_SITES if _has(layer, *site)), None)
            if ffn is None:
                continue
            number = len([key for key in found if key.endswith("ffn")])
            if spec.placement == "attention_and_ffn":
                end = next((end for end in _ATTENTION_ENDS if _has(layer, end)), None)
                if end is None:
                    raise _unknown_layers(base, "attention")
                found[f"{number}_attention"] = (layer.get_submodule(end), layer.get_submodule(end))
            found[f"{number}_ffn"] = (layer.get_submodule(ffn[0]), layer.get_submodule(ffn[1]))
    if not found:
        raise _unknown_layers(base, "feed-forward")
    return found


def _has(layer: nn.Module, *names: str) -> bool:
    modules = dict(layer.named_modules())
    return all(name in modules for name in names)


def _unknown_layers(base: nn.Module, block: str) -> ConfigError:
    return ConfigError(
        f"{type(base).__name__}: no layer has a {block} block under a name that is known here, so bottleneck adapters cannot be put "
        "behind it; use lora"
    )


def check_names(path: Path, wanted: set[str], stored: set[str]) -> None:
    if unlike := sorted(wanted ^ stored):
        state = "is missing from it" if unlike[0] in wanted else "is in it, but not in the model"
        raise ConfigError(f"{path}: not the weights of the settings beside it: {unlike[0]} {state}; fine-tune again")
