"""Every test, and every notebook that nbval runs, uses the setting in which the notebooks were stored."""

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT))

from scripts.execute_notebooks import ENVIRONMENT  # noqa: E402

# A value set from outside wins: the notebooks must also pass with one thread.
os.environ.update({key: os.environ.get(key) or value for key, value in ENVIRONMENT.items()})
# Kernels that nbval starts run beside the notebook; they use the library as it stands here.
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))


def pytest_sessionstart(session):
    """Measure coverage of the tests alone: nbval's own measuring inside kernels leaves kernels without an answer."""
    session.config.option.cov_source = None
