"""Labels of samples: who gave them, how far they agree, which cases they cover."""
