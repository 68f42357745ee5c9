rule export:
    input:
        ancient(upstream),
    output:
        receipt("export"),
    log:
        log_file("export"),
    params:
        slice=slice_file,
    threads: 1
    shell:
        "python -m cogtune export --slice {params.slice} --receipt {output} --log {log} --plain"
