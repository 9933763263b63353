"""What the benchmarks share: a corpus on disk, nginx as Quay and its CDN, a slow link, peers, and measuring."""
