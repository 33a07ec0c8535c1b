"""Tokenizers and chat templates of published models, at sizes one can read."""

import json

import pytest

from o1jax.data.tokenizer import load
from o1jax.models.chat import around_question, render
from o1jax.models.vocabulary import chat_template, gguf_files, marked, marks

# SmolLM2's.
TEMPLATE = """{% for message in messages %}{% if loop.first and messages[0]['role'] \
!= 'system' %}{{ '<|im_start|>system
You are helpful<|im_end|>
' }}{% endif %}{{'<|im_start|>' + message['role'] + '
' + message['content'] + '<|im_end|>' + '
'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant
' }}{% endif %}"""


def test_a_conversation_is_written_as_the_template_says():
    messages = [
        {"role": "user", "content": "1 + 1?"},
        {"role": "assistant", "content": "2"},
    ]
    assert render(TEMPLATE, messages, add_generation_prompt=False) == (
        "<|im_start|>system\nYou are helpful<|im_end|>\n"
        "<|im_start|>user\n1 + 1?<|im_end|>\n"
        "<|im_start|>assistant\n2<|im_end|>\n"
    )
    assert around_question(TEMPLATE) == (
        "<|im_start|>system\nYou are helpful<|im_end|>\n<|im_start|>user\n",
        "<|im_end|>\n<|im_start|>assistant\n",
    )


@pytest.mark.parametrize(
    "template, complaint",
    [
        ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{{ messages.append(1) }}", "unsafe"),
        ("{% for %}", "chat template: "),
        ("Hello", "does not write the question down"),
    ],
)
def test_what_a_template_may_not_do(template, complaint):
    with pytest.raises(ValueError, match=complaint):
        around_question(template)


# Bytes of a, b, space (as G with a dot), 1 and 2, two merges and two marks.
WORDS = ["<s>", "</s>", "a", "b", "\u0120", "1", "2", "ab", "\u0120ab"]
FIELDS = {
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.pre": "smollm",
    "tokenizer.ggml.tokens": WORDS,
    "tokenizer.ggml.token_type": [3, 3, 1, 1, 1, 1, 1, 1, 1],
    "tokenizer.ggml.merges": ["a b", "\u0120 ab"],
    "tokenizer.ggml.bos_token_id": 1,
    "tokenizer.ggml.eos_token_id": 1,
    "tokenizer.chat_template": TEMPLATE,
}


def test_a_vocabulary_of_a_gguf_reads_and_writes_text(tmp_path):
    files = gguf_files(FIELDS)
    assert chat_template(files) == TEMPLATE
    assert marks(files) == {"bos_token": "</s>", "eos_token": "</s>"}
    file = tmp_path / "tokenizer.json"
    file.write_bytes(
        marked(files["tokenizer.json"], {"bos_token": "<s>", "eos_token": "</s>"})
    )
    tokenizer = load(file)
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.vocab_size) == (0, 1, 9)
    # Digits stand alone; a space goes to the word behind it; marks are marks.
    assert tokenizer.encode("ab ab12</s>") == [7, 8, 5, 6, 1]
    assert tokenizer.decode([7, 8, 5, 6, 1]) == "ab ab12"
    assert tokenizer.id_of(" ab") == 8 and tokenizer.piece(8) == "\u0120ab"
    copy = tmp_path / "copy.json"
    tokenizer.save(copy)
    assert load(copy).fingerprint == tokenizer.fingerprint


def test_a_tokenizer_without_marks_is_refused(tmp_path):
    file = tmp_path / "tokenizer.json"
    content = json.loads(gguf_files(FIELDS)["tokenizer.json"])
    file.write_text(json.dumps(content | {"bos_token": "<s>"}))
    with pytest.raises(ValueError, match=r"tokenizer\.json: its eos_token is missing"):
        load(file)
    file.write_text("{}")
    with pytest.raises(ValueError, match=r"tokenizer\.json: not a tokenizer\.json"):
        load(file)


def test_an_unknown_kind_of_vocabulary_is_left_out():
    assert gguf_files(FIELDS | {"tokenizer.ggml.pre": "llama-bpe"}) == {}
