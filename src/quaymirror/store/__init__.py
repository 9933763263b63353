"""Content-addressed storage on a local disk: blobs, the layout that names them, and what earlier runs knew."""
