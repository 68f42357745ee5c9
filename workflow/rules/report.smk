rule report:
    input:
        ancient(upstream),
    output:
        f"{RESULTS}/{{experiment}}/.published-{{key}}",
    log:
        f"{RESULTS}/.logs/report-{{experiment}}-{{key}}.log",
    conda:
        "../../environment.yml"
    threads: 1
    params:
        slice=slice_file,
        run=run_file,
    shell:
        "python -m cogtune report --slice {params.slice:q} --run {params.run:q} --receipt {output:q} --log {log:q} --plain"
