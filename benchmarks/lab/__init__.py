"""Parts of the benchmarks: a corpus on disk, nginx as Quay and its CDN, a slow link, other tools, and measuring."""
