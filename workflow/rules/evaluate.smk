rule evaluate:
    input:
        ancient(upstream),
    output:
        receipt("evaluate"),
    log:
        log_file("evaluate"),
    params:
        slice=slice_file,
    threads: workflow.cores
    shell:
        "python -m cogtune evaluate --slice {params.slice} --receipt {output} --log {log} --plain"
