"""Searches written as text: made, checked from the first line to the last, graded."""

from o1jax.data.search_text.spaces import space
from o1jax.data.search_text.strategies import Limits, Trace, search
from o1jax.data.search_text.task import SearchTemplate, SearchText
from o1jax.data.search_text.trees import tree_trace
from o1jax.data.search_text.verify import Verdict, follows, verify

__all__ = [
    "Limits",
    "SearchTemplate",
    "SearchText",
    "Trace",
    "Verdict",
    "follows",
    "search",
    "space",
    "tree_trace",
    "verify",
]
