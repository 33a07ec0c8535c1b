"""An imported chat model that is asked for reasoning behaviours in its system prompt.

In: the workdir of an imported model and a SystemPrompt. Out: a workdir beside it with
the same parameters and tokenizer, whose every question comes with that prompt: `o1jax
ask` and `eval` work on it as on any, and nothing is trained. An evaluation then says
how often answers show each behaviour.
"""

import os
import shutil
import tempfile
from dataclasses import fields
from pathlib import Path

from o1jax.config import ConfigError, check_workdir, load
from o1jax.data.behaviours.prompts import ASKS, PromptTemplate, SystemPrompt
from o1jax.data.template import TextTemplate
from o1jax.loop.pretrained import source_of
from o1jax.loop.workdir import Workdir
from o1jax.models.chat import around_question
from o1jax.models.vocabulary import chat_template, marks

__all__ = ["ASKS", "SystemPrompt", "prompt_model"]

OWN = ("checkpoints", "source")  # folders that the new workdir links to
COPIED = ("tokenizer.*", "policy.gin")


def prompt_model(workdir: Path, target: Path, prompt: SystemPrompt) -> PromptTemplate:
    """Makes `target`; ConfigError if it is there, or the model has no chat template."""
    if target.exists():
        raise ConfigError(f"{target} exists already: choose a new folder")
    loaded = load(workdir / "config.gin")
    template = _prompted(Workdir(loaded.experiment, workdir), prompt)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".prompt-") as made:
        folder = Path(made) / target.name
        folder.mkdir()
        for name in OWN:
            (folder / name).symlink_to((workdir / name).resolve())
        for pattern in COPIED:
            for file in workdir.glob(pattern):
                shutil.copyfile(file, folder / file.name)
        config = Path(made) / "config.gin"
        config.write_text(_lines((workdir / "config.gin").read_text(), template))
        check_workdir(load(config), folder)  # writes it as every run does
        os.rename(folder, target)
    return template


def _prompted(run: Workdir, prompt: SystemPrompt) -> PromptTemplate:
    """The run's chat template with the system prompt written in."""
    own, source = run.experiment.template, source_of(run)
    files = {}
    if source is not None:
        files = {file.name: file.read_bytes() for file in source.iterdir()}
    if (chat := chat_template(files)) is None:
        raise ConfigError(
            f"{run.path} has no chat template: behaviours can be asked only of chat "
            "models that were imported (o1jax import)"
        )
    found = marks(files)
    before, behind = around_question(chat, **found)
    if type(own) is not TextTemplate or not before.endswith(own.before_question):
        raise ConfigError(
            f"the template of {run.path} is not the one that it was imported with"
        )
    # What the tokenizer puts before every prompt is not written a second time.
    begin = before.removesuffix(own.before_question)
    before, behind = around_question(chat, system=prompt.text, **found)
    return PromptTemplate(
        before_question=before.removeprefix(begin),
        after_question=behind,
        step_end=own.step_end,
        between_steps=own.between_steps,
        answer_mark=own.answer_mark,
        behaviours=prompt.behaviours,
        system=prompt.text,
    )


def _lines(config: str, template: PromptTemplate) -> str:
    """A run's config.gin with another template."""
    kept = [x for x in config.splitlines() if not x.startswith("TextTemplate.")]
    at = kept.index("Experiment.template = @TextTemplate()")
    kept[at] = "Experiment.template = @PromptTemplate()"
    for own in fields(template):
        kept.append(f"PromptTemplate.{own.name} = {getattr(template, own.name)!r}")
    return "\n".join(kept) + "\n"
