"""`python -m gemma4_gguf` is the command line."""

from __future__ import annotations

import sys

from gemma4_gguf.cli.main import main

sys.exit(main())
