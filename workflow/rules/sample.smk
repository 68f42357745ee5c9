rule sample:
    input:
        ancient(upstream),
    output:
        receipt("sample"),
    log:
        log_file("sample"),
    conda:
        "../../environment.yml"
    threads: workflow.cores
    params:
        slice=slice_file,
        run=run_file,
    shell:
        "python -m cogtune sample --slice {params.slice:q} --run {params.run:q} --receipt {output:q} --log {log:q} --plain"
