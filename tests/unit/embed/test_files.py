"""A file of any size into shards: whole ones only, continued where a run was killed, by one writer."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from biollm import Embedder
from biollm.core.errors import ArtifactError, DataError, ResourceError
from biollm.core.files import read_json, write_json
from biollm.embed.files import MANIFEST, FileJob, embed_file, part_name
from biollm.embed.settings import Settings

RECORDS, ROWS = 50, 8


@pytest.fixture
def job(merged: Path, tmp_path: Path, dna: Callable[[int, int], str], fasta_text: Callable[..., str]) -> FileJob:
    source = tmp_path / "a.fa"
    source.write_text(fasta_text({f"r{i}": dna(20 + i, i) for i in range(RECORDS)}))
    return FileJob(str(merged), source, tmp_path / "out", Settings(), rows_per_part=ROWS)


def vectors(out: Path) -> Any:
    return np.asarray(pl.read_parquet(out / "part-*.parquet")["embedding"].to_list(), dtype=np.float32)


def changed(job: FileJob, **values: Any) -> FileJob:
    return FileJob(**{**{name: getattr(job, name) for name in job.__dataclass_fields__}, **values})


def test_row_i_of_all_parts_is_record_i_and_a_second_run_has_nothing_to_do(job: FileJob, dna: Callable[[int, int], str]) -> None:
    made = embed_file(job)
    assert (made.complete, made.records, made.parts, made.dimension) == (True, RECORDS, 7, 32)
    assert pl.read_parquet(job.out / "part-*.parquet")["id"].to_list() == [f"r{i}" for i in range(RECORDS)]
    wanted = Embedder(job.model).embed([dna(20 + i, i) for i in range(RECORDS)])
    assert np.abs(vectors(job.out) - wanted).max() < 1e-5
    stamps = {file.name: file.stat().st_mtime_ns for file in job.out.glob("part-*")}
    assert embed_file(job) == made
    assert stamps == {file.name: file.stat().st_mtime_ns for file in job.out.glob("part-*")}
    assert not list(job.out.glob(".*.tmp"))


@pytest.mark.parametrize("rows", [1, 6])
def test_a_soft_masked_record_has_the_same_vector_in_a_part_of_any_size(
    job: FileJob, dna: Callable[[int, int], str], fasta_text: Callable[..., str], rows: int
) -> None:
    records = [dna(60, 1).lower(), "ACGT", dna(30, 2) + dna(30, 3).lower(), "nnnn" + dna(30, 4), dna(40, 5), dna(9, 6).lower()]
    job.source.write_text(fasta_text({f"r{i}": record for i, record in enumerate(records)}))
    embed_file(changed(job, rows_per_part=rows))
    wanted = np.concatenate([Embedder(job.model, input="sequence").embed([record]) for record in records])
    assert np.abs(vectors(job.out) - wanted).max() < 1e-5


def test_parts_are_of_one_size_whatever_the_row_groups_and_tracks_come_along(
    measured: Path, tmp_path: Path, dna: Callable[[int, int], str], levels: Callable[[int, int], Any]
) -> None:
    table = pl.DataFrame(
        {"name": [f"r{i}" for i in range(20)], "dna": [dna(30, i) for i in range(20)], "track_meth": [levels(30, i) for i in range(20)]}
    )
    table.write_parquet(tmp_path / "a.parquet", row_group_size=5)
    settings = Settings(input="sequence", strands="both")
    made = embed_file(FileJob(str(measured), tmp_path / "a.parquet", tmp_path / "out", settings, "dna", "name", rows_per_part=8))
    assert [pl.read_parquet(file).height for file in sorted((tmp_path / "out").glob("part-*"))] == [8, 8, 4]
    assert (made.records, made.parts) == (20, 3)
    wanted = Embedder(measured, input="sequence", strands="both").embed(table, column="dna")
    assert np.abs(vectors(tmp_path / "out") - wanted).max() < 1e-5


def test_a_killed_run_goes_on_behind_its_last_whole_part(job: FileJob) -> None:
    embed_file(changed(job, out=job.out.with_name("whole")))
    command = ["embed-file", job.model, job.source, "-o", job.out, "--rows-per-part", "8"]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3]), "OMP_NUM_THREADS": "1"}
    code = (  # the real command, slowed down so that the kill falls between parts
        "import time, biollm.embed.files as f; write = f._write_part\n"
        "f._write_part = lambda *a: (write(*a), time.sleep(0.3))\n"
        "from biollm.cli import main; main()"
    )
    process = subprocess.Popen([sys.executable, "-c", code, *map(str, command)], env=environment)
    while process.poll() is None and not (job.out / part_name(2)).exists():
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert read_json(job.out / MANIFEST)["complete"] is False
    (job.out / f".{part_name(4)}.tmp").write_bytes(b"half")  # as if it had been cut while it wrote
    kept = {name: (job.out / name).stat().st_mtime_ns for name in map(part_name, range(3))}
    made = embed_file(job)
    assert made.complete
    assert kept == {name: (job.out / name).stat().st_mtime_ns for name in kept}, "whole parts are not made again"
    assert np.abs(vectors(job.out) - vectors(job.out.with_name("whole"))).max() < 1e-6


def test_a_folder_begun_from_something_else_is_refused(job: FileJob, folder_of: Callable[[str], Path]) -> None:
    embed_file(job)
    with pytest.raises(ArtifactError, match=r"out: was begun from something else: pooling was mean, is max; put that back to go on"):
        embed_file(changed(job, settings=Settings(pooling="max")))
    with pytest.raises(ArtifactError, match="was begun from something else: model was"):
        embed_file(changed(job, model=str(folder_of("bert"))))
    with pytest.raises(ArtifactError, match="was begun from something else: rows_per_part was 8, is 9"):
        embed_file(changed(job, rows_per_part=9))
    assert embed_file(changed(job, settings=Settings(tokens_per_batch=128))).complete, "how fast it goes is no other result"
    job.source.write_text(">a\nACGTACGTACGTACGT\n")
    with pytest.raises(ArtifactError, match="was begun from something else: input was"):
        embed_file(job)


def test_a_second_writer_is_refused(job: FileJob) -> None:
    job.out.mkdir()
    with (job.out / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(ArtifactError, match="another process is writing embeddings there; wait for it, or choose another folder"):
            embed_file(job)


def test_a_folder_with_other_files_damaged_or_missing_parts_is_refused(job: FileJob) -> None:
    job.out.mkdir()
    (job.out / "mine.txt").write_text("x")
    with pytest.raises(ArtifactError, match=r"holds mine.txt, which embed-file did not write; choose a new folder"):
        embed_file(job)
    (job.out / "mine.txt").unlink()
    embed_file(job)
    last = (job.out / part_name(6)).read_bytes()
    (job.out / part_name(6)).write_bytes((job.out / part_name(5)).read_bytes())
    with pytest.raises(ArtifactError, match=r"part-00006.parquet: holds 8 records, but 2 were written; remove .*out, and run again"):
        embed_file(job)
    (job.out / part_name(6)).write_bytes(last)
    assert embed_file(job).complete
    (job.out / part_name(6)).unlink()
    with pytest.raises(ArtifactError, match=r"part-00006.parquet: is missing of a folder that was whole"):
        embed_file(job)
    (job.out / part_name(2)).write_bytes(b"half")
    with pytest.raises(ArtifactError, match=r"part-00002.parquet: not a whole Parquet file; remove .*out, and run again"):
        embed_file(job)
    begun = read_json(job.out / MANIFEST)
    write_json(job.out / MANIFEST, begun | {"complete": False})
    with pytest.raises(ArtifactError, match=r"part-00002.parquet: not a whole Parquet file; remove it, and run the same command again"):
        embed_file(job)
    write_json(job.out / MANIFEST, begun | {"made_from": begun["made_from"] | {"settings": "x"}})
    with pytest.raises(ArtifactError, match=r"was begun from something else: settings was x, is"):
        embed_file(job)


def test_what_failed_before_its_first_part_may_be_begun_otherwise(job: FileJob, measured: Path) -> None:
    with pytest.raises(DataError, match=r"measured tracks .* \(in a table: columns track_<channel>\), or withhold them .* --tracks off"):
        embed_file(changed(job, model=str(measured)))
    assert embed_file(changed(job, model=str(measured), settings=Settings(tracks="off"))).complete


def test_a_missing_file_is_refused(job: FileJob) -> None:
    with pytest.raises(ResourceError, match="no such file; give a FASTA or Parquet file"):
        embed_file(changed(job, source=job.source.with_name("none.fa")))
    assert not job.out.exists()


def test_a_folder_of_a_version_without_a_setting_goes_on(job: FileJob) -> None:
    whole = embed_file(job)
    manifest = read_json(job.out / MANIFEST)
    assert manifest["made_from"]["settings"].pop("modality") is None
    write_json(job.out / MANIFEST, manifest)
    assert embed_file(job).records == whole.records
