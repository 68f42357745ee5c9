checkpoint scan:
    output:
        receipt("scan"),
    log:
        log_file("scan"),
    conda:
        "../../environment.yml"
    threads: 1
    params:
        slice=slice_file,
    shell:
        "python -m cogtune scan --slice {params.slice} --receipt {output} --log {log} --plain"
