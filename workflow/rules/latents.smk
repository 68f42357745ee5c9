rule latents:
    input:
        ancient(upstream),
    output:
        receipt("latents"),
    log:
        log_file("latents"),
    conda:
        "../../environment.yml"
    threads: workflow.cores
    params:
        slice=slice_file,
        run=run_file,
    shell:
        "python -m cogtune latents --slice {params.slice:q} --run {params.run:q} --receipt {output:q} --log {log:q} --plain"
