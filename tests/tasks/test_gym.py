"""Families of reasoning-gym as tasks, on a stand-in for the library (standin/)."""

import pytest
from gym_standin import standin

from o1jax.tasks import SPLITS, Gym, Task, gym
from o1jax.tasks.gym_process import harmless
from o1jax.tasks.worker import Worker


@pytest.fixture(scope="module", autouse=True)
def worker():
    with standin() as worker:
        yield worker


def test_it_is_a_task_with_worked_answers():
    task = Gym("sums")
    assert isinstance(task, Task) and task.name == "gym-sums"
    example = task.example(0, "train", 0)
    a, b = map(int, example.question.removesuffix("=").split("+"))
    assert example.question == f"{a} + {b} ="
    assert example.answer == str(a + b)
    assert example.steps == (f"{a} and {b} make", f"{a + b} in all.")
    assert task.grade(example, f"So it is\n#### {a + b}") == 1.0
    assert task.state_value(example, ["anything"]) is None
    assert task.check_steps(example, "anything") == [] == task.symbols()


def test_a_question_is_a_function_of_seed_split_and_index(worker):
    task, other = Gym("sums"), Worker(gym.PROCESS)
    first = [task.example(0, "test", i) for i in range(6)]
    numbers = [example.hidden for example in reversed(first)]
    again = other.batch([("make", "sums", [], number) for number in numbers])
    questions = [reply.value["question"].strip() for reply in again]
    assert questions == [example.question for example in reversed(first)]
    assert task.example(1, "test", 0) != first[0] != task.example(0, "valid", 0)
    # The words of these questions are a set, whose order depends on the process.
    made = other("make", "graph_color", [], 3), worker("make", "graph_color", [], 3)
    assert made[0] == made[1]
    other.close()


def test_splits_share_no_question_though_numbers_repeat_questions():
    """With 0 to 4 there are 25 questions: they come again, but in one split only."""
    task = Gym("sums", options=(("largest", 4),))
    asked = {
        split: {task.example(0, split, i).question for i in range(60)}
        for split in SPLITS
    }
    assert asked["train"] and asked["test"]
    assert len(set.union(*asked.values())) == sum(map(len, asked.values())) <= 25


def test_half_an_answer_and_garbage_earn_nothing():
    task = Gym("sums")
    example = task.example(0, "train", 0)
    for text, score in (
        ("garbage", 0.09),
        (f"<answer>{example.answer} x</answer>", 0.5),
    ):
        assert task.score(example, text) == score
        assert task.grade(example, text) == 0.0
    assert task.grade(example, "") == task.score(example, "") == 0.0
    assert Gym("sums", threshold=0.5).grade(example, f"#### {example.answer}.5") == 1.0
    assert task.grade(example, f"The answer is **{example.answer}**.") == 1.0


def test_a_scorer_that_fails_or_hangs_gives_nothing(worker):
    task = Gym("graph_color")
    example = task.numbered(5)
    assert example.answer == '{"0": 5}'  # not a text there
    assert task.grade(example, "#### five") == 0.0  # int("five") raises
    assert task.grade(example, "hang") == 0.0
    assert task.grade(example, "#### 5") == 1.0


def test_scorers_that_can_be_deceived_are_replaced():
    coin, example = Gym("coin_flip"), Gym("coin_flip").numbered(1)
    assert [coin.grade(example, text) for text in ("0", "1/4", "0.26", "x")] == [
        *(0.0, 1.0, 0.0, 0.0)
    ]
    story, example = Gym("gsm_symbolic"), Gym("gsm_symbolic").numbered(1)
    texts = ("12", "12.0 apples", "$12.", "12 or 7", "1,2", "-12", "many")
    assert [story.grade(example, text) for text in texts] == [1, 1, 1, 0, 0, 0, 0]
    puzzle, example = Gym("puzzle24"), Gym("puzzle24").numbered(1)
    texts = ("6*2*2*1", "(2+2)*6*1", "24", "6*4", "6*2*2*1*1", "6*2*2+1-1")
    assert [puzzle.grade(example, text) for text in texts] == [1, 1, 0, 0, 0, 0]


def test_no_answer_is_evaluated_unless_it_is_a_formula():
    task = Gym("simple_integration")
    assert task.numbered(3) is None  # its worked answer is an integral: no answer
    example = task.numbered(2)
    assert task.grade(example, "<answer>exp(x) + C</answer>") == 1.0
    assert task.grade(example, "<answer>__import__('os').abort()</answer>") == 0.0
    for text in (
        *("open('/tmp/x','w')", "x.diff", "().__class__", "eval(chr(1))", "x;y"),
        *("Integral(exp(x), x)", "lambda: 1", "[1 for x in y]", "x**\u00b2"),
    ):
        assert not harmless(text), text
    for text in ("-3*sin(x + 8)**4/4 + C", "0.5*x**2", "log(x)/2.5", "x^2"):
        assert harmless(text), text


def test_a_question_is_asked_by_its_number():
    task = Gym("sums")
    assert task.parse(" #3 ") == task.example(0, "test", 3)
    with pytest.raises(ValueError, match=r"gym-sums asks its own .* '#12'"):
        task.parse("1 + 1 =")
    with pytest.raises(ValueError, match="gym-sums: the question's number is not"):
        task.grade(gym.Example("1 + 1 =", (), "2", 0), "2")


@pytest.mark.parametrize(
    "task, complaint",
    [
        (Gym("summs"), r"reasoning-gym has no family 'summs'; did you mean sums\?"),
        (
            Gym("sums", options=(("biggest", 4),)),
            "gym-sums, question [0-9]+: TypeError.*'biggest'",
        ),
    ],
)
def test_a_mistake_is_one_line(task, complaint):
    with pytest.raises(ValueError, match=complaint) as error:
        task.example(0, "train", 0)
    assert "\n" not in str(error.value)


def test_knobs_are_checked():
    with pytest.raises(ValueError, match=r"threshold must be in \(0, 1\], got 0"):
        Gym(threshold=0)
    with pytest.raises(ValueError, match="options: 'seed' is set elsewhere"):
        Gym(options=(("seed", 4),))
    with pytest.raises(ValueError, match="options: a value is a list, write a tuple"):
        Gym(options=(("operators", ["+", "-"]),))
