"""One process of a training run: the stock Trainer, with our loss, our order, our checkpoints."""

from __future__ import annotations

import math
import os
import shutil
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from biollm.core.errors import ConfigError, DataError, first_line
from biollm.core.files import write_json
from biollm.core.progress import BAR_DELAY_SECONDS, quiet_libraries
from biollm.core.seeding import derive_seed
from biollm.training.checkpoints import TRAINER_STATE, is_valid, keep_newest, load_tree, random_state, restore_random_state, save_tree, seal
from biollm.training.config import TrainingConfig
from biollm.training.deepspeed import deepspeed_config, has_cuda, join_process_group, use_bf16
from biollm.training.engine import full_weights, keep_gradient_norm, own_shares
from biollm.training.estimate import memory_knobs
from biollm.training.optimizer import make_optimizer, rate_factor
from biollm.training.processes import is_first, of_first_process, rank, summed_over_processes, wait_for_all
from biollm.training.run import RunSettings
from biollm.training.task import BEST, FACTS, TRAINED, WEIGHTS, Plan, Recipe, Task

_KEPT_CHECKPOINTS = 2
_ENGINE_COUNTERS = ("global_steps", "global_samples", "micro_steps", "skipped_steps")


def fit(run: dict[str, Any]) -> None:
    """Train what `run` describes (see training.run) and seal the result, in this process as one of its process group."""
    quiet_libraries()
    if has_cuda():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))  # where the task puts its model
    config, settings = TrainingConfig(**run["config"]), RunSettings(**run["settings"])
    with told_out_of_memory(f"{settings.what}, while the model is loaded"):
        task = Recipe(**run["recipe"]).make()  # before TrainingArguments is made: with ZeRO 3 it changes how models are loaded
    work, logs = Path(run["work"]), Path(run["logs"])
    join_process_group()
    checkpoint = Path(run["checkpoint"]) if run["checkpoint"] else None
    try:
        with told_out_of_memory(settings.what, memory_knobs(config)), _told_tracker(settings.what, config.trackers):
            threads = torch.get_num_threads()
            trainer = make_trainer(task, config, settings, work, logs, checkpoint)
            torch.set_num_threads(threads)  # accelerate sets what it thinks best; the count decides the last bits of every sum
            if not trainer.ended_early:
                trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
            trainer.write_result()
    finally:
        forget_deepspeed()


@contextmanager
def told_out_of_memory(where: str, remedy: str = "take a smaller model, or a machine with more memory") -> Iterator[None]:
    """Within it, memory that runs out, be it torch's or NumPy's, is a DataError that says where, and what to do."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:  # torch.OutOfMemoryError is a RuntimeError, NumPy's a MemoryError
        if isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error):
            raise DataError(
                f"{where}: out of memory; nothing is lost: {remedy}, and run again to go on from the last checkpoint, if there is one"
            ) from error
        raise


@contextmanager
def _told_tracker(where: str, trackers: Sequence[str]) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        owner = type(error).__module__.partition(".")[0]
        if owner not in trackers:
            raise
        raise ConfigError(
            f"{where}: {owner} gave up: {first_line(error).rstrip('.')}; put that right, or leave {owner} out of trackers, and run again "
            "to go on from the last checkpoint"
        ) from error


def forget_deepspeed() -> None:
    """Undo what ZeRO 3 leaves behind in this process: models would be loaded as shares from then on, and nn.functional.linear is
    DeepSpeed's own, which quantised tensors do not know."""
    from accelerate.state import AcceleratorState
    from deepspeed.runtime.zero.linear import zero3_linear_wrap
    from deepspeed.runtime.zero.partition_parameters import InsertPostInitMethodToModuleSubClasses
    from transformers.integrations.deepspeed import unset_hf_deepspeed_config

    unset_hf_deepspeed_config()
    AcceleratorState._reset_state()
    if torch.nn.functional.linear is zero3_linear_wrap:
        torch.nn.functional.linear = InsertPostInitMethodToModuleSubClasses.linear_bk


def make_trainer(task: Task, config: TrainingConfig, settings: RunSettings, work: Path, logs: Path, checkpoint: Path | None) -> Any:
    """The Trainer of a task; the process has joined its group. checkpoint: what it will be resumed from, so that its data begin there."""
    from transformers import Trainer, TrainingArguments
    from transformers.trainer_callback import PrinterCallback, TrainerState

    bf16, meter = use_bf16(config.precision), Meter()

    class OurTrainer(Trainer):  # type: ignore[misc]
        """The stock loop. Ours are the loss's divisor, the optimiser, validation, and checkpoints: sealed, and without pickle at ZeRO 0."""

        loss_is_scaled_for_ga = True
        _step_positions: tuple[int, ...] = ()
        _resumed_from: Path | None = None

        def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
            if self.optimizer is None:  # type: ignore[has-type]
                self.optimizer = make_optimizer(task.module, config)
            return self.optimizer

        def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> Any:
            if self.lr_scheduler is None:  # type: ignore[has-type]
                self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer or self.optimizer, lambda step: rate_factor(config, step))
            return self.lr_scheduler

        def _get_num_items_in_batch(self, batch_samples: list[dict[str, Tensor]], device: torch.device) -> Tensor:
            """What the loss of the whole step is divided by: all processes and accumulated passes together. A step that asks nothing has
            the loss 0, and gradients of 0."""
            return summed_over_processes(torch.stack([batch["count"] for batch in batch_samples]).sum()).clamp(min=1).to(device)

        def compute_loss(
            self, model: Any, inputs: dict[str, Tensor], return_outputs: bool = False, num_items_in_batch: Tensor | None = None
        ) -> Tensor:
            positions = inputs.pop("positions")
            total: Tensor = model(**inputs)
            label_loss = getattr(task.module, "label_loss", None)
            meter.add(inputs, total if label_loss is None else label_loss)
            self._step_positions += tuple(positions.tolist())
            if not torch.isfinite(total):
                raise self._not_a_number(f"the loss is {total.item()}", positions.tolist())
            assert num_items_in_batch is not None
            return total / num_items_in_batch * config.world_size  # DeepSpeed averages gradients over processes

        def _not_a_number(self, found: str, positions: Sequence[int]) -> DataError:
            names = [name for position in positions for name in task.plan.names(position)]
            return DataError(
                f"{settings.what}: {found} at step {self.state.global_step + 1}, on {_shortened(names)}; the last "
                "checkpoint is kept. Lower learning_rate, or set precision: fp32, and look at these records"
            )

        def _check_gradients(self) -> None:
            """Behind the last pass of a step: an optimiser that was given such gradients has written them into the weights by now, or
            DeepSpeed has left the step out."""
            norm = self.model_wrapped.get_global_grad_norm()
            if norm is not None and not (math.isfinite(norm) and norm >= 0):  # where parts of it are no number, DeepSpeed says -1
                raise self._not_a_number("the norm of the gradients is no finite number", self._step_positions)
            self._step_positions = ()

        def _check_weights(self, weights: Iterable[tuple[str, Tensor]]) -> None:
            bad = next((name for name, tensor in weights if not torch.isfinite(tensor).all()), None)
            if bad is not None:
                raise DataError(
                    f"{settings.what}: weights of {bad} are no finite numbers behind step {self.state.global_step}; they are not "
                    "written, and the last checkpoint is kept. Lower learning_rate, or set precision: fp32"
                )

        def _save_checkpoint(self, model: Any, trial: Any) -> None:
            if self.state.global_step % config.checkpoint_steps:
                return  # the Trainer asks once more behind the last step, but the weights are written next
            folder = work / f"checkpoint-{self.state.global_step}"
            self._check_weights(own_shares(self.model_wrapped))
            if is_first():
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir(parents=True)
            wait_for_all()
            engine = self.model_wrapped
            save_tree(folder / f"rank-{rank()}", {"random": random_state()})
            if config.zero:
                engine.save_checkpoint(str(folder), tag="zero", save_latest=False, exclude_frozen_parameters=True)
            if is_first():
                state: dict[str, Any] = {"scheduler": self.lr_scheduler.state_dict()}
                if not config.zero:
                    state |= {
                        "weights": {name: p for name, p in engine.module.named_parameters() if p.requires_grad},
                        "optimizer": engine.optimizer.state_dict(),
                        "engine": {name: getattr(engine, name) for name in _ENGINE_COUNTERS},
                    }
                save_tree(folder, state)
                self.state.save_to_json(str(folder / TRAINER_STATE))
                write_json(folder / "world.json", {"processes": config.world_size, "zero": config.zero, "bf16": bf16})
            wait_for_all()
            if is_first():
                seal(folder)
                keep_newest(work, _KEPT_CHECKPOINTS)
            wait_for_all()

        def _prepare_for_training(self, max_steps: int, train_dataloader: Any, resume_from_checkpoint: Any) -> Any:
            prepared = super()._prepare_for_training(max_steps, train_dataloader, None)
            if not config.zero and not bf16:
                keep_gradient_norm(self.model_wrapped)
            if resume_from_checkpoint is not None:
                self._restore(Path(resume_from_checkpoint))
            return prepared

        def _restore(self, folder: Path) -> None:
            engine, tree = self.model_wrapped, load_tree(folder)
            if config.zero:
                tag = "zero_universal" if _is_universal(folder) else "zero"
                engine.load_checkpoint(str(folder), tag=tag, load_module_strict=False, load_lr_scheduler_states=False)
            else:
                with torch.no_grad():
                    for name, parameter in engine.module.named_parameters():
                        if parameter.requires_grad:
                            parameter.copy_(tree["weights"][name])
                engine.optimizer.load_state_dict(tree["optimizer"])
                for name, value in tree["engine"].items():
                    setattr(engine, name, value)
            self.lr_scheduler.load_state_dict(tree["scheduler"])
            self._resumed_from = folder

        def _load_rng_state(self, checkpoint: str | None) -> None:
            """Nothing: making an iterator over the data draws from torch's generator, so it is put right behind that, in training_step."""

        def training_step(self, model: Any, inputs: dict[str, Tensor], num_items_in_batch: Tensor | None = None) -> Tensor:
            if self._resumed_from is not None:
                own = self._resumed_from / f"rank-{rank()}"
                if own.is_dir():  # not there for processes that the run did not have when it was cut
                    restore_random_state(load_tree(own)["random"])
                self._resumed_from = None
            loss: Tensor = super().training_step(model, inputs, num_items_in_batch)
            if self.accelerator.sync_gradients:
                self._check_gradients()
            return loss

        def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
            if "loss" in logs:
                logs |= meter.read(getattr(task.module, "label_loss", None) is not None)
            super().log(logs, start_time)

        def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
            """Validation scores into the log; the best weights are kept."""
            assert task.validate is not None
            task.module.eval()
            scores = {f"validation_{name}": value for name, value in task.validate().items()}
            task.module.train()
            self.log(dict(scores))
            self.control.should_evaluate = False  # or the Trainer would ask again behind the last step
            loss, best = of_first_process(scores["validation_loss"]), self.state.best_metric
            if not math.isfinite(loss):
                raise DataError(
                    f"{settings.what}: the loss on the validation split is {loss} behind step {self.state.global_step}; the last "
                    "checkpoint is kept. Lower learning_rate, or set precision: fp32"
                )
            if best is None or loss < best:
                self.state.best_metric, self.state.best_global_step = loss, self.state.global_step
                self._write_weights(work / BEST, self.state.global_step, full_weights(self.model_wrapped, config.zero, keep=is_first()))
            elif self.ended_early:
                self.control.should_training_stop = True
            return scores

        @property
        def ended_early(self) -> bool:
            """Whether as many validations as `patience` went by without a better score, before or behind a resume."""
            if not settings.patience or self.state.best_metric is None:
                return False
            return bool((self.state.global_step - self.state.best_global_step) // (settings.validate_steps or 1) >= settings.patience)

        def _write_weights(self, folder: Path, step: int, weights: dict[str, Tensor]) -> None:
            """Weights of a step and the curves so far, as a sealed folder."""
            self._check_weights(weights.items())
            if is_first():
                partial = folder.with_name(f".{folder.name}.partial")
                shutil.rmtree(partial, ignore_errors=True)
                partial.mkdir(parents=True)
                save_file(weights, str(partial / WEIGHTS))
                history = self.state.log_history
                facts = {
                    "history": [_point(entry) for entry in history if "loss" in entry],
                    "validation": [_validation_point(entry) for entry in history if "validation_loss" in entry],
                    "step": step,
                    "steps": self.state.global_step,
                    "precision": "bf16" if bf16 else "fp32",
                    "threads": torch.get_num_threads(),
                }
                write_json(partial / FACTS, facts)
                seal(partial)
                shutil.rmtree(folder, ignore_errors=True)
                partial.rename(folder)
            wait_for_all()

        def write_result(self) -> None:
            """Seal the result: the last weights, or the best where the run was validated."""
            if self.state.global_step < config.steps and not self.ended_early:
                raise DataError(f"{settings.what}: ended at step {self.state.global_step} of {config.steps}; run again to go on")
            if settings.validate_steps is not None and self.state.best_metric is not None:
                if not is_valid(work / BEST):
                    raise DataError(
                        f"{settings.what}: {work / BEST}, the weights of the best validation (step {self.state.best_global_step}), were "
                        "changed after they were written; run again to go back to a checkpoint before that step"
                    )
                step, weights = self.state.best_global_step, load_file(str(work / BEST / WEIGHTS))
            else:
                step, weights = self.state.global_step, full_weights(self.model_wrapped, config.zero, keep=is_first())
            self._write_weights(work / TRAINED, step, weights)

    arguments = TrainingArguments(
        output_dir=str(work),
        max_steps=config.steps,
        per_device_train_batch_size=config.micro_batch_size,
        gradient_accumulation_steps=config.gradient_accumulation,
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        bf16=bf16,
        deepspeed=deepspeed_config(config, bf16, universal=checkpoint is not None and _is_universal(checkpoint)),
        use_cpu=not has_cuda(),
        logging_steps=min(config.log_steps, config.steps),  # a short run has a point of its curve too
        logging_nan_inf_filter=False,
        save_strategy="steps",
        save_steps=config.checkpoint_steps,
        eval_strategy="no" if settings.validate_steps is None else "steps",
        eval_steps=settings.validate_steps,
        train_sampling_strategy="sequential",  # the plan has the order
        ignore_data_skip=True,  # a resumed run begins at its position instead of counting up to it
        remove_unused_columns=False,
        dataloader_num_workers=0,
        run_name=settings.what,
        report_to=[name for name in config.trackers if name != "tensorboard"] if is_first() else [],
        disable_tqdm=True,
        seed=derive_seed(settings.seed, "trainer", *filter(None, [rank()])) % 2**31,  # the Trainer seeds dropout with it
    )
    start = 0 if checkpoint is None else int(checkpoint.name.split("-")[1]) * config.batch_size
    trainer = OurTrainer(
        model=task.module,
        args=arguments,
        train_dataset=_Positions(task.plan, start),
        eval_dataset=_Positions(task.plan, 0) if settings.validate_steps else None,  # asked for by the Trainer, read by nobody
        data_collator=lambda items: _collate(task, items),
        callbacks=[_watch(settings.what), *([_tensorboard(logs)] if "tensorboard" in config.trackers and is_first() else [])],
    )
    trainer.remove_callback(PrinterCallback)
    if checkpoint is not None:
        trainer.state = TrainerState.load_from_json(str(checkpoint / TRAINER_STATE))
    return trainer


class _Positions(Dataset[tuple[int, Any]]):
    """A plan from a position on. The end is not checked: the Trainer stops by steps, but reads one batch ahead."""

    def __init__(self, plan: Plan, start: int) -> None:
        self._plan, self._start = plan, start

    def __len__(self) -> int:
        return len(self._plan)

    def __getitem__(self, i: int) -> tuple[int, Any]:
        position = min(self._start + i, len(self._plan) - 1)
        return position, self._plan[position]


def _collate(task: Task, items: Sequence[tuple[int, Any]]) -> dict[str, Tensor]:
    batch = task.collate([item for _, item in items])
    return batch | {"positions": torch.tensor([position for position, _ in items])}


class Meter:
    """What is seen of a run while it goes on, since the last look, over all processes: real tokens a second, the loss of the labels, and
    bits per base, residue or byte (or nothing, where labels stand for none)."""

    def __init__(self) -> None:
        self._forget()

    def _forget(self) -> None:
        # tokens, units, labels, nats: nobody waits for a GPU before they are read
        self._seen: list[Tensor | int] = [0, 0, 0, 0]
        self._started = time.monotonic()

    def add(self, batch: dict[str, Tensor], nats: Tensor) -> None:
        """nats: summed over the labels of the batch."""
        tokens = batch["attention_mask"].sum() if "attention_mask" in batch else batch["input_ids"].numel()
        passed = (tokens, batch.get("units", 0), batch["count"], nats.detach().double())
        self._seen = [before + more for before, more in zip(self._seen, passed, strict=True)]

    def read(self, with_label_loss: bool) -> dict[str, float]:
        """Asked by all processes at the same step. with_label_loss: whether what is trained on is more than that."""
        own = torch.tensor([float(value) for value in self._seen], dtype=torch.float64)
        tokens, units, count, nats = summed_over_processes(own).tolist()
        seen = {"tokens_per_second": tokens / max(time.monotonic() - self._started, 1e-9)}
        if units:
            seen["bits_per_base"] = nats / math.log(2) / units
        if with_label_loss:
            seen["label_loss"] = nats / max(count, 1)
        self._forget()
        return seen


def _watch(what: str) -> Any:
    """The progress bar, with loss, bits per base, tokens a second and the time to go."""
    from transformers import TrainerCallback

    class Watch(TrainerCallback):  # type: ignore[misc]
        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.bar = tqdm(
                total=state.max_steps, initial=state.global_step, desc=what, unit="step", delay=BAR_DELAY_SECONDS, leave=False,
                disable=not is_first(), mininterval=0.1 if sys.stderr.isatty() else 5.0,
            )  # fmt: skip

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.bar.update()

        def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **kwargs: Any) -> None:
            if "loss" in logs:
                bits = f", {logs['bits_per_base']:.2f} bits/base" if "bits_per_base" in logs else ""
                self.bar.set_postfix_str(f"loss {logs['loss']:.3f}{bits}, {logs['tokens_per_second']:,.0f} tokens/s", refresh=False)

        def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.bar.close()

    return Watch()


def _point(entry: dict[str, Any]) -> dict[str, float]:
    losses = {f"{name}_nats": float(entry[name]) for name in ("loss", "label_loss") if name in entry}
    return {"step": int(entry["step"]), **losses, "learning_rate": float(entry["learning_rate"])}


def _validation_point(entry: dict[str, Any]) -> dict[str, float]:
    scores = {key.removeprefix("validation_"): float(value) for key, value in entry.items() if key.startswith("validation_")}
    return {"step": int(entry["step"])} | scores


def _shortened(names: Sequence[str]) -> str:
    return f"record{'s' if len(names) > 1 else ''} {', '.join(names[:8])}" + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def _is_universal(checkpoint: Path) -> bool:
    """Whether it was converted from another number of processes."""
    return (checkpoint / "zero_universal").is_dir()


def _tensorboard(logs: Path) -> Any:
    from torch.utils.tensorboard import SummaryWriter
    from transformers.integrations import TensorBoardCallback

    return TensorBoardCallback(SummaryWriter(log_dir=str(logs)))
