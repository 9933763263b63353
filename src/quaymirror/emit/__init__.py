"""The only importer of occystrap: a staged image passes its filters and outputs in a worker process.

occystrap blocks, prints and logs; it is imported by `pipeline` and `guard` only, and never outside of a worker.
"""
