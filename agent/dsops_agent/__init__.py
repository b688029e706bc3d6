"""The device side of dsops."""

import sys

from dsops_agent.late import postpone

# Before anything else of the agent is imported, and only in the agent's own processes: `dsops-agent`, or `python -m`,
# which says so until the module is found. Another program that imports a part of the agent may use all of a library.
if sys.argv and (sys.argv[0] == "-m" or sys.argv[0].endswith("dsops-agent")):
    postpone()
