rule images:
    input:
        ancient(upstream),
    output:
        receipt("images"),
    log:
        log_file("images"),
    conda:
        "../../environment.yml"
    threads: workflow.cores
    params:
        slice=slice_file,
        run=run_file,
    shell:
        "python -m cogtune images --slice {params.slice:q} --run {params.run:q} --receipt {output:q} --log {log:q} --plain"
