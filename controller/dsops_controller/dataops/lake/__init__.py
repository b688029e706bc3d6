"""The lake: Delta tables of everything that devices reported, in a folder or an object store."""
