"""Question, steps and answer as text, and that text as tokens.

In: an `Example`. Out: the prompt and the response, as text or as ids; back from a
response that a policy wrote, its steps and answer. `Template` is the form of the
synthetic tasks, where the last step carries the answer:

    7 + 5 * 3 - 2 =            12 ; 36 ; 34 ;

`TextTemplate` is the form of word problems, one step a line and a marked answer, as in
GSM8K (Cobbe et al. 2021, https://arxiv.org/abs/2110.14168); `TaggedTemplate` has tags
around an answer.
"""

from dataclasses import dataclass, replace

from o1jax.config import configurable
from o1jax.data.tokenizer import Tokenizer
from o1jax.tasks.task import STEP_END, Example


@configurable
@dataclass(frozen=True)
class Template:
    """How an example is written down."""

    before_question: str = ""
    after_question: str = ""
    step_end: str = f" {STEP_END}"  # closes each step
    between_steps: str = " "
    answer_mark: str = ""  # "": the last step carries the answer

    def __post_init__(self) -> None:
        if not self._marks[0]:
            raise ValueError("Template.step_end is blank: nothing tells steps apart")

    @property
    def _marks(self) -> tuple[str, str]:
        """Step and answer mark as `parse` looks for them: without spaces around."""
        return self.step_end.strip(" "), self.answer_mark.strip(" ")

    def prompt(self, question: str) -> str:
        """The text that a policy is given."""
        return self.before_question + question + self.after_question

    def response(self, example: Example) -> str:
        """The worked solution as the policy should write it.

        Raises ValueError if a step holds the mark that ends steps, or the answer's.
        """
        for part in (*example.steps, example.answer):
            for mark in self._marks:
                if mark and mark in part:
                    raise ValueError(
                        f"{part!r} in the solution of {example.question!r} holds "
                        f"the template's own mark {mark!r}"
                    )
        text = self.between_steps.join(step + self.step_end for step in example.steps)
        return text + self.answer_mark + example.answer if self.answer_mark else text

    def encode(
        self, tokenizer: Tokenizer, example: Example
    ) -> tuple[list[int], list[int]]:
        """(prompt ids that begin with BOS, response ids that end with EOS)."""
        response = tokenizer.encode(self.response(example))
        return self.encode_prompt(tokenizer, example.question), [
            *response,
            tokenizer.eos_id,
        ]

    def encode_prompt(self, tokenizer: Tokenizer, question: str) -> list[int]:
        """Ids of the prompt, BOS first. The response is encoded apart from it."""
        return [tokenizer.bos_id, *tokenizer.encode(self.prompt(question))]

    def parse(self, response: str) -> tuple[tuple[str, ...], str]:
        """(steps, answer) of any text at all; the answer is "" where none was given.

        A step counts once it is closed. Step i ends at the i-th step mark, so an empty
        step stays in its place.
        """
        step_mark, answer_mark = self._marks
        body, answer = response, ""
        if answer_mark:
            # Only the first answer's line is read: naming many answers earns nothing.
            body, _, tail = response.partition(answer_mark)
            answer = tail.lstrip(" ").partition("\n")[0].strip()
        *steps, unclosed = body.split(step_mark)
        steps = tuple(step.strip() for step in steps)
        if not answer_mark and steps and not unclosed.strip():
            answer = steps[-1]
        return steps, answer


@configurable
@dataclass(frozen=True)
class TextTemplate(Template):
    """Word problems: a line for each step, then `#### answer`."""

    before_question: str = "Question: "
    after_question: str = "\nAnswer:\n"
    step_end: str = "\n"
    between_steps: str = ""
    answer_mark: str = "#### "


@configurable
@dataclass(frozen=True)
class TaggedTemplate(TextTemplate):
    """A line for each step, then `<answer>...</answer>`, which may be several lines."""

    answer_mark: str = "<answer>"
    answer_end: str = "</answer>"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.answer_mark or not self.answer_end:
            raise ValueError("TaggedTemplate: answer_mark or answer_end is empty")

    def response(self, example: Example) -> str:
        """The worked solution as the policy should write it.

        Raises ValueError if a step or the answer holds a mark that would end it.
        """
        if self.answer_end in example.answer:
            raise ValueError(
                f"the answer to {example.question!r} holds the template's own mark "
                f"{self.answer_end!r}"
            )
        steps = (
            super().response(replace(example, answer="")).removesuffix(self.answer_mark)
        )
        return steps + self.answer_mark + example.answer + self.answer_end

    def parse(self, response: str) -> tuple[tuple[str, ...], str]:
        """(steps, answer) of any text at all; "" where no answer is closed."""
        steps, _ = super().parse(response)
        _, _, tail = response.partition(self.answer_mark)
        answer, closed, _ = tail.partition(self.answer_end)
        return steps, answer.strip() if closed else ""
