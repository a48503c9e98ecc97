"""``python -m ppo_lib``: see :mod:`ppo_lib.run.cli`."""

import sys

from ppo_lib.run.cli import main

if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:  # while torch and transformers are imported; later main says what was stopped
        print("ppo_lib: stopped before anything began", file=sys.stderr)
        sys.exit(130)
