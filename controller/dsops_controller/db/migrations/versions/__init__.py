"""One module a revision. A published revision is never changed."""
