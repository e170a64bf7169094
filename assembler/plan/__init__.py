"""Tree to plan: what will happen, complete and serialisable before anything happens. Pure."""
