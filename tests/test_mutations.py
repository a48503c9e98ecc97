"""Every mistake that ``mutations.py`` makes on purpose is noticed by a test."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="mutations are tried in forks, which this system does not have")
def test_the_tests_notice_every_mutation():
    script = Path(__file__).with_name("mutations.py")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
