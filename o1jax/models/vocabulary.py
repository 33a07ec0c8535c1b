"""What a model's tokenizer needs besides its file, and the tokenizer.json of a GGUF.

In: the files beside the tensors, or a GGUF's fields. Out: the tokenizer.json that o1jax
reads, with its marks of begin and end; the chat template. Byte-level BPE: Radford et
al. 2019; its JSON: https://github.com/huggingface/tokenizers
"""

import json
from collections.abc import Mapping
from typing import Any

CONTROL = 3  # a token type of GGUF
# tokenizer.ggml.pre -> whether each digit is a piece of its own
DIGITS = {"smollm": True, "gpt-2": False, "default": False}


def gguf_files(fields: Mapping[str, Any]) -> dict[str, bytes]:
    """tokenizer.json and tokenizer_config.json of a GGUF; {} if o1jax can't make them.

    Only byte-level BPE with the pre-tokenizers of DIGITS is known.
    """
    field = lambda name: fields.get(f"tokenizer.ggml.{name}")
    words, pre = field("tokens"), field("pre")
    if field("model") != "gpt2" or pre not in DIGITS or not words:
        return {}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    level["use_regex"] = True
    split = {"type": "Digits", "individual_digits": True}
    special = [i for i, kind in enumerate(field("token_type")) if kind == CONTROL]
    plain = dict(single_word=False, lstrip=False, rstrip=False, normalized=False)
    content = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": i, "content": words[i], **plain, "special": True} for i in special
        ],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [split, level] if DIGITS[pre] else [level],
        },
        "post_processor": None,
        "decoder": level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "vocab": {word: i for i, word in enumerate(words)},
            "merges": field("merges"),
        },
    }
    named = {"bos_token": "bos_token_id", "eos_token": "eos_token_id"}
    given = {name: field(id) for name, id in named.items()}
    config = {name: words[id] for name, id in given.items() if id is not None}
    if chat := fields.get("tokenizer.chat_template"):
        config["chat_template"] = chat
    config["tokenizer_class"] = "PreTrainedTokenizerFast"
    return {
        "tokenizer.json": json.dumps(content, ensure_ascii=False).encode(),
        "tokenizer_config.json": json.dumps(config, indent=2).encode(),
    }


def marks(files: Mapping[str, bytes]) -> dict[str, str]:
    """bos_token and eos_token as the files beside a model name them."""
    found = {}
    for file in ("special_tokens_map.json", "tokenizer_config.json"):
        content = json.loads(files.get(file, b"{}"))
        for name in ("bos_token", "eos_token"):
            value = content.get(name)
            value = value.get("content") if isinstance(value, dict) else value
            if value:
                found[name] = value
    return found


def chat_template(files: Mapping[str, bytes]) -> str | None:
    """The model's chat template, of a file of its own or of its tokenizer's config."""
    if "chat_template.jinja" in files:
        return files["chat_template.jinja"].decode()
    template = json.loads(files.get("tokenizer_config.json", b"{}")).get(
        "chat_template"
    )
    if isinstance(template, list):  # several, by name
        template = {each["name"]: each["template"] for each in template}.get("default")
    return template


def marked(tokenizer: bytes, found: Mapping[str, str]) -> bytes:
    """A tokenizer.json with its marks, as data/json_tokenizer.py reads it."""
    return json.dumps(json.loads(tokenizer) | found, ensure_ascii=False).encode()
