"""What the training was good for."""


rule sample:
    """
    Videos sampled before and after training, and the controls.

    Input: the trained weights, the captions' T5 states, the VAE.
    Output: a row per video, and mp4 files to look at; the receipt says that they are in the store.
    """
    input:
        ancient(upstream),
    output:
        receipt("sample"),
    log:
        log_file("sample"),
    benchmark:
        benchmark_file("sample")
    conda:
        "../../environment.yml"
    threads: all_cores
    resources:
        mem_mb=needs("mem_mb", "sample"),
        runtime=needs("runtime", "sample"),
        disk_mb=needs("disk_mb", "sample"),
        gpu=needs("gpu", "sample"),
    params:
        slice=slice_file,
        run=run_file,
    shell:
        "python -m cogtune sample --slice {params.slice:q} --run {params.run:q} --receipt {output:q} --log {log:q} --plain"


rule evaluate:
    """
    The metrics: VAE reconstruction, samples against their clips, retrieval and its controls.

    Input: samples, latents, the VAE.
    Output: a row per clip, metrics.json; the receipt says that they are in the store.
    """
    input:
        ancient(upstream),
    output:
        receipt("evaluate"),
    log:
        log_file("evaluate"),
    benchmark:
        benchmark_file("evaluate")
    conda:
        "../../environment.yml"
    threads: all_cores
    resources:
        mem_mb=needs("mem_mb", "evaluate"),
        runtime=needs("runtime", "evaluate"),
        disk_mb=needs("disk_mb", "evaluate"),
        gpu=needs("gpu", "evaluate"),
    params:
        slice=slice_file,
        run=run_file,
    shell:
        "python -m cogtune evaluate --slice {params.slice:q} --run {params.run:q} --receipt {output:q} --log {log:q} --plain"
