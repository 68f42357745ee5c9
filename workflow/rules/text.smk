rule text:
    input:
        ancient(upstream),
    output:
        receipt("text"),
    log:
        log_file("text"),
    conda:
        "../../environment.yml"
    threads: workflow.cores
    params:
        slice=slice_file,
        run=run_file,
    shell:
        "python -m cogtune text --slice {params.slice:q} --run {params.run:q} --receipt {output:q} --log {log:q} --plain"
