"""What the device reports: read from the host, kept in the spool, uploaded to the DataOps store."""
