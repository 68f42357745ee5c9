"""The workflow of cogtune: a table of contents. Rules are in workflow/rules/, keys are worked out in src/cogtune/plan/."""

from snakemake.utils import min_version

min_version("9.27")


include: "workflow/rules/common.smk"


rule all:
    default_target: True
    input:
        [published(name) for name in WORKSPACE.targets],
        [compared(name) for name in WORKSPACE.sweeps],


for name in WORKSPACE.experiments:

    rule:
        name:
            f"experiment_{name}"
        input:
            published(name),


for name in WORKSPACE.sweeps:

    rule:
        name:
            f"sweep_{name}"
        input:
            compared(name),


include: "workflow/rules/demo.smk"
include: "workflow/rules/scan.smk"
include: "workflow/rules/preprocess.smk"
include: "workflow/rules/latents.smk"
include: "workflow/rules/images.smk"
include: "workflow/rules/text.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/export.smk"
include: "workflow/rules/sample.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/report.smk"
include: "workflow/rules/sweep.smk"
