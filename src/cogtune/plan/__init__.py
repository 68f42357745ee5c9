"""From experiments to slices: what the main process works out before any job runs. No torch, no snakemake."""
