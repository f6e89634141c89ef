"""The recipe section `merge`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from biollm.core.recipe import Section


class IsolateConfig(Section):
    """A domain of sequences over an alphabet of its own: DNA, RNA, protein, SMILES."""

    strategy: Literal["isolate"] = Field(default="isolate", description="the residues get a private alphabet that no text uses")
    tokenizer: str | None = Field(
        default=None, description="folder of a domain tokenizer, for example ../tokenizers/dna-bpe-4096; default: the recipe's own"
    )
    runs: bool | None = Field(
        default=None, description="read runs of residue letters that are whole words as sequences; default: for DNA and RNA"
    )
    min_run: int = Field(default=12, ge=8, le=64, description="the shortest such run; shorter ones are text")
    tags: bool = Field(default=True, description="read what stands between <dna> and </dna>, <protein> and </protein>, … as a sequence")
    case: Literal["upper", "any"] = Field(
        default="upper",
        description="which letters count in runs and between tags; with any, decode gives lower-case sequences back in upper case; "
        "sequences known to be such are read in either case",
    )


class ContinueConfig(Section):
    """Words of a domain in the base's own letters."""

    strategy: Literal["continue"]
    name: str = Field(default="words", description="how the report calls this domain")
    text: list[str] = Field(min_length=1, description="UTF-8 text files to learn words from: files, or package:NAME/path")
    new_tokens: int = Field(default=2000, ge=1, description="how many tokens to add")
    min_count: int = Field(default=5, ge=2, description="what stands less often in the text is not made a token")


class Config(Section):
    """Which domains enter the base tokenizer, and the text that proves that nothing else changed."""

    domains: list[Annotated[IsolateConfig | ContinueConfig, Field(discriminator="strategy")]] = Field(
        default=[IsolateConfig()], min_length=1, description="merged one after the other, in this order"
    )
    plain_text: list[str] = Field(
        min_length=1, description="general text in UTF-8 lines whose tokens must not change: files, or package:NAME/path"
    )
    plain_lines: int = Field(default=100_000, ge=1, description="how many lines of it are compared, evenly spread over the files")
    random_strings: int = Field(default=10_000, ge=0, description="how many random strings are encoded and decoded")

    def resources(self) -> list[str]:
        named = [domain.tokenizer for domain in self.domains if isinstance(domain, IsolateConfig) and domain.tokenizer]
        text = [file for domain in self.domains if isinstance(domain, ContinueConfig) for file in domain.text]
        return [*self.plain_text, *named, *text]

    def contradictions(self, recipe: Any) -> list[str]:
        if not recipe.base.model:
            return ["the section 'merge' extends the tokenizer of a base model, but the recipe names none; add 'base: {model: …}'"]
        own = [i for i, domain in enumerate(self.domains) if isinstance(domain, IsolateConfig) and domain.tokenizer is None]
        if own and recipe.tokenizer is None:
            return [
                f"merge.domains[{own[0]}] names no tokenizer, and the recipe has no section 'tokenizer' that would train one; "
                "add 'tokenizer: {}', or name a folder, for example ../tokenizers/dna-bpe-4096"
            ]
        if len(own) > 1:
            return [f"merge.domains[{own[1]}] is the recipe's own tokenizer a second time; name another folder"]
        return []
