"""Alerts: what is wrong with the fleet, told once while it lasts, and once when it is over."""
