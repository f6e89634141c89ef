"""The one training path of pretrain and finetune: Hugging Face Trainer with DeepSpeed, resumable bit for bit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from biollm.core.errors import DataError
from biollm.core.progress import BAR_DELAY_SECONDS, quiet_libraries, say
from biollm.core.seeding import derive_seed
from biollm.modeling.encoding import Encoder
from biollm.training.checkpoints import keep_newest, load_tree, newest_valid, random_state, restore_random_state, save_tree, seal
from biollm.training.config import TrainingConfig
from biollm.training.deepspeed import deepspeed_config, start_single_process, use_bf16
from biollm.training.examples import TrainingPlan, collate

_KEPT_CHECKPOINTS = 2


@dataclass(frozen=True)
class Trained:
    """What came out of a run. history: points of the training curve; weights: trained parameters by name, in float32."""

    history: list[dict[str, float]]
    weights: dict[str, Tensor]
    precision: str


def train(
    module: nn.Module,
    plan: TrainingPlan,
    encoder: Encoder,
    loss: Callable[..., Tensor],
    config: TrainingConfig,
    *,
    seed: int,
    work: Path,
    logs: Path,
    what: str,
) -> Trained:
    """Train the parameters of `module` that require gradients; `plan` has exactly the positions of the whole run.

    If `work` holds a valid checkpoint of this run, goes on from it with the same result as if never interrupted.
    Raises DataError if the loss stops being a number, naming the step.
    """
    quiet_libraries()
    start_single_process()
    from transformers import Trainer, TrainerCallback, TrainingArguments
    from transformers.trainer_callback import PrinterCallback

    class SealedTrainer(Trainer):  # type: ignore[misc]
        """Replaces the Trainer's pickled, unsealed checkpoints by ours; all else is the stock loop."""

        def _save_checkpoint(self, model: Any, trial: Any) -> None:
            folder = work / f"checkpoint-{self.state.global_step}"
            folder.mkdir(parents=True, exist_ok=True)
            engine = self.model_wrapped
            save_tree(
                folder,
                {
                    "weights": {name: p for name, p in engine.module.named_parameters() if p.requires_grad},
                    "optimizer": engine.optimizer.state_dict(),
                    "scheduler": self.lr_scheduler.state_dict(),
                    "engine": {name: getattr(engine, name) for name in _ENGINE_COUNTERS},
                    "random": random_state(),
                },
            )
            self.state.save_to_json(str(folder / "trainer_state.json"))
            seal(folder)
            keep_newest(work, _KEPT_CHECKPOINTS)

        def _prepare_for_training(self, max_steps: int, train_dataloader: Any, resume_from_checkpoint: Any) -> Any:
            prepared = super()._prepare_for_training(max_steps, train_dataloader, None)
            if resume_from_checkpoint is not None:
                self._restore(load_tree(Path(resume_from_checkpoint)))
            return prepared

        def _restore(self, tree: dict[str, Any]) -> None:
            engine = self.model_wrapped
            with torch.no_grad():
                for name, parameter in engine.module.named_parameters():
                    if parameter.requires_grad:
                        parameter.copy_(tree["weights"][name])
            engine.optimizer.load_state_dict(tree["optimizer"])
            self.lr_scheduler.load_state_dict(tree["scheduler"])
            for name, value in tree["engine"].items():
                setattr(engine, name, value)

        def _load_rng_state(self, checkpoint: str | None) -> None:
            if checkpoint is not None:
                restore_random_state(load_tree(Path(checkpoint))["random"])

    class Watch(TrainerCallback):  # type: ignore[misc]
        """The progress bar, and the end of a run whose loss is no number."""

        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.bar = tqdm(total=state.max_steps, initial=state.global_step, desc=what, unit="step", delay=BAR_DELAY_SECONDS, leave=False)

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.bar.update()

        def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **kwargs: Any) -> None:
            if "loss" in logs:
                if not torch.isfinite(torch.tensor(float(logs["loss"]))):
                    raise DataError(
                        f"{what}: the loss is {logs['loss']} at step {state.global_step}; lower learning_rate or set precision: fp32"
                    )
                self.bar.set_postfix_str(f"loss {float(logs['loss']):.3f}")

        def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.bar.close()

    bf16 = use_bf16(config.precision)
    arguments = TrainingArguments(
        output_dir=str(work),
        max_steps=config.steps,
        per_device_train_batch_size=config.batch_size,
        gradient_accumulation_steps=config.gradient_accumulation,
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        lr_scheduler_type="linear",
        warmup_steps=round(config.warmup_fraction * config.steps),
        bf16=bf16,
        deepspeed=deepspeed_config(config, bf16),
        use_cpu=not torch.cuda.is_available(),
        logging_steps=config.log_steps,
        logging_nan_inf_filter=False,
        save_strategy="steps",
        save_steps=config.checkpoint_steps,
        train_sampling_strategy="sequential",  # the plan has the order
        remove_unused_columns=False,
        dataloader_num_workers=0,
        report_to=[],
        disable_tqdm=True,
        seed=derive_seed(seed, "trainer") % 2**31,
    )
    torch.manual_seed(derive_seed(seed, "dropout"))
    trainer = SealedTrainer(
        model=module,
        args=arguments,
        train_dataset=plan,
        data_collator=lambda examples: collate(examples, encoder),
        compute_loss_func=loss,
        callbacks=[Watch(), _tensorboard(logs)],
    )
    trainer.remove_callback(PrinterCallback)
    checkpoint = newest_valid(work)
    if checkpoint is not None:
        say(f"{what}: going on from {checkpoint.name}")
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    if trainer.state.global_step != config.steps:
        raise DataError(f"{what}: ended at step {trainer.state.global_step} of {config.steps}; run again to go on")
    return Trained(_curve(trainer.state.log_history), _master_weights(trainer.model_wrapped), "bf16" if bf16 else "fp32")


_ENGINE_COUNTERS = ("global_steps", "global_samples", "micro_steps", "skipped_steps")


def load_trained(module: nn.Module, weights: dict[str, Tensor]) -> None:
    """Put trained weights into a module of the same make. Names that it does not know would be left untrained in silence: a bug."""
    unknown = module.load_state_dict(weights, strict=False).unexpected_keys
    assert not unknown, unknown


def _master_weights(engine: Any) -> dict[str, Tensor]:
    """The trained parameters in float32: the optimiser's master copies where the model itself computes in bfloat16."""
    optimizer = engine.optimizer
    masters: dict[int, Tensor] = {}
    for low, high in zip(getattr(optimizer, "fp16_groups", []), getattr(optimizer, "fp32_groups", []), strict=True):
        masters |= {id(parameter): master for parameter, master in zip(low, high, strict=True)}
    trained = [parameter for parameter in engine.module.parameters() if parameter.requires_grad]
    assert all(parameter.dtype == torch.float32 or id(parameter) in masters for parameter in trained), "DeepSpeed kept no master copy"
    return {
        name: masters.get(id(parameter), parameter).detach().float().cpu().clone()
        for name, parameter in engine.module.named_parameters()
        if parameter.requires_grad
    }


def _curve(log_history: Sequence[dict[str, Any]]) -> list[dict[str, float]]:
    return [
        {"step": int(entry["step"]), "loss_nats": float(entry["loss"]), "learning_rate": float(entry["learning_rate"])}
        for entry in log_history
        if "loss" in entry
    ]


def _tensorboard(logs: Path) -> Any:
    from torch.utils.tensorboard import SummaryWriter
    from transformers.integrations import TensorBoardCallback

    return TensorBoardCallback(SummaryWriter(log_dir=str(logs)))
