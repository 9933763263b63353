"""Where images go: an OCI image layout, a registry, or derived images."""
