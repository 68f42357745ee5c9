rule sample:
    input:
        ancient(upstream),
    output:
        receipt("sample"),
    log:
        log_file("sample"),
    params:
        slice=slice_file,
    threads: workflow.cores
    shell:
        "python -m cogtune sample --slice {params.slice} --receipt {output} --log {log} --plain"
