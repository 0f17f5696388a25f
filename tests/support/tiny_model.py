"""A random instruct model of 0.5 MB, made on the spot: a tokenizer, a Llama, a chat template.

It loads wherever a real one does, in a fraction of a second, and what it says is noise;
that is enough for everything but sense. Weights are drawn wide and the head is not tied
to the embedding, so that different prompts get different answers.

torch and transformers are imported when a model is made, not with this module.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["CHAT_TEMPLATE", "CONTEXT", "END", "make_tiny_model"]

#: Tokens that prompt and answer may have together.
CONTEXT: Final = 256

#: The special token that ends an answer.
END: Final = "<|end|>"

CHAT_TEMPLATE: Final = (
    "{% for message in messages %}"
    "<|start|>{{ message.role }}\n{{ message.content }}<|end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)

_VOCABULARY: Final = 384  # the 256 bytes, the special tokens, some merges
_CORPUS: Final = (
    "The quick brown fox jumps over the lazy dog, and then it sleeps until noon.",
    "What is the capital of France? The capital of France is Paris, on the Seine.",
    "system user assistant: you are a helpful assistant who answers in a few words.",
    "One two three four five six seven eight nine ten; red, green, blue and yellow.",
)


def make_tiny_model(directory: Path, *, chat_template: str | None = CHAT_TEMPLATE) -> Path:
    """Write a model and its tokenizer into a directory; the same one every time.

    Args:
        directory: Where to; made if it is not there.
        chat_template: In Jinja; None for a model that knows no conversations.

    Returns:
        ``directory``.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = train_tokenizer(chat_template)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=32,  # the least that vLLM's kernels take
        max_position_embeddings=CONTEXT,
        initializer_range=0.3,
        tie_word_embeddings=False,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = LlamaForCausalLM(config)
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def train_tokenizer(chat_template: str | None) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=_VOCABULARY,
        special_tokens=["<|pad|>", "<|start|>", END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_CORPUS, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|start|>",
        eos_token=END,
        pad_token="<|pad|>",
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
        chat_template=chat_template,
    )
