rule evaluate:
    input:
        ancient(upstream),
    output:
        receipt("evaluate"),
    log:
        log_file("evaluate"),
    conda:
        "../../environment.yml"
    threads: workflow.cores
    params:
        slice=slice_file,
        run=run_file,
    shell:
        "python -m cogtune evaluate --slice {params.slice} --run {params.run} --receipt {output} --log {log} --plain"
