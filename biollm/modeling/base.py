"""The base model as a normal folder: as it is, or converted once from GGUF."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from biollm.core.files import read_json, sha256_file, write_json
from biollm.core.progress import say
from biollm.core.resources import cache_folder
from biollm.modeling.gguf_base import gguf_to_folder, is_gguf


def normal_folder(folder: Path) -> tuple[Path, list[str]]:
    """A folder with config, safetensors and tokenizer.json for a base model, and what had to be changed to get one.

    A GGUF file, or a folder that holds one, is converted once into the cache ($BIOLLM_CACHE, or else ~/.cache/biollm). Other folders
    stay as they are.
    """
    file = is_gguf(folder) if folder.is_dir() else folder
    if file is None:
        return folder, []
    converted = cache_folder() / "bases" / sha256_file(file)[:20]
    notes = converted.with_suffix(".json")  # written last: the folder beside it is whole
    if not notes.is_file():
        say(f"converting {file.name} into a normal model folder, once")
        converted.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=converted.parent) as work:
            whole = Path(work) / "model"
            whole.mkdir()
            said = gguf_to_folder(file, whole)
            shutil.rmtree(converted, ignore_errors=True)
            whole.rename(converted)
        write_json(notes, {"notes": said})
    return converted, list(read_json(notes)["notes"])
