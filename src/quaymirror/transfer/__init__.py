"""From a source to a target: one blob, one image's graph, and never the same blob twice."""
