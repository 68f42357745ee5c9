rule sweep:
    input:
        ancient(upstream),
    output:
        f"{RESULTS}/{{experiment}}/.compared-{{key}}",
    log:
        f"{RESULTS}/.logs/sweep-{{experiment}}-{{key}}.log",
    conda:
        "../../environment.yml"
    threads: 1
    params:
        slice=slice_file,
        run=run_file,
    shell:
        "python -m cogtune sweep --slice {params.slice:q} --run {params.run:q} --receipt {output:q} --log {log:q} --plain"
