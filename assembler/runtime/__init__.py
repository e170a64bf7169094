"""What executes a RUN. One seam, several runtimes, the same bytes from each."""
