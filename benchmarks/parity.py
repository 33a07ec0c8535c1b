"""Redoes the golden files of published models with the installed transformers.

In: nothing but the project's environment; torch and transformers get one of their own
under .venv-bench. Out: every family's logits and greedy tokens, computed anew on random
models, agree with o1jax's (tests/models/test_parity.py), or the exit code is not 0.
With --write they replace the committed ones.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import environments

HERE = Path(__file__).resolve().parent
TESTS = HERE.parent / "tests" / "models"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="keep the new files")
    write = parser.parse_args().write
    python = environments.ensure("transformers", HERE.parent / ".venv-bench")
    with tempfile.TemporaryDirectory() as folder:
        offline = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
        made = [str(python), str(TESTS / "golden.py"), folder]
        subprocess.run(made, check=True, env=offline)
        test = [sys.executable, "-m", "pytest", str(TESTS / "test_parity.py")]
        golden = os.environ | {"O1JAX_GOLDEN": folder}
        code = subprocess.run(test, env=golden).returncode
        if write and not code:
            shutil.rmtree(TESTS / "golden")
            shutil.copytree(folder, TESTS / "golden")
    return code


if __name__ == "__main__":
    sys.exit(main())
