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
        run=run_file,
    shell:
        "python -m cogtune scan --slice {params.slice:q} --run {params.run:q} --receipt {output:q} --log {log:q} --plain"
