"""The kernel, one to one. Standard library only; loads in a few milliseconds."""
