"""Manifests that belong to images: signatures, attestations, SBOMs, found by digest tags and the referrers API."""
