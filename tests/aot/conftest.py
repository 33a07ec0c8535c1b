"""Tests that compile for a TPU are collected only where libtpu is."""

import importlib.util
import os

HERE = bool(os.environ.get("TPU_LIBRARY_PATH") or importlib.util.find_spec("libtpu"))
collect_ignore = [] if HERE else ["test_with_libtpu.py"]
