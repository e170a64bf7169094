"""The distribution specification's client side."""
