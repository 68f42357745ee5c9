"""What people look at."""


rule report:
    """
    The page of one experiment, and the files beside it in results/<experiment>/.

    Input: what every stage left in the store.
    Output: report.html, which has a second name for `snakemake --report`; metrics.json, config.yaml and others. The
    marker is written last.
    """
    input:
        ancient(upstream),
    output:
        marker=f"{RESULTS}/{{experiment}}/.published-{{key}}",
        page=report(
            f"{RESULTS}/{{experiment}}/.page-{{key}}.html",
            caption="../report/experiment.rst",
            category="Experiments",
            labels={"experiment": "{experiment}"},
        ),
    log:
        f"{RESULTS}/.logs/report-{{experiment}}-{{key}}.log",
    benchmark:
        f"{RESULTS}/.benchmarks/report-{{experiment}}-{{key}}.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=needs("mem_mb", "report"),
        runtime=needs("runtime", "report"),
        disk_mb=needs("disk_mb", "report"),
    params:
        slice=slice_file,
        run=run_file,
    shell:
        "python -m cogtune report --slice {params.slice:q} --run {params.run:q} --receipt {output.marker:q} --log {log:q} --plain"


rule sweep:
    """
    The page that compares the members of a sweep, in results/<sweep>/.

    Input: the reports of the members.
    Output: report.html, which has a second name for `snakemake --report`; sweep.csv. The marker is written last.
    """
    input:
        ancient(upstream),
    output:
        marker=f"{RESULTS}/{{experiment}}/.compared-{{key}}",
        page=report(
            f"{RESULTS}/{{experiment}}/.comparison-{{key}}.html",
            caption="../report/sweep.rst",
            category="Sweeps",
            labels={"sweep": "{experiment}"},
        ),
    log:
        f"{RESULTS}/.logs/sweep-{{experiment}}-{{key}}.log",
    benchmark:
        f"{RESULTS}/.benchmarks/sweep-{{experiment}}-{{key}}.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=needs("mem_mb", "sweep"),
        runtime=needs("runtime", "sweep"),
        disk_mb=needs("disk_mb", "sweep"),
    params:
        slice=slice_file,
        run=run_file,
    shell:
        "python -m cogtune sweep --slice {params.slice:q} --run {params.run:q} --receipt {output.marker:q} --log {log:q} --plain"
