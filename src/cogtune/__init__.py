"""cogtune tunes CogVideoX: a Snakemake workflow, and this package under it."""
