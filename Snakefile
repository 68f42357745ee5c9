"""The workflow of cogtune: a table of contents. Rules are in workflow/rules/, keys are worked out in src/cogtune/plan/."""

from snakemake.utils import min_version

min_version("9.27")


report: "workflow/report/workflow.rst"


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
include: "workflow/rules/data.smk"
include: "workflow/rules/encode.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/report.smk"
