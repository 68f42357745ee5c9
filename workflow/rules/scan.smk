checkpoint scan:
    output:
        receipt("scan"),
    log:
        log_file("scan"),
    params:
        slice=slice_file,
    threads: 1
    shell:
        "python -m cogtune scan --slice {params.slice} --receipt {output} --log {log} --plain"
