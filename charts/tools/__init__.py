"""Makes what is generated in charts/ and manifests/: `python -m charts.tools` (make chart, make manifests)."""
