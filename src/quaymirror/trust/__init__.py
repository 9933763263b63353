"""Signatures of images, judged by a policy (containers-policy.json); nothing here makes a request."""
