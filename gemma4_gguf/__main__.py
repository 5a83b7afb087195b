"""Entry point of `python -m gemma4_gguf`: the command line."""

from __future__ import annotations

import sys

from gemma4_gguf.cli.main import main

sys.exit(main())
