"""Mirrors as a read-only pull registry, with pages for people.

From the bottom to the top: `published` (the images of an index), `contents` (everything that an image needs), `mirror`
(one mirror that is served, its current and earlier images, and their lease), `registry` (several mirrors under one
address), `content` (bytes), `api` (requests of the distribution protocol), pages, and `server`, the only importer of
aiohttp.web.
"""
