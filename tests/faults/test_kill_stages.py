"""A short run of the command that kills experiments; the long one is in its own docstring."""

import os
import subprocess
import sys
from pathlib import Path

import recbole_tslrec


def test_killed_runs_end_as_the_unbroken_one():
    command = Path(__file__).with_name("kill_stages.py")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(command), "--kills=3", "--seed=1"],
        env={**os.environ, "PYTHONPATH": str(Path(recbole_tslrec.__file__).parents[1])},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 kills; 0 differences from the unbroken run" in done.stdout
