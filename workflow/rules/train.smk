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
        "python -m cogtune train --slice {params.slice:q} --run {params.run:q} --receipt {output:q} --log {log:q} --plain"
