"""``python -m dsops_agent`` is ``dsops-agent``."""

import sys

from dsops_agent.cli import main

sys.exit(main())
