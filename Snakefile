"""The workflow is in workflow/, where Snakemake's catalog and other projects look for it."""


include: "workflow/Snakefile"


# Snakemake takes a default target from the first file only, and not from one that it includes.
workflow.default_target = "all"
