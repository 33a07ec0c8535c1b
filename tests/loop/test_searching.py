"""Search from the command line to graded answers, on a finished tiny run."""

import json

import jax
import numpy as np
import pytest

import o1jax.loop.experiment  # noqa: F401  registers every config class
from o1jax.config import load
from o1jax.loop import searching
from o1jax.loop.choosing import preferred, select
from o1jax.loop.compare import Compare
from o1jax.loop.methods import Search
from o1jax.loop.searching import Searcher, last_verdict, worked_size
from o1jax.loop.workdir import Workdir
from o1jax.search.steps import Steps
from o1jax.tasks import Chain

STEPS = Steps(children=2, tokens=3, guide="likelihood")
METHODS = ("best_of_n", "beam", "dvts", "lookahead", "mcts", "retry", "revision")


@pytest.mark.parametrize(
    "how, best",
    [
        ("max", 0),  # the first of the two that are worth 0.9
        ("majority", 3),  # b: 2 visits of 1 and 4; a has 4, c 3
        ("weighted", 0),  # a: 1.8 + 1.0 = 2.8; b: 0.4 + 1.2; c: 2.7
    ],
)
def test_select_by_hand(how, best):
    #        a    c    -    b    a    b
    score = [0.9, 0.9, 0.8, 0.4, 0.5, 0.3]
    visits = [2, 3, 9, 1, 2, 4]
    votes = ["a", "c", None, "b", "a", "b"]
    assert select(how, votes, np.array(score), np.array(visits)) == best


def test_borda_counts_who_is_preferred_not_by_how_much():
    """One head of three is enthusiastic about the first; two prefer the second.

    P(first beats second) = (sigmoid(10) + 2 sigmoid(-2)) / 3 = 0.41, though the mean of
    its scores is 2 and that of the other's is 0.
    """
    scores = np.zeros((2, 4, 3))
    scores[0, 0] = 10, -2, -2
    scores[1] = np.array([2, 3, -50, 1])[:, None]  # heads that agree: their order
    valid = np.array([[True, True, False, False], [True] * 4])
    counts = preferred(scores, valid)
    assert select("borda", ["7", "8"], counts[0, :2], np.ones(2)) == 1
    assert np.argsort(counts[1]).tolist() == [2, 3, 0, 1]


def test_select_without_a_vote_takes_the_most_valued():
    assert select("majority", [None, None], np.array([0.1, 0.2]), np.array([5, 1])) == 1


def test_last_verdict():
    task = Chain(min_steps=2, max_steps=2, modulus=5)
    example = task.parse("1 + 2 * 3")  # 3, 4
    texts = ["", "3", "3 ;", "3 ; 4 ;", "2 ; 4 ;"]
    verdicts = ["", "", "ok", "ok", "follows a wrong step"]
    assert [last_verdict(task, example, text) for text in texts] == verdicts


@pytest.fixture(scope="module")
def trained(finished):
    """(workdir, params, task, examples)"""
    run = Workdir(load(finished.workdir / "config.gin").experiment, finished.workdir)
    task = run.experiment.task
    examples = [task.example(0, "test", i) for i in range(6)]
    return run, run.newest_params(), task, examples


def searched(trained, method, budget=4, key=0, **options):
    run, params, task, examples = trained
    config = Search(method=method, budget=budget, steps=STEPS, **options)
    search = Searcher(run, examples, task, config)
    return search(params, jax.random.key(key))


@pytest.mark.parametrize("method", METHODS)
def test_every_method_answers_and_says_what_it_cost(trained, method):
    found = searched(trained, method)
    _, _, task, examples = trained
    assert len(found.texts) == 6 and found.grades.shape == (6,)
    for example, text, grade, any_right in zip(
        examples, found.texts, found.grades, found.found
    ):
        assert grade == task.grade(example, text)
        assert any_right or not grade  # what is chosen was found
    # No method draws much more than its budget of 4 answers of 5 tokens: a level of
    # steps, or the leaves of an iteration, may be under way.
    drawn = found.spent.generated_tokens
    assert (drawn > 0).all() and (drawn <= 20 + 4 * 3 * 3).all()
    assert not found.exhausted.any()


def test_a_revision_is_an_answer_without_those_that_it_saw(trained):
    run, params, task, examples = trained
    config = Search("revision", budget=8, revisions=3, steps=STEPS)
    searcher, key = Searcher(run, examples, task, config), jax.random.key(1)
    found, decode = searcher(params, key), run.tokenizer.decode
    ((nodes, _),) = searcher.trees(params, key)
    revised = 0
    for b, text in enumerate(found.texts):
        tokens = nodes.store.tokens[b, : nodes.used[b]]
        length = nodes.store.length[b]
        attempts = [decode(row[:n].tolist()) for row, n in zip(tokens, length)]
        assert text in attempts[1:]
        revised += text not in [
            x for x, up in zip(attempts, nodes.parent[b]) if up == 0
        ]
    assert revised  # or no second attempt was ever given


def test_what_is_found_does_not_hang_on_the_chunk_but_on_the_key(trained, monkeypatch):
    for method in ("beam", "mcts"):
        one = searched(trained, method)
        monkeypatch.setattr(searching, "ROWS_AT_ONCE", 8)  # two problems a call
        two = searched(trained, method)
        monkeypatch.undo()
        assert one.texts == two.texts
        np.testing.assert_array_equal(
            one.spent.generated_tokens, two.spent.generated_tokens
        )
        assert searched(trained, method, key=1).texts != one.texts


def test_flops_are_those_of_the_prompt_and_of_every_token(trained):
    one, many = (searched(trained, "best_of_n", budget=n).spent for n in (1, 8))
    # flops = prompt + tokens x price, with the same prompt and price for both.
    extra = many.generated_tokens - one.generated_tokens
    price = (many.flops - one.flops) / extra
    np.testing.assert_allclose(price, price[0], rtol=1e-9)
    prompt = one.flops - one.generated_tokens * price
    np.testing.assert_allclose(prompt, prompt[0], rtol=1e-9)
    # 2 FLOPs a weight of the layers and the head: width 16, one layer, ff 16, vocab 16;
    # attention, norms and the heads come on top.
    weights = 4 * 16 * 16 + 3 * 16 * 16 + 16 * 16
    assert 2 * weights < price[0] < 5 * weights


def test_sizes_are_those_of_worked_examples(trained):
    run, _, task, _ = trained
    # Two steps `r ;` and the end of the text: 3 steps at most, 5 tokens.
    assert worked_size(run, task) == (3, 5.0)


def test_eval_compares_methods_and_draws_them(o1jax, copied):
    args = ["--search", "best_of_n,beam", "--budget", "1,4", "--problems", "5"]
    code, out, err = o1jax("eval", copied, *args, "--guide", "likelihood")
    assert code == 0, err
    folder = copied / "search" / "best_of_n-beam" / "likelihood"
    assert out.startswith((folder / "report.md").read_text())
    assert (folder / "report.png").stat().st_size
    rows = json.loads((folder / "results.json").read_text())["results"]["rows"]
    assert [(row["method"], row["budget"]) for row in rows] == [
        ("best-of-n (likelihood)", 1),
        ("best-of-n (likelihood)", 4),
        ("beam (likelihood)", 1),
        ("beam (likelihood)", 4),
    ]
    lines = (folder / "predictions.jsonl").read_text().splitlines()
    predictions = [json.loads(line) for line in lines]
    for row in rows:
        mine = [
            p
            for p in predictions
            if (p["method"], p["budget"]) == (row["method"], row["budget"])
        ]
        assert len(mine) == 5
        assert row["accuracy"][0] == np.mean([p["grade"] for p in mine])
        assert row["tokens"] == pytest.approx(np.mean([p["tokens"] for p in mine]))
    # The same problems and key: a beam of one survivor and one draw is one sample.
    assert [p["answer"] for p in predictions[:5]] == [
        p["answer"] for p in predictions[10:15]
    ]


def test_ask_draws_the_tree(o1jax, copied, tmp_path):
    page = tmp_path / "tree.html"
    args = ["--search", "mcts", "--budget", "2", "--tree", "--html", page]
    code, out, err = o1jax("ask", copied, "1 + 2 * 3", *args)
    assert code == 0, err
    assert "1 + 2 * 3" in out and "mcts" in out and str(page) in out
    assert page.read_text().lstrip().lower().startswith("<!doctype html>")
    quiet = o1jax("ask", copied, "1 + 2 * 3", "--search", "mcts", "--budget", "2")[1]
    assert len(quiet.splitlines()) <= len(out.splitlines())


@pytest.mark.parametrize(
    "args, message",
    [
        (
            ["eval", "--search", "beam", "--guide", "verifier"],
            "verifier of chain needs the answer",
        ),
        (["eval", "--search", "bean"], "method must be one of best_of_n, beam"),
        (["eval", "--search", "beam", "--guide", "x"], "guide must be one of value"),
        (["eval", "--search", "beam", "--samples", "2"], "use --budget"),
        (["eval", "--budget", "4"], "eval: --budget needs --search METHOD"),
        (["eval", "--search", "beam", "--budget", "4,1"], "budgets must rise"),
        (["ask", "1 + 2", "--tree"], "ask: --tree needs --search METHOD"),
        (["ask", "x", "--search", "mcts"], "expected the form 7 + 5"),
    ],
)
def test_wrong_input_ends_in_one_line(o1jax, finished, args, message):
    command, *rest = args
    code, out, err = o1jax(command, finished.workdir, *rest)
    last = err.splitlines()[-1]
    assert (code, out) == (2, "") and last.startswith("o1jax: error: ")
    assert message in last


@pytest.mark.parametrize(
    "change, message",
    [
        ({"budgets": (4, 4)}, "budgets must rise"),
        ({"budgets": ()}, "must not be empty"),
        ({"problems": 0}, "problems must be at least 1"),
        ({"methods": (Search(), Search())}, "two methods are named 'mcts"),
    ],
)
def test_compare_refuses(change, message):
    with pytest.raises(ValueError, match=message):
        Compare(**change)
