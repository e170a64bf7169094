"""The content-addressed directory every build shares."""
