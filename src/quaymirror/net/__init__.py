"""HTTP as a polite, suspicious guest speaks it: the only importer of aiohttp (`transport`) and tenacity (`retry`)."""
