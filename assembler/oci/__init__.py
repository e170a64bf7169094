"""The image specification's nouns. Pure: no files, no network, no clock."""
