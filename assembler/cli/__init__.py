"""The command line: the only place that prints, exits, and knows exit statuses."""
