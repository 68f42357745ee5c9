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
    shell:
        "python -m cogtune sample --slice {params.slice} --receipt {output} --log {log} --plain"
