"""What training reads instead of videos and captions."""


rule latents:
    """
    The VAE's latents of each clip (mean and variance, so that training draws from them).

    Input: the clips, decoded as preprocess says; the VAE's weights.
    Output: a row per clip; the receipt says that they are in the store.
    """
    input:
        ancient(upstream),
    output:
        receipt("latents"),
    log:
        log_file("latents"),
    benchmark:
        benchmark_file("latents")
    conda:
        "../../environment.yml"
    threads: all_cores
    resources:
        mem_mb=needs("mem_mb", "latents"),
        runtime=needs("runtime", "latents"),
        disk_mb=needs("disk_mb", "latents"),
        gpu=needs("gpu", "latents"),
    params:
        slice=slice_file,
        run=run_file,
    shell:
        "python -m cogtune latents --slice {params.slice:q} --run {params.run:q} --receipt {output:q} --log {log:q} --plain"


rule images:
    """
    Image to video only: noised encodings of each clip's first frame.

    Input: the clips, decoded as preprocess says; the VAE's weights.
    Output: a row per clip, with args.image_noise_draws encodings; the receipt says that they are in the store.
    """
    input:
        ancient(upstream),
    output:
        receipt("images"),
    log:
        log_file("images"),
    benchmark:
        benchmark_file("images")
    conda:
        "../../environment.yml"
    threads: all_cores
    resources:
        mem_mb=needs("mem_mb", "images"),
        runtime=needs("runtime", "images"),
        disk_mb=needs("disk_mb", "images"),
        gpu=needs("gpu", "images"),
    params:
        slice=slice_file,
        run=run_file,
    shell:
        "python -m cogtune images --slice {params.slice:q} --run {params.run:q} --receipt {output:q} --log {log:q} --plain"


rule text:
    """
    The T5 encoder's states of each caption.

    Input: the captions of the scan; T5's weights.
    Output: a row per caption; the receipt says that they are in the store.
    """
    input:
        ancient(upstream),
    output:
        receipt("text"),
    log:
        log_file("text"),
    benchmark:
        benchmark_file("text")
    conda:
        "../../environment.yml"
    threads: all_cores
    resources:
        mem_mb=needs("mem_mb", "text"),
        runtime=needs("runtime", "text"),
        disk_mb=needs("disk_mb", "text"),
        gpu=needs("gpu", "text"),
    params:
        slice=slice_file,
        run=run_file,
    shell:
        "python -m cogtune text --slice {params.slice:q} --run {params.run:q} --receipt {output:q} --log {log:q} --plain"
