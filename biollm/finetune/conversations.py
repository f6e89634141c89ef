"""Questions with answers as a causal model reads them: written out by the tokenizer's chat template, the loss on answers alone.

Legend: T tokens of a conversation.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from biollm.core.errors import ConfigError, DataError
from biollm.core.files import read_json, write_text_atomic
from biollm.modeling.adapters import inner, virtual_tokens
from biollm.modeling.encoding import Encoder
from biollm.modeling.fusion import FusedModel
from biollm.training.batches import Batch, pad_questions
from biollm.training.examples import Example, encode_texts
from biollm.training.language import LanguageModel, losses_of
from biollm.training.objectives import IGNORED, Objective, Question, architecture_of
from biollm.training.tracks import TrackQuestion

MESSAGES = "messages"  # what ingest calls the turns of a conversation
_TEMPLATE_FILE = "chat_template.jinja"
_EVALUATION_TOKENS = 4096
# For base models, which bring no template. It is stored beside the fine-tuned model.
_PLAIN_TEMPLATE = (
    "{%- for message in messages %}"
    "{%- if message['role'] == 'assistant' %}{{- '### Answer\\n' + message['content'] + eos_token + '\\n' }}"
    "{%- elif message['role'] == 'user' %}{{- '### Question\\n' + message['content'] + '\\n' }}"
    "{%- else %}{{- message['content'] + '\\n' }}{%- endif %}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '### Answer\\n' }}{%- endif %}"
)


@dataclass(frozen=True)
class Conversation(Example):
    """A document in which some tokens are answers. answers: (T,), true for tokens that the model is to write."""

    answers: NDArray[np.bool_] = field(kw_only=True)


class AnswerObjective(Objective):
    """Causal language modelling of the answers, given all that stands before them."""

    def ask(self, example: Example, seed: int) -> Question:
        """The question about a conversation; nothing is drawn."""
        assert isinstance(example, Conversation)
        labels, behind = np.full_like(example.ids, IGNORED), np.zeros_like(example.residues)
        asked = np.flatnonzero(example.answers[1:])
        labels[asked], behind[asked] = example.ids[asked + 1], example.residues[asked + 1]
        features = example.features
        return Question(example.ids, labels, behind, len(asked), None if features is None else TrackQuestion(features))


class ChatTemplate:
    """The chat template of a model folder, or a plain one if it has none (`is_plain`)."""

    def __init__(self, folder: Path) -> None:
        """Raises ConfigError if neither a template nor an end-of-text token is there."""
        settings = read_json(folder / "tokenizer_config.json") if (folder / "tokenizer_config.json").is_file() else {}
        own = _stored_template(folder, settings)
        self.is_plain = own is None
        self._template = own or _PLAIN_TEMPLATE
        names = ("bos_token", "eos_token", "pad_token", "unk_token", "sep_token", "cls_token")
        self._tokens = {name: _text_of(settings[name]) for name in names if settings.get(name)}
        if self.is_plain and "eos_token" not in self._tokens:
            raise ConfigError(
                f"{folder}: the tokenizer has neither a chat_template nor an eos_token, so nothing says where an answer ends; "
                "add one of them to tokenizer_config.json"
            )

    def save(self, folder: Path) -> None:
        """Put the plain template where libraries look for one; a template of the tokenizer's own travels with its files."""
        if self.is_plain:
            write_text_atomic(folder / _TEMPLATE_FILE, self._template)

    def write(self, messages: list[dict[str, str]], name: str) -> tuple[str, list[tuple[int, int]]]:
        """The text of a conversation, and where in it its answers lie, each with the sign that ends it.

        Raises DataError naming the record if the template refuses it, or writes a turn in another way when more turns follow.
        """
        whole = self._render(messages, False, name)
        spans = []
        for place, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            before, through = self._render(messages[:place], True, name), self._render(messages[: place + 1], False, name)
            if not (whole.startswith(through) and through.startswith(before)):
                raise DataError(
                    f"record {name}: the chat template writes message {place + 1} in another way when more follow, so its answer cannot be "
                    "told apart; give each answer as a conversation of its own"
                )
            spans.append((len(before), len(through.rstrip())))
        return whole, spans

    def _render(self, messages: list[dict[str, str]], prompting: bool, name: str) -> str:
        from jinja2 import TemplateError
        from transformers.utils.chat_template_utils import render_jinja_template

        try:
            rendered: Any = render_jinja_template([messages], chat_template=self._template, add_generation_prompt=prompting, **self._tokens)
        except TemplateError as error:
            raise DataError(f"record {name}: the chat template refuses the conversation: {error}; mend or remove it") from error
        return str(rendered[0][0])


def encode_conversations(records: pl.DataFrame, encoder: Encoder, template: ChatTemplate) -> list[Conversation]:
    """Records as conversations, in their order. Tokens that hold any letter of an answer belong to it.

    Each token stands for the bytes of UTF-8 that it is the first to cover, the signs of the template for none.
    Raises DataError naming a record whose text holds a sign of the tokenizer's, such as <|im_end|>.
    """
    special = [token.content for token in encoder.tokenizer.get_added_tokens_decoder().values() if token.special]
    names, texts, spans = records["id"].to_list(), [], []
    for name, stored in zip(names, records[MESSAGES].to_list(), strict=True):
        messages = json.loads(stored)
        for sign in special:
            if any(sign in message["content"] for message in messages):
                raise DataError(f"record {name}: its text holds {sign!r}, which means something to the model; remove it from the text")
        text, answers = template.write(messages, name)
        texts.append(text)
        spans.append([(len(text[:start].encode()), len(text[:end].encode())) for start, end in answers])
    conversations = []
    for example, answers in zip(encode_texts(texts, encoder, names), spans, strict=True):
        ids, residues = example.ids[~example.special], example.residues[~example.special]
        ends = np.cumsum(residues)
        starts = ends - residues
        within = np.zeros(len(ids), dtype=bool)
        for first, last in answers:
            within |= (ends > first) & ((starts < last) | (ends <= last))
        read = np.where(np.isin(ids, encoder.ordinary_ids), residues, 0)
        conversations.append(Conversation(ids, read, np.zeros(len(ids), dtype=bool), example.pool, name=example.name, answers=within))
    return conversations


class AnswerModel(nn.Module):
    """A causal model with whatever adapters it has, whose forward is the summed loss of the answers of a batch, in float32.

    Conversations are packed into flat rows where the model can read them so; a prompt of virtual tokens stands before each document,
    so that a model with one reads them padded.
    """

    def __init__(self, adapted: FusedModel, encoder: Encoder) -> None:
        """Raises ConfigError if the model is none that writes text."""
        super().__init__()
        check_writes(inner(adapted.stock).config)
        self.adapted, self._pad_id = adapted, encoder.pad_id or 0
        self.objective = AnswerObjective("causal", "decoder", encoder)
        stock = inner(adapted.stock)
        under = FusedModel(stock, adapted.spec, adapted.operator)
        self.language = None if virtual_tokens(adapted.stock) else LanguageModel(under, self.objective)

    def release(self) -> FusedModel:
        """The adapted model as it came; this module is of no use any more."""
        if self.language is not None:
            self.language.release()
        return self.adapted

    def collate(self, conversations: Sequence[Example]) -> Batch:
        """Conversations as the batch that this model reads."""
        questions = [self.objective.ask(conversation, 0) for conversation in conversations]
        return pad_questions(questions, self._pad_id) if self.language is None else self.language.collate(questions)

    def forward(self, *, count: Tensor | None = None, **batch: Tensor) -> Tensor:
        """The loss summed over tokens of answers. `count` belongs to whoever divides by it."""
        if self.language is not None:
            total: Tensor = self.language(**batch)
            return total
        return self.nats(batch).sum()

    def nats(self, batch: Batch) -> Tensor:
        """(M,) losses of the tokens of answers, in the order of the batch."""
        if self.language is not None:
            return self.language.nats(batch)
        labels = batch["labels"]
        asked = labels != IGNORED
        logits = self.adapted(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        return functional.cross_entropy(logits[asked].float(), labels[asked], reduction="none")


@dataclass(frozen=True)
class AnswerLoss:
    """What the answers of a conversation cost: nats over so many tokens, which stand for so many bytes."""

    nats: float
    tokens: int
    utf8_bytes: int


def answer_losses(module: AnswerModel, conversations: Sequence[Conversation], what: str | None = None) -> list[AnswerLoss]:
    """The loss of each conversation's answers, in their order. what: the title of a progress bar, if any."""
    module.eval()
    questions = [module.objective.ask(conversation, 0) for conversation in conversations]
    nats = losses_of(module, conversations, questions, what)
    return [AnswerLoss(float(of_one), question.count, question.units) for of_one, question in zip(nats, questions, strict=True)]


def check_writes(config: Any) -> None:
    """Raises ConfigError if a model, by its config, is none that writes text from left to right."""
    if (kind := architecture_of(config)) != "decoder":
        raise ConfigError(
            f"finetune.task is instruction, but the model is an {kind} ({config.model_type}); expected a decoder, such as Llama"
        )


def _stored_template(folder: Path, settings: dict[str, Any]) -> str | None:
    if (folder / _TEMPLATE_FILE).is_file():
        return (folder / _TEMPLATE_FILE).read_text(encoding="utf-8")
    stored = settings.get("chat_template")
    if isinstance(stored, list):  # several, by name
        stored = next((entry["template"] for entry in stored if entry["name"] == "default"), None)
    return stored


def _text_of(token: Any) -> str:
    return str(token["content"]) if isinstance(token, dict) else str(token)
