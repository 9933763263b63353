"""What a person or a program sees of a run: consumers of `quaymirror.events`, which nothing below depends on.

Import the module that is needed: only `dashboard` imports rich, and a run in a log should not pay for it.
"""
