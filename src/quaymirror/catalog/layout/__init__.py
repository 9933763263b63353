"""OCI image layouts as sources: directories, and `oci-archive` tar files, of quaymirror and of other tools."""
