"""Stand-ins for gcloud, xpk, kubectl, git and curl that write down each call."""

import os
import shlex
import subprocess
from pathlib import Path

import pytest

LAUNCH = Path(__file__).parents[2] / "launch"

# What a call prints is the next line of a file of its name, where there is one.
STAND_IN = """#!/usr/bin/env bash
tool=${0##*/}
printf '%q ' "$tool" "$@" >> "$CALLS"
echo >> "$CALLS"
case " $* " in
  *" describe "*) script=states ;;
  *o1jax.exit*true*) script=exits ;;
  *" instances list "*) script=machines ;;
  *worker-network-endpoints*) script=endpoints ;;
  *agent-worker-number*) script=number ;;
  *) exit 0 ;;
esac
file=$(dirname "$CALLS")/$script
[[ -f $file ]] || exit 22
if [[ $script == states || $script == exits ]]; then
  head -n 1 "$file"
  sed -i 1d "$file"
else
  cat "$file"
fi
"""


class Cloud:
    """Runs launch scripts with nothing but stand-ins around them."""

    def __init__(self, folder):
        self._folder = folder
        self._bin = folder / "bin"
        self._bin.mkdir()
        for name in ("gcloud", "xpk", "kubectl", "git", "curl"):
            tool = self._bin / name
            tool.write_text(STAND_IN)
            tool.chmod(0o755)

    def says(self, **scripts):
        """What is printed: states and exits a line a call, the others whole."""
        for name, lines in scripts.items():
            (self._folder / name).write_text("".join(f"{line}\n" for line in lines))

    def __call__(self, script, *args, **env):
        """(exit code, stdout, stderr)"""
        done = subprocess.run(
            [LAUNCH / script, *args],
            env=os.environ
            | {
                "PATH": f"{self._bin}:{os.environ['PATH']}",
                "CALLS": str(self._folder / "calls"),
                "HOME": str(self._folder),
                "TMPDIR": str(self._folder),
                "O1JAX_POLL": "0",
                "O1JAX_PYTHON": "true",  # in place of the check
            }
            | env,
            capture_output=True,
            text=True,
        )
        return done.returncode, done.stdout, done.stderr

    @property
    def calls(self):
        """Each command that was called, as a list of its words."""
        file = self._folder / "calls"
        return (
            list(map(shlex.split, file.read_text().splitlines()))
            if file.exists()
            else []
        )


@pytest.fixture
def cloud(tmp_path):
    return Cloud(tmp_path)
