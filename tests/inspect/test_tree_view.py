"""A drawn tree is whole, fits the screen, and whatever a policy wrote stays text."""

import base64
import hashlib
import json
import re
from html.parser import HTMLParser

import pytest
from rich.cells import cell_len

from o1jax.inspect.tree import draw
from o1jax.inspect.tree_page import page, write_page
from o1jax.search.trace import Trace
from o1jax.types import Spent

HOSTILE = "</script><script>bad()</script><img src=x onerror=bad()><!--\x1b[31m\u202e"


def trace(parent, chosen=0, **fields):
    """The JSON form of a tree, every step `step i`, its visits the subtree's nodes."""
    count = len(parent)
    visits = [1] * count
    for node in range(count - 1, 0, -1):
        visits[parent[node]] += visits[node]
    columns = {
        "action": [-1] + [0] * (count - 1),
        "step": [""] + [f"step {i}" for i in range(1, count)],
        "visits": visits,
        "value": [0.5] * count,
        "raw_value": [0.25] * count,
        "logprob": [-0.125] * count,
        "finished": [False] * count,
        "verdict": [""] * count,
    }
    columns |= {key: fields.pop(key) for key in columns if key in fields}
    columns = {key: tuple(column) for key, column in columns.items()}
    own = {"question": "why ?", "method": "mcts"} | fields
    return Trace(parent=tuple(parent), chosen=chosen, **columns, **own).to_json()


COUNTDOWN = trace(
    [-1, 0, 0, 2, 2, 0],
    chosen=3,
    question="3 5 7 -> 22 :",
    step=[
        "",
        "5 + 3 = 8 , 7 8 ;",
        "5 * 3 = 15 , 7 15 ;",
        "15 + 7 = 22 , 22 ;",
        "15 - 7 = 9 , 9 ;",
        "7 - 5 = 2 , 2 3 ;",
    ],
    visits=[7, 2, 4, 2, 1, 0],
    value=[0.5, 0.25, 0.75, 1.0, 0.0, 0.9],
    logprob=[0.0, -1.5, -0.25, -0.125, -2.5, -3.0],
    finished=[False, False, False, True, True, False],
    verdict=["", "ok", "ok", "ok", "15 - 7 is 8", "ok"],
    answer_verdict="right",
    spent=Spent(1284.0, 0.0, 66.0, 2.5e9),
)


def plain(traced, width=90, **options):
    return draw(traced, width=width, color=False, **options)


def rows(text):
    """The lines of nodes and counts, between the column heads and the legend."""
    return text.split("\n\n")[1].split("\n")[1:]


def test_a_small_tree_line_for_line():
    legend = "● chosen path · ■ finished · ▸n nodes left out · value: mean return"
    assert plain(COUNTDOWN) == "\n".join(
        [
            "3 5 7 -> 22 :",
            "mcts · right · 6 nodes · 1,284 tokens generated · 0 re-read · 66 by the "
            "reward · 2.5 GFLOP",
            "",
            "                              visits   value  log-prob  verdict",
            "● question                         7   0.500         –",  # noqa: RUF001
            "┝━● 5 * 3 = 15 , 7 15 ;            4   0.750    -0.250  ok",
            "│ ┝━● 15 + 7 = 22 , 22 ; ■         2   1.000    -0.125  ok",
            "│ └─  15 - 7 = 9 , 9 ; ■           1   0.000    -2.500  15 - 7 is 8",
            "├─  5 + 3 = 8 , 7 8 ;              2   0.250    -1.500  ok",
            # Nothing was averaged over no visits, so there is no value.
            "└─  7 - 5 = 2 , 2 3 ;              0       –    -3.000  ok",  # noqa: RUF001
            "",
            f"{legend} of the visits",
            "",
        ]
    )


def test_colour_adds_only_colour():
    colored = draw(COUNTDOWN, width=90, color=True)
    assert "\x1b[1;32m│ ┝━● 15 + 7 = 22" in colored
    assert "\x1b[31m15 - 7 is 8\x1b[0m" in colored
    without = re.sub(r"\x1b\[[0-9;]*m", "", colored)
    assert without == plain(COUNTDOWN)


def test_siblings_stand_by_visits_and_then_by_value():
    drawn = plain(trace([-1, 0, 0, 0], visits=[4, 1, 2, 1], value=[0, 0.1, 0, 0.9]))
    assert re.findall("step .", drawn) == ["step 2", "step 3", "step 1"]


def test_of_a_large_tree_the_rest_is_counted():
    # 40 branches of 25 nodes; the last node of the last branch, visited once, is chosen
    parent = [-1, *(0 if i % 25 == 0 else i for i in range(1000))]
    large = trace(parent, chosen=1000)
    for most in (1, 10, 60, 5000):
        lines = rows(plain(large, max_nodes=most))
        shown = [line for line in lines if "step" in line or "question" in line]
        left_out = [re.search(r"▸([\d,]+)|… ([\d,]+) more", line) for line in lines]
        left_out = [found[1] or found[2] for found in left_out if found]
        # The chosen path has 25 steps and is never cut.
        assert len(shown) == min(max(most, 26), 1001)
        counted = sum(int(n.replace(",", "")) for n in left_out)
        assert len(shown) + counted == 1001
        assert sum("●" in line for line in lines) == 26
    # With the path alone, the other 39 branches of 25 visits are left out.
    assert rows(plain(large, max_nodes=1))[-1] == "└─  … 975 more, 975 visits"


def test_the_most_visited_nodes_are_kept():
    # node 1 leads to 3, 4, 5 and node 2 to none: visits 6, 4, 1, 1, 1, 1
    drawn = plain(trace([-1, 0, 0, 1, 1, 1]), max_nodes=2)
    assert [line.split("  ")[1].strip() for line in rows(drawn)[1:]] == [
        "step 1 ▸3",
        "… 1 more, 1 visits",
    ]


@pytest.mark.parametrize("width", [32, 40, 60, 81, 200])
def test_no_line_is_wider_than_the_screen(width):
    wide = trace(
        [-1, *range(29)],
        chosen=29,
        question="足し算 " * 20,
        step=[""] + ["答えは四十二です" * 8] * 29,
        verdict=[""] + ["間違い" * 10] * 29,
    )
    lines = plain(wide, width=width).split("\n")
    assert max(map(cell_len, lines)) <= width
    assert sum("●" in line and "答" in line for line in lines) == 29


def test_a_deep_chain_says_how_deep_it_is():
    lines = rows(plain(trace([-1, *range(1999)], chosen=1999), max_nodes=1))
    assert len(lines) == 2000
    assert re.match(r"1999 ‹ +┕━● step 1999 ", lines[-1])  # noqa: RUF001
    assert all(cell_len(line) <= 90 for line in lines)


def test_a_tree_without_an_answer():
    drawn = plain(trace([-1]))
    assert "nothing was chosen · 1 node ·" in drawn
    assert rows(drawn)[0].startswith("question ")
    assert "●" not in plain(trace([-1, 0]))


def test_the_terminal_obeys_no_step():
    steps = ["", HOSTILE, " \n", ""]
    ends = [False, False, False, True]
    drawn = plain(trace([-1, 0, 1, 1], step=steps, finished=ends, question=HOSTILE))
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f\u202a-\u202e]", drawn)
    assert "(empty)" in drawn and "(end) ■" in drawn


@pytest.mark.parametrize(
    "change, complaint",
    [
        ({"parent": []}, "trace: parent must be a list, of one node or more"),
        ({"parent": [-1, 1, 0]}, "trace: parent[1] is 1, not a node before"),
        ({"parent": [-1, -1, 0]}, "trace: parent[1] is -1, not a node before"),
        ({"value": [0.5]}, "trace: value is not a list of 3, one a node"),
        ({"visits": [3, 1.5, 1]}, "trace: visits[1] is '1.5', not a whole number"),
        ({"visits": [3, -1, 1]}, "trace: visits[1] is below 0"),
        ({"value": [1, True, 1]}, "trace: value[1] is 'True', not a number"),
        ({"step": ["", "a", 3]}, "trace: step[2] is '3', not text"),
        ({"chosen": 3}, "trace: chosen is 3, but there are 3 nodes"),
        ({"question": None}, "trace: question is 'None', not text"),
        ({"spent": {}}, "trace: spent.generated_tokens is '', not a number"),
    ],
)
def test_a_trace_that_cannot_be_drawn(change, complaint):
    with pytest.raises(ValueError) as error:
        draw(trace([-1, 0, 0]) | change, width=80, color=False)
    assert str(error.value) == complaint


def test_what_is_no_trace_at_all():
    broken = trace([-1])
    del broken["visits"]
    with pytest.raises(ValueError, match="trace 1 has no field 'visits'"):
        page([trace([-1]), broken])
    with pytest.raises(ValueError, match="trace 0 is str, not an object"):
        page("[]")
    with pytest.raises(ValueError, match="no traces to draw"):
        page([])
    with pytest.raises(ValueError, match="max_nodes is 0"):
        plain(trace([-1]), max_nodes=0)


class Reader(HTMLParser):
    """Elements of a page, and what its scripts and its style hold."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.blocks = [], {}
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.elements.append((tag, attributes))
        if tag in ("script", "style"):
            self.blocks.setdefault(attributes.get("class", tag), []).append("")

    def handle_data(self, data):
        tag, attributes = self.elements[-1] if self.elements else ("", {})
        if self.cdata_elem == tag:  # inside of a script or a style
            self.blocks[attributes.get("class", tag)][-1] += data

    def ids(self):
        return {attributes.get("id") for _, attributes in self.elements}

    def traces(self):
        return [json.loads(block) for block in self.blocks["trace"]]


def test_a_page_holds_the_traces_unchanged():
    several = [COUNTDOWN, trace([-1, 0], step=["", HOSTILE + "\ud800"])]
    assert Reader(page(several)).traces() == several
    assert Reader(page(COUNTDOWN)).traces() == [COUNTDOWN]


def test_no_text_becomes_markup():
    texts = {"question": HOSTILE, "method": HOSTILE, "step": ["", HOSTILE]}
    hostile = Reader(page(trace([-1, 0], verdict=["", HOSTILE], **texts)))
    harmless = Reader(page(trace([-1, 0])))
    assert hostile.elements == harmless.elements


def test_nothing_but_the_own_script_may_run_and_nothing_load():
    read = Reader(page(COUNTDOWN))
    (policy,) = [a["content"] for t, a in read.elements if "http-equiv" in a]
    for name in ("script", "style"):
        (own,) = read.blocks[name]
        digest = base64.b64encode(hashlib.sha256(own.encode()).digest()).decode()
        assert f"{name}-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none';")
    attributes = {name for _, own in read.elements for name in own}
    assert not attributes & {"src", "href", "style", "onclick", "onload"}


def test_the_script_finds_every_element_it_names():
    read = Reader(page(COUNTDOWN))
    (script,) = read.blocks["script"]
    named = set(re.findall(r'\bat\("(\w+)"\)', script))
    assert len(named) > 10
    assert named <= read.ids()


def test_numbers_that_json_lacks_are_no_numbers():
    odd = trace([-1, 0]) | {"value": [0.5, float("nan")], "logprob": [0, -float("inf")]}
    (read,) = Reader(page(odd)).traces()
    assert (read["value"], read["logprob"]) == ([0.5, None], [0, None])
    assert rows(plain(odd))[1].split() == ["└─", "step", "1", "1", "–", "–"]  # noqa: RUF001


def test_a_page_is_written_whole_or_not_at_all(tmp_path):
    file = tmp_path / "tree.html"
    assert write_page(file, COUNTDOWN) == file
    before = file.read_bytes()
    assert before == page(COUNTDOWN).encode()
    with pytest.raises(ValueError, match="trace 1 is None"):
        write_page(file, [COUNTDOWN, None])
    for place in (tmp_path, tmp_path / "absent" / "tree.html"):
        with pytest.raises(ValueError, match="can't be written"):
            write_page(place, COUNTDOWN)
    assert [*tmp_path.iterdir()] == [file]
    assert file.read_bytes() == before


def test_a_page_of_2000_nodes_is_small():
    # 26 kB of page and about 80 bytes a node of these short steps
    assert len(page(trace([-1, *(i // 3 for i in range(1999))]))) < 200_000
