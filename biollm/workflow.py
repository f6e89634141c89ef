"""`biollm run`: Snakemake on workflows/Snakefile."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from biollm.core.artifacts import MANIFEST
from biollm.core.errors import ResourceError, storage_error
from biollm.core.machine import granted_cores
from biollm.core.progress import say
from biollm.stages import Run, Stage


def run_workflow(run: Run, overrides: list[str], cores: int | None, until: Stage | None) -> bool:
    """Bring every stage up to date, or those that `until` needs. Returns whether all are; a stage that fails says why itself."""
    wanted = run.needed_for(until) if until else run.stages
    stale = [stage for stage, artifact in run.state() if artifact is None and stage in wanted]
    if not stale:
        say(f"{run.recipe.name}: all {len(wanted)} stages are up to date, nothing to do")
        return True
    _check_writable(run.results)
    say(f"{run.recipe.name}: to do: {', '.join(stage.name for stage in stale)}")
    command = [
        sys.executable, "-m", "snakemake",
        "--snakefile", str(workflows_folder() / "Snakefile"),
        # Artifacts are whole or not there and carry their own locks, so Snakemake's locks and markers of a killed run need no
        # clearing by hand (snakemake#1871). Its own log stays in .snakemake/log.
        "--nolock", "--rerun-incomplete", "--quiet", "all",
        "--cores", str(cores or granted_cores()),
        # Snakemake goes by time stamps and parameters; these are the stages that our digests call stale.
        "--forcerun", *(stage.name for stage in stale),
        "--config", f"recipe={run.path}", f"out={run.results}", f"set={json.dumps(overrides)}",
        "--", *(str(run.folder(stage) / MANIFEST) for stage in wanted),
    ]  # fmt: skip
    finished = subprocess.run(command, stdout=subprocess.DEVNULL, check=False)
    if finished.returncode != 0:
        failed = [stage for stage, artifact in run.state() if artifact is None and stage in wanted]
        name = failed[0].name if failed else "Snakemake itself (its log is in .snakemake/log)"
        say(f"{run.recipe.name}: stopped at {name}; what was finished is kept: mend the cause and run the same command again")
    return finished.returncode == 0


def workflows_folder() -> Path:
    """Where the Snakefile is: inside an installed package, or beside it in a checkout."""
    package = Path(__file__).parent
    return next(folder for folder in (package / "_workflows", package.parent / "workflows") if folder.is_dir())


def _check_writable(results: Path) -> None:
    """Say that the results folder cannot be written before anything starts, not after."""
    probe = results / ".writable"
    try:
        results.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise storage_error(error, results) or ResourceError(
            f"{results}: cannot be made a results folder: {error.strerror}; choose another --out"
        ) from error
