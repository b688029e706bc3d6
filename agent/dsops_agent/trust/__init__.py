"""Trust on the device: TUF metadata kept durably, and what it says."""
