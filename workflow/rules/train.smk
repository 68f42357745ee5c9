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
        run=run_file,
    shell:
        "python -m cogtune train --slice {params.slice} --run {params.run} --receipt {output} --log {log} --plain"
