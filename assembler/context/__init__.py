"""Where COPY and ADD read."""
