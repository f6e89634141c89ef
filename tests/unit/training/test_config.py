"""What the recipe means for DeepSpeed, the optimiser and the launcher."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from biollm.core.errors import ConfigError
from biollm.modeling.precision import has_bf16
from biollm.training import launch
from biollm.training.config import TrainingConfig
from biollm.training.deepspeed import check_hardware, deepspeed_config, use_bf16
from biollm.training.language import FutureHeads
from biollm.training.launch import Host, read_hostfile
from biollm.training.optimizer import make_optimizer, parameter_groups, rate_factor
from biollm.training.run import with_hostfile


def config(**values: Any) -> TrainingConfig:
    return TrainingConfig(**{"steps": 10, "learning_rate": 1e-3} | values)


def test_the_deepspeed_configuration_is_what_the_recipe_means() -> None:
    values = deepspeed_config(config(batch_size=16, gradient_accumulation=2, processes=2, zero=2, max_grad_norm=0.5), bf16=False)
    assert (values["train_micro_batch_size_per_gpu"], values["gradient_accumulation_steps"], values["train_batch_size"]) == (4, 2, 16)
    assert values["gradient_clipping"] == 0.5
    assert values["zero_optimization"] == {"stage": 2}
    assert values["bf16"] == {"enabled": False}
    assert deepspeed_config(config(), bf16=True)["bf16"] == {"enabled": True}
    assert "optimizer" not in values, "DeepSpeed's own would need a compiler"
    assert deepspeed_config(config(zero=3, offload="parameters"), True)["zero_optimization"]["offload_param"]["device"] == "cpu"


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"batch_size": 6, "processes": 4}, "a multiple of processes x nodes x gradient_accumulation = 4"),
        ({"checkpoint_steps": 15, "log_steps": 10}, "a multiple of log_steps"),
        ({"offload": "optimizer"}, "set zero to 1, 2 or 3"),
        ({"offload": "parameters", "zero": 2}, "only zero 3 shares out the weights"),
        ({"hostfile": "hosts"}, "say how many of its hosts to use"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(values: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        config(**values)


def test_offload_needs_a_gpu() -> None:
    with pytest.raises(ConfigError, match="there is no GPU to offload from"):
        check_hardware(config(zero=2, offload="optimizer"))


def test_an_offloaded_optimiser_has_our_rates_and_our_decay(monkeypatch: pytest.MonkeyPatch) -> None:
    """DeepSpeed, given its name alone, made one of a single learning rate that let embeddings, biases and norms decay."""
    import deepspeed.ops.adam

    class OnTheCpu(torch.optim.AdamW):
        def __init__(self, groups: Any, adamw_mode: bool, **options: Any) -> None:
            assert adamw_mode
            super().__init__(groups, **options)

    monkeypatch.setattr(deepspeed.ops.adam, "DeepSpeedCPUAdam", OnTheCpu)
    offloaded = config(zero=2, offload="optimizer", layer_decay=0.5, weight_decay=0.1)
    values = deepspeed_config(offloaded, bf16=False)
    assert values["zero_optimization"]["offload_optimizer"]["device"] == "cpu"
    assert "optimizer" not in values
    assert values["zero_force_ds_cpu_optimizer"] is False, "accelerate would replace it"
    model = Model()
    made, usual = make_optimizer(model, offloaded), make_optimizer(model, config(layer_decay=0.5, weight_decay=0.1))
    assert isinstance(made, OnTheCpu)
    facts = [[(g["lr"], g["weight_decay"], len(g["params"]), g["betas"], g["eps"]) for g in o.param_groups] for o in (made, usual)]
    assert facts[0] == facts[1]
    assert len(facts[0]) > 2


@pytest.fixture
def old_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two GPUs that compute bfloat16 by float32, which torch calls supported unless it is asked for more."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "Tesla T4")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)


@pytest.mark.usefixtures("old_gpus")
def test_a_gpu_that_only_emulates_bf16_trains_in_fp32() -> None:
    assert not use_bf16("auto")
    assert not has_bf16()
    with pytest.raises(ConfigError, match="precision is bf16, which Tesla T4 does not compute; set precision: fp32"):
        check_hardware(config(precision="bf16"))


@pytest.mark.usefixtures("old_gpus")
def test_more_processes_than_gpus_are_refused() -> None:
    check_hardware(config(processes=2))
    with pytest.raises(ConfigError, match="processes is 4, but this machine has 2 GPUs, one for each process; set processes: 2, or more"):
        check_hardware(config(processes=4))


def test_a_tracker_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "wandb" else object())
    check_hardware(config(trackers=["tensorboard"]))
    with pytest.raises(ConfigError, match="trackers has wandb, which is not installed; pip install wandb"):
        check_hardware(config(trackers=["tensorboard", "wandb"]))


def test_a_named_precision_is_obeyed_on_any_hardware() -> None:
    assert use_bf16("bf16") is True
    assert use_bf16("fp32") is False
    assert use_bf16("auto") in (True, False)


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embeddings = nn.Embedding(7, 4)
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))
        self.head = nn.Linear(4, 7)


def test_lower_layers_learn_slower_and_only_matrices_decay() -> None:
    model = Model()
    groups = parameter_groups(model, config(layer_decay=0.5, weight_decay=0.1))
    of = {id(p): group for group in groups for p in group["params"]}
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))

    def rate(p: nn.Parameter) -> float:
        return float(of[id(p)]["lr"] / 1e-3)

    assert rate(model.head.weight) == 1
    assert [rate(layer.weight) for layer in model.layers] == [0.125, 0.25, 0.5]  # type: ignore[arg-type]
    assert rate(model.embeddings.weight) == 0.0625
    assert of[id(model.head.weight)]["weight_decay"] == 0.1
    assert of[id(model.head.bias)]["weight_decay"] == of[id(model.embeddings.weight)]["weight_decay"] == 0


def test_adapters_learn_as_their_layer_and_what_looks_ahead_as_the_top() -> None:
    class Adapted(Model):
        def __init__(self) -> None:
            super().__init__()
            self.adapters = nn.ModuleDict({f"{i}_ffn": nn.Linear(4, 4) for i in range(3)})
            self.future = FutureHeads(2, 4)

    model = Adapted()
    rate = {id(p): group["lr"] / 1e-3 for group in parameter_groups(model, config(layer_decay=0.5)) for p in group["params"]}
    assert [rate[id(model.adapters[f"{i}_ffn"].weight)] for i in range(3)] == [0.125, 0.25, 0.5]
    assert [rate[id(p)] for p in model.future.parameters()] == [1, 1]


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant", "warmup_stable_decay"])
def test_the_rate_rises_first_and_never_leaves_its_bounds(schedule: str) -> None:
    settings = config(steps=100, warmup_fraction=0.1, schedule=schedule, min_rate_fraction=0.2)
    rates = [rate_factor(settings, step) for step in range(101)]
    assert rates[0] == 0
    assert rates[10] == max(rates) == 1
    assert rates[:11] == sorted(rates[:11])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[100] == pytest.approx(1 if schedule == "constant" else 0.2)


def hostfile(folder: Path, text: str) -> Path:
    path = folder / "hosts"
    path.write_text(text)
    return path


def test_a_hostfile_gives_as_many_hosts_as_asked_for(tmp_path: Path) -> None:
    path = hostfile(tmp_path, "# the cluster\nnode1 slots=4\n\nnode2 slots=8  # bigger\nnode3 slots=4\n")
    assert read_hostfile(path, config(nodes=2, processes=4, batch_size=8)) == [Host("node1", 4), Host("node2", 8)]
    assert not Host("node1", 4).is_here
    assert Host("localhost", 1).is_here


def test_a_host_is_known_by_its_short_name_and_by_its_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {"node01-ib": "127.0.0.1", "node02": "192.0.2.7"}  # the second is an address of nobody (RFC 5737)

    def resolve(name: str, *_: Any, **__: Any) -> list[Any]:
        if name not in asked:
            raise socket.gaierror(name)
        return [(socket.AF_INET, socket.SOCK_DGRAM, 0, "", (asked[name], 0))]

    monkeypatch.setattr(socket, "gethostname", lambda: "node01.cluster")
    monkeypatch.setattr(socket, "getfqdn", lambda: "node01.cluster")
    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    launch._is_this_machine.cache_clear()
    try:
        found = [name for name in ("node01", "node01.cluster", "node01-ib", "node02", "node03") if Host(name, 1).is_here]
    finally:
        launch._is_this_machine.cache_clear()
    assert found == ["node01", "node01.cluster", "node01-ib"]


def test_a_hostfile_is_named_from_the_folder_of_the_recipe(tmp_path: Path) -> None:
    hostfile(tmp_path, "node1 slots=1\nnode2 slots=1\n")
    two = config(nodes=2, hostfile="hosts")
    assert with_hostfile(two, tmp_path).hostfile == str(tmp_path / "hosts")
    assert with_hostfile(config(), tmp_path).hostfile is None
    with pytest.raises(ConfigError, match="there is no such file"):
        with_hostfile(two, tmp_path / "elsewhere")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("node1 4\nnode2 slots=4\n", r"line 1: found 'node1 4', expected 'host slots=number'"),
        ("node1 slots=4\n", "has 1 hosts, but nodes is 2"),
        ("node1 slots=4\n# again\nnode1 slots=4\n", r"line 3: found node1 a second time \(first in line 1\), expected once"),
        ("node1 slots=4\nnode2 slots=1\n", r"node2 has fewer slots than processes \(4\)"),
    ],
)
def test_a_wrong_hostfile_is_refused_with_its_line(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        read_hostfile(hostfile(tmp_path, text), config(nodes=2, processes=4, batch_size=8))


def test_a_hostfile_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no such file"):
        read_hostfile(tmp_path / "none", config(nodes=2, batch_size=8))
