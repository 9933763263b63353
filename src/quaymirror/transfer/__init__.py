"""Transfers of images from a source to a target: the graph of an image, its blobs, and no blob twice."""
