"""Chat templates: messages as the text that a published model was trained on.

In: a Jinja template and messages {"role", "content"}. Out: the text; or, of a template
that writes a question down as it is, what stands before it and behind. Rendered in
jinja2's sandbox (extra `models`), as transformers does, since templates come with the
weights of strangers.
"""

import datetime
import json
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

QUESTION = "A question."


def render(
    template: str,
    messages: Sequence[Mapping[str, Any]],
    *,
    add_generation_prompt: bool = True,
    **variables: Any,
) -> str:
    """The text of a conversation. ValueError says what the template refused.

    variables: such as bos_token and eos_token.
    """
    try:
        from jinja2 import TemplateError
        from jinja2.ext import loopcontrols
        from jinja2.sandbox import ImmutableSandboxedEnvironment
    except ImportError:
        raise ValueError(
            "a chat template needs jinja2: pip install 'o1jax[models]'"
        ) from None

    def refuse(message: str) -> NoReturn:
        raise TemplateError(message)

    sandbox = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols]
    )
    sandbox.filters["tojson"] = lambda x, **how: json.dumps(
        x, ensure_ascii=False, **{"indent": None} | how
    )
    sandbox.globals["raise_exception"] = refuse
    sandbox.globals["strftime_now"] = lambda form: datetime.datetime.now().strftime(
        form
    )
    try:
        return sandbox.from_string(template).render(
            messages=messages, add_generation_prompt=add_generation_prompt, **variables
        )
    except TemplateError as error:
        raise ValueError(f"chat template: {error}") from error


def render_told(
    template: str,
    system: str,
    messages: Sequence[Mapping[str, Any]],
    **variables: Any,
) -> str:
    """The text of a conversation under a system prompt; "" is none.

    A template that knows no system message has it at the beginning of the first one.
    """
    if not system:
        return render(template, messages, **variables)
    try:
        told = [{"role": "system", "content": system}, *messages]
        if system in (text := render(template, told, **variables)):
            return text
    except ValueError:
        pass  # if it refuses more than that, so it will below
    first, *rest = messages
    first = {**first, "content": f"{system}\n\n{first['content']}"}
    return render(template, [first, *rest], **variables)


def around_question(
    template: str, *, system: str = "", **variables: Any
) -> tuple[str, str]:
    """What a template writes before and behind the user's first message."""
    question = [{"role": "user", "content": QUESTION}]
    text = render_told(template, system, question, **variables)
    before, found, behind = text.rpartition(QUESTION)
    if not found:
        raise ValueError("chat template: it does not write the question down")
    return before, behind
