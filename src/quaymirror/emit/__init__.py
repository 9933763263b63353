"""The door to occystrap: a staged image goes through its filters and outputs, in a worker process.

Its modules block, print, and log as they like; none of them is imported outside the worker, and occystrap itself only
by `pipeline`.
"""
