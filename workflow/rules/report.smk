rule report:
    input:
        ancient(upstream),
    output:
        f"{RESULTS}/{{experiment}}/.published-{{key}}",
    log:
        f"{RESULTS}/.logs/report-{{experiment}}-{{key}}.log",
    params:
        slice=slice_file,
    threads: 1
    shell:
        "python -m cogtune report --slice {params.slice} --receipt {output} --log {log} --plain"
