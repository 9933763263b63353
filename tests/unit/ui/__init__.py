"""Tests of `quaymirror.ui`; a package, so that they can share scenes and strategies."""
