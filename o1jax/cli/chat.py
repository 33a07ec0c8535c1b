"""`o1jax ask` without --search: one question, or a conversation in a terminal."""

import contextlib
import sys
from pathlib import Path

from o1jax.config import ConfigError

HELP = "/new begins another conversation, /quit ends it; Ctrl-C stops a reply."


def ask_command(workdir: Path, question: str | None, *, temperature: float) -> None:
    """Answers the question, or that of stdin; without one it talks to a person."""
    from o1jax.loop.ask import ask

    if question is None and sys.stdin.isatty():
        return converse(workdir, temperature=temperature)
    if question is None and not (question := sys.stdin.read().strip()):
        raise ConfigError("ask: no question, neither as an argument nor on stdin")
    ask(workdir, question, temperature=temperature)


def converse(workdir: Path, *, temperature: float) -> None:
    """Reads messages and streams replies, until /quit or the end of input."""
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  a line can be edited, and the last ones recalled
    from o1jax.loop.chat import Chat

    chat = Chat(workdir, temperature=temperature)
    alone = "" if chat.remembers else " It has no chat template: each message is alone."
    print(f"{workdir}: {HELP}{alone}")
    while True:
        try:
            message = input("> ").strip()
        except (EOFError, KeyboardInterrupt):
            print()
            return
        if message == "/quit":
            return
        if message == "/new":
            chat.forget()
        elif message.startswith("/"):
            print(HELP)
        elif message:
            _reply(chat, message)


def _reply(chat: "Chat", message: str) -> None:  # noqa: F821
    forgotten = chat.forgotten
    try:
        with contextlib.closing(chat.reply(message)) as pieces:
            for piece in pieces:
                print(piece, end="", flush=True)
        print("" if chat.said.finished else " [cut off: SamplerConfig.max_new_tokens]")
    except KeyboardInterrupt:
        print(" [stopped]")
    except ValueError as error:  # such as a message that is too long
        print(f"[{error}]")
    if chat.forgotten > forgotten:
        print("[the beginning of the conversation is forgotten]")
