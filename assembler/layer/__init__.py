"""Tree to changeset to blob, and back. Standard library and the compressors only."""
