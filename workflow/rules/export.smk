rule export:
    input:
        ancient(upstream),
    output:
        receipt("export"),
    log:
        log_file("export"),
    conda:
        "../../environment.yml"
    threads: 1
    params:
        slice=slice_file,
        run=run_file,
    shell:
        "python -m cogtune export --slice {params.slice:q} --run {params.run:q} --receipt {output:q} --log {log:q} --plain"
