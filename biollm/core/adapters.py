"""Kinds of fine-tuning adapters by what can be done with them."""

from __future__ import annotations

# `biollm merge-adapter` folds these into their base.
FOLDABLE = ("lora", "dora", "ia3")
# These give prompts, and are no model to embed with.
PROMPTS = ("prefix_tuning", "prompt_tuning", "p_tuning")
