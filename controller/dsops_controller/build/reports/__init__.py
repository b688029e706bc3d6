"""What a build found, for programs and for people."""
