"""The devices: who they are, how they join, what they report."""
