rule text:
    input:
        ancient(upstream),
    output:
        receipt("text"),
    log:
        log_file("text"),
    params:
        slice=slice_file,
    threads: workflow.cores
    shell:
        "python -m cogtune text --slice {params.slice} --receipt {output} --log {log} --plain"
