"""The OCI distribution protocol, spoken to any registry."""
