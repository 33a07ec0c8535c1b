"""A conversation: text as it comes, messages through the template, and the terminal."""

import io
import json
from types import SimpleNamespace

import pytest

from o1jax.cli import chat as terminal
from o1jax.cli import main
from o1jax.loop import chat as module
from o1jax.loop.chat import Chat, Said, joined
from o1jax.rollout.stream import Token

TEMPLATE = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def decode(ids):
    return bytes(ids).decode(errors="replace")


@pytest.mark.parametrize("text", ["plain", "né à 北京 🙂!", "🙂🙂", ""])
def test_half_a_character_is_held_back(text):
    pieces = list(joined(decode, text.encode()))
    assert "".join(pieces) == text
    assert all("\N{REPLACEMENT CHARACTER}" not in piece for piece in pieces)
    assert len(pieces) == len(text)  # nothing is held longer than it must be


def test_bytes_that_are_no_text_are_shown_at_the_end():
    broken = [*b"ab", 0xF0, 0x9F]
    assert list(joined(decode, broken)) == ["a", "b", decode(broken)[2:]]


class Speaker:
    """Stands for the policy: says what it is told to, a byte at a time."""

    capacity = 200

    def __init__(self, *answers):
        self.answers, self.read = list(answers), []

    def tokens(self, ids, key, limit):
        self.read.append(decode(ids))
        for id in self.answers.pop(0).encode() + bytes([0]):
            yield Token(id, -0.5)


@pytest.fixture
def talk(monkeypatch, tmp_path):
    """A Chat of bytes, with the template above: (answers) -> chat, speaker."""
    source = tmp_path / "source"
    source.mkdir()
    config = {"chat_template": TEMPLATE, "bos_token": "^"}
    (source / "tokenizer_config.json").write_text(json.dumps(config))
    tokenizer = SimpleNamespace(
        encode=lambda text: list(text.encode()), decode=decode, bos_id=94, eos_id=0
    )
    sampler = SimpleNamespace(max_new_tokens=20, stop_ids=())
    config = SimpleNamespace(cache_chunk=64)
    template = SimpleNamespace(system="")
    experiment = SimpleNamespace(sampler=sampler, seed=0, template=template)
    run = SimpleNamespace(
        experiment=experiment,
        tokenizer=tokenizer,
        policy_config=config,
        newest_params=dict,
    )
    monkeypatch.setattr(module, "load", lambda file: SimpleNamespace(experiment=None))
    monkeypatch.setattr(module, "Workdir", lambda *args: run)
    monkeypatch.setattr(module, "source_of", lambda run: source)
    monkeypatch.setattr(module, "replace", lambda config, **fields: config)
    policy = SimpleNamespace(unstack=lambda params: params)
    monkeypatch.setattr(module, "build_policy", lambda config: policy)

    def talk(*answers, system=""):
        template.system = system
        speaker = Speaker(*answers)
        monkeypatch.setattr(module, "Stream", lambda *args: speaker)
        return Chat(tmp_path), speaker

    return talk


def test_messages_go_through_the_template_with_all_that_was_said(talk):
    chat, speaker = talk("hello", "fine")
    assert "".join(chat.reply("hi")) == "hello"
    assert chat.said == Said(6, -3.0, True)  # with the stop token
    assert "".join(chat.reply("how?")) == "fine"
    second = "^<user>hi<assistant>hello<user>how?<assistant>"
    assert speaker.read == ["^<user>hi<assistant>", second]


def test_a_system_prompt_stays_before_all_messages(talk):
    chat, speaker = talk("2", "4", system="Check.")
    for message in ("1 + 1?", "2 + 2?"):
        list(chat.reply(message))
    assert speaker.read == [
        "^<system>Check.<user>1 + 1?<assistant>",
        "^<system>Check.<user>1 + 1?<assistant>2<user>2 + 2?<assistant>",
    ]


def test_without_room_the_beginning_is_forgotten(talk):
    chat, speaker = talk("hello", "fine", "yes")
    speaker.capacity = 60
    for message in ("hi", "how?"):
        list(chat.reply(message))
    assert chat.forgotten == 2 and speaker.read[-1] == "^<user>how?<assistant>"
    with pytest.raises(ValueError, match="has 68 tokens: there is room for 40"):
        list(chat.reply("x" * 50))
    assert "".join(chat.reply("why?")) == "yes"  # and it goes on
    chat.forget()
    assert not chat._messages


def test_a_terminal(talk, monkeypatch, capsys):
    chat, speaker = talk("hello", "he", "anew")
    monkeypatch.setattr(module, "Chat", lambda *args, **kwargs: chat)
    lines = ["hi", "", "/help", "stop", "/new", "again", "/quit"]
    monkeypatch.setattr("builtins.input", lambda prompt: lines.pop(0))
    reply = chat.reply

    def interrupted(message):
        for piece in reply(message):
            yield piece
            if message == "stop":
                raise KeyboardInterrupt

    chat.reply = interrupted
    terminal.converse("w", temperature=0.0)
    assert capsys.readouterr().out.splitlines() == [
        f"w: {terminal.HELP}",
        "hello",
        terminal.HELP,
        "h [stopped]",
        "anew",
    ]
    assert speaker.read[-1] == "^<user>again<assistant>"


def test_without_a_question_a_pipe_is_read_and_nothing_is_an_error(
    finished, monkeypatch, capsys
):
    folder = str(finished.workdir)
    monkeypatch.setattr("sys.stdin", io.StringIO("1 + 2 ="))
    assert main(["ask", folder, "--temperature", "0"]) == 0
    assert "log-prob" in capsys.readouterr().out
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    assert main(["ask", folder]) == 2
    assert "no question" in capsys.readouterr().err
    assert main(["ask", folder, "--search", "mcts"]) == 2
    assert "--search needs a question" in capsys.readouterr().err
