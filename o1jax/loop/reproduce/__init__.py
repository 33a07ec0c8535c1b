"""Published claims, each redone by one command and checked for its published shape.

In: a claim's name, a tier and a number of seeds. Out: results/CLAIM/ with the report,
the figure, results.json and every prediction. A claim is one module beside this one
(a1.py is the smallest) and a line in registry.py; docs/claims.md says how to write one.
"""
