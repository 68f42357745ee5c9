"""The report: read from the store, written as one HTML file. Nothing here imports torch."""
