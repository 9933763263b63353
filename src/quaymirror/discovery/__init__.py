"""From a selection to pinned images."""
