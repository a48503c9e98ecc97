"""``python -m ppo_lib``: see :mod:`ppo_lib.run.cli`."""

import sys

from ppo_lib.run.cli import main

if __name__ == "__main__":
    sys.exit(main())
