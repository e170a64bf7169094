"""HTTP: one client, one policy."""
