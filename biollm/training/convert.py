"""Checkpoints of one number of processes for another."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from biollm.core.artifacts import SEAL
from biollm.core.errors import DataError
from biollm.core.files import read_json
from biollm.core.progress import say
from biollm.training.checkpoints import is_valid, seal
from biollm.training.config import TrainingConfig
from biollm.training.deepspeed import use_bf16


def fit_to_processes(checkpoint: Path, config: TrainingConfig) -> Path:
    """The checkpoint itself where it was written by as many processes at the same ZeRO stage, else a converted copy beside it.

    At ZeRO 0 every process has all, so nothing is to be converted. DeepSpeed converts the shares of ZeRO 1-3 into its universal format.
    ZeRO 1 and 2 read each other's; ZeRO 3, where each process has a file of weights of its own, reads that of ZeRO 3 alone.
    Raises DataError if it cannot, or where the run would go on in another precision than it began in.
    """
    world = read_json(checkpoint / "world.json")
    if world["bf16"] != (bf16 := use_bf16(config.precision)):
        names = {True: "bf16", False: "fp32"}
        raise DataError(
            f"{checkpoint.name} was written in {names[world['bf16']]}, but with precision: {config.precision} this machine computes in "
            f"{names[bf16]}; go on where it began, or set precision: {names[bf16]} and remove {checkpoint.parent} to begin anew"
        )
    if (world["processes"] == config.world_size and world["zero"] == config.zero) or world["zero"] == config.zero == 0:
        return checkpoint
    before, now = f"{world['processes']} processes at zero {world['zero']}", f"{config.world_size} at zero {config.zero}"
    told = f"{checkpoint.name} was written by {before}; this run has {now}"
    if alone := [stage for stage in (0, 3) if (world["zero"] == stage) != (config.zero == stage)]:
        raise DataError(f"{told}, and DeepSpeed does not convert from or to zero {alone[0]}; set zero: {world['zero']} to go on")
    if config.zero == 3 and (config.weight_decay or config.layer_decay != 1):
        raise DataError(
            f"{told}, and at zero 3 DeepSpeed would give all weights the learning rate and weight decay of the first ones; go on with "
            f"{world['processes']} processes"
        )
    converted = checkpoint.parent / "converted" / checkpoint.name
    if is_valid(converted):
        return converted
    say(f"{told}: converting")
    shutil.rmtree(converted, ignore_errors=True)
    shutil.copytree(checkpoint, converted, ignore=shutil.ignore_patterns("zero", SEAL, "rank-*"))
    command = [sys.executable, "-m", "deepspeed.checkpoint.ds_to_universal", "--inject_missing_state"]
    command += ["--input_folder", str(checkpoint / "zero"), "--output_folder", str(converted / "zero_universal")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise DataError(f"{told}, and DeepSpeed could not convert it: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")
    seal(converted)
    return converted
