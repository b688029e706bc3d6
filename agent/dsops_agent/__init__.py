"""The device side of dsops."""

from dsops_agent.late import postpone

postpone()  # before anything else of the agent is imported, and with it what libraries need not import
