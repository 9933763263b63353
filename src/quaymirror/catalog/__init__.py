"""Which repositories and tags a source has."""
