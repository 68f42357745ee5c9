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
        "python -m cogtune evaluate --slice {params.slice:q} --run {params.run:q} --receipt {output:q} --log {log:q} --plain"
