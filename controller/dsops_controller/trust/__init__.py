"""Who may approve what: the offline ceremony, the online repository, and the keys of both."""
