rule train:
    input:
        ancient(upstream),
    output:
        receipt("train"),
    log:
        log_file("train"),
    params:
        slice=slice_file,
    threads: workflow.cores
    shell:
        "python -m cogtune train --slice {params.slice} --receipt {output} --log {log} --plain"
