"""HTTP requests to one host, within its limits and without trusting it."""
