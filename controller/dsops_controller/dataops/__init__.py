"""The DataOps store: an inbox in the state database, Delta Lake tables for history, queries over both."""
