"""The language of a search as text, and a text cut into its lines.

    trace    = [ header ] , { visit } , ending ;
    header   = ( "<dfs>" | "<bfs>" ) , width , heuristic , ";" ;
    visit    = "<at>" , node , state , ";" , ( { new } | dead ) ;
    new      = "<new>" , node , step , ";" ;
    dead     = "<dead>" , ";" ;
    ending   = "<goal>" , node , ";" , { step , ";" } | "<fail>" , ";" ;
    node     = "#0" | "#1" | ... ;           width = "w1" | ... | "w5" ;
    state, step, heuristic = words of the task, see spaces.py ;

Words are set apart by single blanks. Node #0 is the question; `<new>` makes a child of
the node that the search is at, with the next number. Behind `<goal>` come the steps
from the question to that node: the solution that is graded. After Gandhi et al. 2024,
Stream of Search, arXiv 2404.03683.
"""

from collections.abc import Iterable

from o1jax.data.behaviours.marks import ordinal
from o1jax.tasks.task import STEP_END

DFS, BFS = "<dfs>", "<bfs>"
AT, NEW, DEAD, GOAL, FAIL = "<at>", "<new>", "<dead>", "<goal>", "<fail>"
MARKS = (DFS, BFS, AT, NEW, DEAD, GOAL, FAIL)
WIDTHS = (1, 2, 3, 4, 5)


def header(mark: str, width: int, heuristic: str) -> str:
    return f"{mark} w{width} {heuristic}"


def at(node: int, shown: str) -> str:
    return f"{AT} {ordinal(node)} {shown}".rstrip()


def new(node: int, step: str) -> str:
    return f"{NEW} {ordinal(node)} {step}"


def goal(node: int) -> str:
    return f"{GOAL} {ordinal(node)}"


def response(lines: Iterable[str]) -> str:
    """The lines, each closed."""
    return " ".join(f"{line} {STEP_END}" for line in lines)


def words(line: str) -> int:
    """Words of a line, its STEP_END included."""
    return line.count(" ") + 2


def symbols(nodes: int, heuristics: Iterable[str]) -> list[str]:
    """Words that a search may use besides the task's, with `nodes` nodes at most."""
    widths = [f"w{width}" for width in WIDTHS]
    return [*MARKS, *widths, *heuristics, *map(ordinal, range(nodes))]
