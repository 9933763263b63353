"""Mirrors carried on media: an inventory of what the receiver has, an export of what it lacks, and the import."""
