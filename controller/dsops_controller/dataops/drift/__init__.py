"""Drift as the controller sees it: of each device, of the fleet, and of what labels say."""
