"""``python -m nodes.cli`` is the command ``swarm``."""

from __future__ import annotations

import sys

from nodes.cli import main

sys.exit(main())
