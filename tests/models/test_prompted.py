"""An imported chat model that is asked for behaviours is a workdir like any other."""

import json

import pytest

from o1jax.cli import main
from o1jax.config import load
from o1jax.data.behaviours.prompts import SystemPrompt
from o1jax.models.chat import around_question

# A template that has a system turn, in short; and one that refuses it, as Gemma's does.
CHATTY = (
    "<s>{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
STRICT = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no') }}{% endif %}"
)
CONFIG = """
Experiment.stages = [@pretrained/Pretrained()]
Experiment.template = @TextTemplate()
TextTemplate.before_question = '[user]'
TextTemplate.after_question = '[assistant]'
TokenizerConfig.kind = 'file'
TokenizerConfig.path = 'tokenizer.json'
PolicyConfig.vocab = 8
"""


@pytest.fixture
def imported(tmp_path):
    """The files of an imported model that matter here."""
    folder = tmp_path / "model"
    (folder / "source").mkdir(parents=True)
    (folder / "checkpoints" / "00-pretrained" / "0").mkdir(parents=True)
    (folder / "tokenizer.json").write_text("{}")
    (folder / "config.gin").write_text(CONFIG)
    config = {"chat_template": CHATTY, "bos_token": "<s>"}
    (folder / "source" / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def test_a_model_is_asked_for_behaviours(imported, tmp_path, capsys):
    arguments = ["--behaviours", "evaluation,correction", "--extra", "Be brief."]
    target = tmp_path / "deep" / "checks"
    assert main(["prompt", str(imported), str(target), *arguments]) == 0
    system = SystemPrompt(("evaluation", "correction"), "Be brief.").text
    assert system in capsys.readouterr().out
    template = load(target / "config.gin").experiment.template
    # The begin mark is the tokenizer's to write, as it was before.
    assert template.prompt("1 + 1?") == f"[system]{system}[user]1 + 1?[assistant]"
    assert template.behaviours == ("evaluation", "correction")
    assert (target / "checkpoints" / "00-pretrained" / "0").is_dir()
    assert (target / "tokenizer.json").read_text() == "{}"
    assert load(imported / "config.gin").experiment.template.prompt("1") == (
        "[user]1[assistant]"
    )


def test_a_template_without_a_system_turn_has_it_in_the_question():
    assert around_question(STRICT + CHATTY, system="Think.") == (
        "<s>[user]Think.\n\n",
        "[assistant]",
    )
    with pytest.raises(ValueError, match="chat template: no"):
        around_question("{{ raise_exception('no') }}", system="Think.")


def test_what_can_not_be_asked_is_told_in_a_line(imported, tmp_path, capsys):
    def refused(*arguments):
        assert main(["prompt", str(imported), str(tmp_path / "new"), *arguments]) == 2
        assert not (tmp_path / "new").exists()
        said = capsys.readouterr().err
        assert said.count("\n") == 1
        return said

    assert "behaviours: 'luck' is none" in refused("--behaviours", "luck")
    config = imported / "config.gin"
    config.write_text(CONFIG.replace("[user]", "[me]"))
    assert "is not the one that it was imported with" in refused()
    config.write_text(CONFIG)
    (imported / "source" / "tokenizer_config.json").write_text("{}")
    assert "has no chat template" in refused()
    config.unlink()
    assert "is no workdir" in refused()
