r"""The final answer in a text: a tag, a box, ####, "the answer is", its last line."""

import pytest

from o1jax.tasks.final import MAX_TEXT, find_answer, last_box, plain


@pytest.mark.parametrize(
    "text, answer",
    [
        ("So 6 * 7 = 42\n#### 42\n", "42"),
        ("#### 41\nNo.\n#### 42\nDone.", "42"),
        ("thus <answer>\n1 2\n3 4\n</answer> #### 7", "1 2\n3 4"),
        ("<ANSWER>4</ANSWER> <answer>5", "4"),
        (r"so $x = \boxed{\frac{1}{2}}$. #### 3", r"\frac{1}{2}"),
        (r"\boxed{1} or \boxed{2}", "2"),
        (r"\boxed{\boxed{5}}", "5"),
        (r"\boxed{\text{a\}}}", r"\text{a\}}"),
        ("#### \\boxed{7", "\\boxed{7"),
        ("First, I think.\nThe final answer is: $42$.", "$42$."),
        ("Answer: yes\nAnswer = no", "no"),
        ("The final answer to this arithmetic problem is 15.", "15."),
        ("The answer to the problem of this island: 7", "7"),
        ("My answer to all this", "My answer to all this"),
        ("one\ntwo\n\n", "two"),
        ("", ""),
        ("####", ""),
    ],
)
def test_what_is_marked_most_clearly_counts(text, answer):
    assert find_answer(text) == answer


def test_only_the_end_of_a_long_text_is_read():
    assert find_answer("#### 1\n" + "x" * MAX_TEXT).count("x") == MAX_TEXT
    assert find_answer("{" * 10**6 + "\n#### 4") == "4"
    assert last_box(r"\boxed{" * 5_000) is None


@pytest.mark.parametrize(
    "answer", ["42", " **42**. ", "$42$.", "`42`", '"42"', "'42'.", "42."]
)
def test_what_stands_around_an_answer_goes(answer):
    assert plain(answer) == "42"


def test_a_quote_or_a_point_alone_is_kept():
    assert [plain(x) for x in ('"', "4.2", '["a"]', "it's")] == [
        *('"', "4.2", '["a"]', "it's")
    ]
