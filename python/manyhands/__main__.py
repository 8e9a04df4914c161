"""``python -m manyhands``: the same as the command ``manyhands``."""

from __future__ import annotations

import sys

from manyhands._command_line import main

if __name__ == "__main__":
    sys.exit(main())
