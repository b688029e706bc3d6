"""Revisions of the state database, run by :mod:`dsops_controller.db.migrate`."""
