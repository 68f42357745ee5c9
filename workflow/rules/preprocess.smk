rule preprocess:
    input:
        ancient(upstream),
    output:
        receipt("preprocess"),
    log:
        log_file("preprocess"),
    params:
        slice=slice_file,
    threads: workflow.cores
    shell:
        "python -m cogtune preprocess --slice {params.slice} --receipt {output} --log {log} --plain"
