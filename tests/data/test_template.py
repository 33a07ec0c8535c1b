import pytest
from hypothesis import given
from hypothesis import strategies as st

from o1jax.data.template import TaggedTemplate, Template, TextTemplate
from o1jax.data.tokenizer import from_texts
from o1jax.tasks.task import Example

CHAIN = Example("7 + 5 * 3 =", ("12", "36"), "36", 2)
APPLES = Example("How many?", ("2+3 = 5 apples.", "5*2 = 10."), "10", 2)


def test_symbols_write_each_step_and_its_end() -> None:
    template = Template()
    assert template.prompt(CHAIN.question) == "7 + 5 * 3 ="
    assert template.response(CHAIN) == "12 ; 36 ;"
    assert template.parse("12 ; 36 ;") == (("12", "36"), "36")


def test_text_writes_a_line_a_step_and_marks_the_answer() -> None:
    template = TextTemplate()
    text = template.prompt(APPLES.question) + template.response(APPLES)
    assert text == ("Question: How many?\nAnswer:\n2+3 = 5 apples.\n5*2 = 10.\n#### 10")
    assert template.parse(template.response(APPLES)) == (APPLES.steps, "10")


@pytest.mark.parametrize(
    "response, parsed",
    [
        ("", ((), "")),
        ("12", ((), "")),  # never closed
        ("12 ; 36", (("12",), "")),  # cut off: no answer was given
        ("; 36 ;", (("", "36"), "36")),  # an empty step keeps its place
        ("12;36;  ", (("12", "36"), "36")),
    ],
)
def test_symbols_parse_any_response(response: str, parsed: tuple) -> None:
    assert Template().parse(response) == parsed


@pytest.mark.parametrize(
    "response, parsed",
    [
        ("", ((), "")),
        ("no mark\n10", (("no mark",), "")),
        ("a\n####10\nmore #### 11", (("a",), "10")),  # only the first answer counts
        ("a\n####\n10", (("a",), "")),
    ],
)
def test_text_parses_any_response(response: str, parsed: tuple) -> None:
    assert TextTemplate().parse(response) == parsed


@given(st.lists(st.text("ab #", min_size=1).map(str.strip), max_size=4))
def test_parse_inverts_response(steps: list[str]) -> None:
    for template in (Template(), TextTemplate()):
        example = Example("?", tuple(steps), steps[-1] if steps else "", len(steps))
        if isinstance(template, TextTemplate) and any("####" in s for s in steps):
            continue
        expected = (example.steps, example.answer)
        assert template.parse(template.response(example)) == expected


def test_ids_begin_with_bos_and_end_with_eos(tokenizer) -> None:
    # ids of the fixture: ; 4, = 5, digit d is 6 + d; BOS 1, EOS 2
    example = Example("1 =", ("0", "1"), "1", 2)
    prompt, response = Template().encode(tokenizer, example)
    assert prompt == [1, 7, 5]
    assert response == [6, 4, 7, 4, 2]
    assert Template().encode_prompt(tokenizer, "1 =") == prompt


def test_text_goes_through_tokens_and_back() -> None:
    template = TextTemplate()
    tokenizer = from_texts([template.response(APPLES)], 300)
    prompt, response = template.encode(tokenizer, APPLES)
    assert tokenizer.decode(prompt) == "Question: How many?\nAnswer:\n"
    assert template.parse(tokenizer.decode(response)) == (APPLES.steps, "10")
    # each step is closed by the same single token
    assert response.count(tokenizer.id_of("\n")) == len(APPLES.steps)


@pytest.mark.parametrize(
    "template, example, mark",
    [
        (Template(), Example("?", ("1 ; 2",), "2", 1), "';'"),
        (TextTemplate(), Example("?", ("a\nb",), "2", 1), r"'\\n'"),
        (TextTemplate(), Example("?", ("a",), "1 ####2", 1), "'####'"),
    ],
)
def test_a_mark_inside_a_step_is_refused(template, example, mark: str) -> None:
    with pytest.raises(ValueError, match=f"holds the template's own mark {mark}"):
        template.response(example)


def test_steps_need_an_end() -> None:
    with pytest.raises(ValueError, match="step_end is blank"):
        Template(step_end=" ")


def test_an_answer_of_several_lines_stands_between_tags() -> None:
    template = TaggedTemplate()
    example = Example("Fill in:", ("Row by row.", "Done."), "1 2\n3 4", 2)
    text = template.response(example)
    assert text == "Row by row.\nDone.\n<answer>1 2\n3 4</answer>"
    assert template.parse(text) == (example.steps, example.answer)
    assert template.parse(text.removesuffix("</answer>")) == (example.steps, "")
    assert template.parse("Nothing.\n") == (("Nothing.",), "")
    for wrong in (("a\nb",), "1"), (("a",), "1</answer>"):
        with pytest.raises(ValueError, match="the template's own mark"):
            template.response(Example("?", *wrong, 1))
    with pytest.raises(ValueError, match="answer_mark or answer_end is empty"):
        TaggedTemplate(answer_end="")
