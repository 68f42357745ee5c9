rule latents:
    input:
        ancient(upstream),
    output:
        receipt("latents"),
    log:
        log_file("latents"),
    params:
        slice=slice_file,
    threads: workflow.cores
    shell:
        "python -m cogtune latents --slice {params.slice} --receipt {output} --log {log} --plain"
