"""Layer directories: where changesets live while a process needs directories."""
