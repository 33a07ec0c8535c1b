"""Tests of libraries that may be missing are collected only where they are."""

import importlib.util

NEEDS = {
    "test_gym_library.py": "reasoning_gym",
    "test_math_library.py": "math_verify",
}
collect_ignore = [
    file for file, library in NEEDS.items() if not importlib.util.find_spec(library)
]
