"""Generated code of the wire contract; see protos/."""
