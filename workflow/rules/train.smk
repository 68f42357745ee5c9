rule train:
    input:
        ancient(upstream),
    output:
        receipt("train"),
    log:
        log_file("train"),
    conda:
        "../../environment.yml"
    threads: workflow.cores
    params:
        slice=slice_file,
    shell:
        "python -m cogtune train --slice {params.slice} --receipt {output} --log {log} --plain"
