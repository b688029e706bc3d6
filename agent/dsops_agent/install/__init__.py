"""Installing: the machine, its journal, slots and transfer, and the worker that drives them."""
