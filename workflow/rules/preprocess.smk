rule preprocess:
    input:
        ancient(upstream),
    output:
        receipt("preprocess"),
    log:
        log_file("preprocess"),
    conda:
        "../../environment.yml"
    threads: workflow.cores
    params:
        slice=slice_file,
        run=run_file,
    shell:
        "python -m cogtune preprocess --slice {params.slice:q} --run {params.run:q} --receipt {output:q} --log {log:q} --plain"
