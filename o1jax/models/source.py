"""A published model on disk: its config, its tensors and the files to keep beside it.

In: a folder with config.json and safetensors, or a GGUF file. Out: a Source. Nothing
but headers is read until a tensor is asked for.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

from o1jax.models.configs import policy_config
from o1jax.models.gguf import read_gguf
from o1jax.models.mapping import check_names
from o1jax.models.safetensors import Tensor, read_folder
from o1jax.models.vocabulary import gguf_files
from o1jax.policy.policy import PolicyConfig

# What an export gives back as it was.
KEPT = (
    "generation_config.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "vocab.json",
    "merges.txt",
    "LICENSE",
)


class Source(NamedTuple):
    """A model that can be imported."""

    place: Path
    config: dict[str, Any]  # config.json
    policy: PolicyConfig
    tensors: dict[str, Tensor]
    files: dict[str, bytes]  # of KEPT, those that are there


def open_source(place: Path) -> Source:
    """The model at `place`, with all names and shapes checked.

    ValueError names what is missing, unknown or does not fit.
    """
    if place.suffix == ".gguf" and not place.is_dir():
        config, tensors, fields = read_gguf(place)
        files = gguf_files(fields)
    else:
        config, tensors = _json(place / "config.json"), read_folder(place)
        beside = [name for name in KEPT if (place / name).is_file()]
        files = {name: (place / name).read_bytes() for name in beside}
    try:
        policy = policy_config(config)
    except ValueError as error:
        raise ValueError(f"{place / 'config.json'}: {error}") from None
    check_names(policy, ((n, t.shape) for n, t in tensors.items()), str(place))
    return Source(place, dict(config), policy, tensors, files)


def _json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_bytes())
    except OSError as error:
        raise ValueError(f"{file}: {error.strerror}") from None
    except ValueError:
        raise ValueError(f"{file}: not JSON") from None
    if not isinstance(content, dict):
        raise ValueError(f"{file}: not a JSON object")
    return content
