"""A model in memory with its tokenizer, and what a request needs to know of them."""

from __future__ import annotations

import inspect
import json
import sys
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

from rigging_transformers._prompts import Layout
from rigging_transformers._rope import remembers, steady, stretched

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rigging_transformers._source import LoadSpec

__all__ = ["NO_CHARACTER", "Loaded", "as_ids", "no_decoder", "wider"]

#: What a decoder writes where bytes make no character, or not yet.
NO_CHARACTER: Final = "\ufffd"

# Prompt tokens decoded with what follows them: some tokenizers drop the blank before
# the first word of what they decode.
_LEAD: Final = 8

# Where weights stay that are brought to a GPU for each step.
_OFFLOADED: Final = ("cpu", "disk")

# What models call their cache: since transformers 5.24, before, and where there is no attention.
_CACHES: Final = ("cache", "past_key_values", "cache_params")

# What a configuration calls its context.
_CONTEXT: Final = ("max_position_embeddings", "max_seq_len", "max_target_positions")


@dataclass(frozen=True)
class Loaded:
    """A model and its tokenizer.

    Attributes:
        model: A causal language model of transformers.
        tokenizer: Its tokenizer.
        name: What the caller calls it, for errors.
        spec: What it was loaded by; None if it is the caller's own, so not ours to unload.
    """

    model: Any
    tokenizer: Any
    name: str
    spec: LoadSpec | None = None

    _layouts: dict[str, Layout] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def device(self) -> str:
        """Where input goes; a model over several devices moves it on by itself."""
        device = self.model.device
        if device.type != "meta":
            return str(device)
        # That is where weights seem to be that are brought from elsewhere for each step: to the
        # first GPU that holds some (accelerate, `dispatch_model`).
        places = getattr(self.model, "hf_device_map", {}).values()
        place = next((place for place in places if str(place) not in _OFFLOADED), "cpu")
        import torch  # noqa: PLC0415 (it is there, since a model is)

        # To torch, a number is a GPU of the machine's kind.
        return str(torch.device(place))

    @cached_property
    def defaults(self) -> dict[str, Any]:
        """The model's generation config, as far as it says anything."""
        config = self.model.generation_config.to_dict()
        return {name: value for name, value in config.items() if value is not None}

    @cached_property
    def context(self) -> int | None:
        """Tokens that prompt and answer may have together; None if there is no limit."""
        named = self._named_context
        most = getattr(self.tokenizer, "model_max_length", None) or sys.maxsize
        return None if named is None else stretched(self._text_config, named, most)

    @cached_property
    def steady(self) -> int | None:
        """Tokens up to which a row does not care how long others are; None if there is no limit."""
        return steady(self._text_config, self._named_context)

    @cached_property
    def remembers(self) -> bool:
        """Whether a row that is longer than that would change the next one."""
        return remembers(self._text_config)

    @cached_property
    def end_ids(self) -> frozenset[int]:
        """Tokens that end an answer: those of the generation config and of the tokenizer."""
        return frozenset(
            id_
            for source in (self.defaults.get("eos_token_id"), self.tokenizer.eos_token_id)
            for id_ in as_ids(source)
        )

    @cached_property
    def stops(self) -> tuple[str, ...]:
        """Texts that end an answer, by the generation config."""
        stops = self.defaults.get("stop_strings") or ()
        return (stops,) if isinstance(stops, str) else tuple(stops)

    @cached_property
    def pad_id(self) -> int:
        """What fills the rows of a batch; it is masked, so any token will do that there is."""
        known = (self.tokenizer.pad_token_id, self.defaults.get("pad_token_id"))
        return next((id_ for id_ in (*known, *sorted(self.end_ids)) if self._embeds(id_)), 0)

    @cached_property
    def vocabulary(self) -> int | None:
        """How many tokens the model has embeddings for; None if it does not tell."""
        try:
            count = self.model.get_input_embeddings().num_embeddings
        except (AttributeError, NotImplementedError):
            return None
        return count if isinstance(count, int) else None

    @cached_property
    def takes(self) -> frozenset[str]:
        """The names of what the model can be given."""
        return frozenset(inspect.signature(self.model.forward).parameters)

    @property
    def masks(self) -> bool:
        """Whether padding can be masked."""
        return "attention_mask" in self.takes

    @property
    def cache_name(self) -> str:
        """By which name the model is given its cache, if it takes any."""
        return next((name for name in _CACHES if name in self.takes), _CACHES[0])

    def layout(self, template: str | None) -> Layout:
        """Return how conversations are laid out by a chat template; None is the model's own."""
        # The caller may give a tokenizer of its own another template at any time.
        key = json.dumps([template, None if template else self.tokenizer.chat_template])
        if key not in self._layouts:
            self._layouts[key] = Layout(self.tokenizer, template)
        return self._layouts[key]

    def special_id(self, text: str) -> int | None:
        """Return the special token that ``text`` spells, which no decoded text ever shows."""
        return self._special_ids.get(text)

    def continuation(self, prompt: Sequence[int], tokens: Sequence[int]) -> str:
        """Decode ``tokens`` as they read behind ``prompt``; special tokens are left out."""
        count = _LEAD
        before = self._decode(prompt[-count:])
        while before.startswith(NO_CHARACTER) and count < len(prompt):
            # It began within a character, which spoils all of a run of bytes.
            count = wider(count, _LEAD)
            before = self._decode(prompt[-count:])
        lead = prompt[-count:]
        text = self._decode([*lead, *tokens])
        # A character that the prompt ends in the middle of is decoded otherwise when whole.
        return text[len(before) :] if text.startswith(before) else self._decode(tokens)

    @cached_property
    def _special_ids(self) -> dict[str, int]:
        # Mistral's own tokenizers tell all or nothing.
        known = getattr(self.tokenizer, "get_added_vocab", self.tokenizer.get_vocab)
        special = frozenset(self.tokenizer.all_special_ids)
        return {text: id_ for text, id_ in known().items() if id_ in special}

    @property
    def _text_config(self) -> Any:
        return self.model.config.get_text_config()

    @property
    def _named_context(self) -> int | None:
        found = (getattr(self._text_config, name, None) for name in _CONTEXT)
        return next((length for length in found if isinstance(length, int) and length > 0), None)

    def _embeds(self, id_: int | None) -> bool:
        return id_ is not None and 0 <= id_ < (self.vocabulary or sys.maxsize)

    def _decode(self, tokens: Sequence[int]) -> str:
        if not tokens:
            return ""
        text: str = self.tokenizer.decode(
            list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return text


def no_decoder(config: Any, what: str = "") -> str:
    """Return what is said of a model that does not continue a text.

    Args:
        config: The model's.
        what: What it has instead; an encoder and a decoder if it is empty.
    """
    what = what or "an encoder for what it reads and a decoder for what it writes"
    return f"a {config.model_type} model has {what}: it does not continue a text"


def wider(count: int, first: int) -> int:
    """Return how many tokens to decode next, where so many began within a character.

    Example:
        >>> wider(8, first=8), wider(11, first=8)
        (9, 22)

    Args:
        count: How many.
        first: How many it was at first.
    """
    # A character has four bytes at most, so three tokens more reach where it begins, or another
    # does, unless it is a run of bytes that is spoilt as a whole.
    return count + 1 if count < first + 3 else 2 * count


def as_ids(value: int | Sequence[int] | None) -> list[int]:
    """Return token ids as a list, however a configuration writes them."""
    if value is None:
        return []
    return [value] if isinstance(value, int) else list(value)
